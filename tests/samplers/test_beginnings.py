"""What the memory cannot hold is refused before a sample is drawn, with the numbers."""

from __future__ import annotations

import pytest
import torch

from equiflow import (
    HMC,
    EquivariantCNF,
    IndependenceMetropolis,
    Lattice,
    Phi4,
    Solver,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.interop import sample_shards
from equiflow.runtime import capacity

LATTICE = Lattice((4, 4))
ACTION = Phi4(LATTICE, m2=-4.0, lam=6.0)
#: bytes of a sample in float64, which is there twice for a moment
BYTES = 2 * 8 * (16 + 2)
N = 1000


def flow():
    return EquivariantCNF(LATTICE, solver=Solver("euler", steps=1)).double()


USES = {
    "HMC": lambda n, folder: HMC(ACTION, step_size=0.1).sample(n // 10, n_chains=10, n_thermalisation=0),
    "importance_sample": lambda n, folder: importance_sample(flow(), ACTION, n, certify=2),
    "annealing": lambda n, folder: annealed_importance_sample(flow(), ACTION, n, betas=2, certify=2),
    "independent proposals": lambda n, folder: IndependenceMetropolis(flow(), ACTION).sample(
        n // 10, n_chains=10, certify=2
    ),
    "shards": lambda n, folder: sample_shards(flow(), ACTION, n, folder, n_shards=1, certify=2),
}


@pytest.mark.parametrize("use", USES)
def test_samples_beyond_the_memory_are_refused_and_those_within_are_drawn(use, monkeypatch, tmp_path):
    monkeypatch.setattr(capacity, "free_memory", lambda device="cpu": N * BYTES)
    with pytest.raises(ValueError, match=r"1010 samples of 16 numbers in float64 need at least .* of memory"):
        USES[use](N + 10, tmp_path / "ensemble")
    assert not (tmp_path / "ensemble").exists()
    USES[use](N, tmp_path / "ensemble")


def test_a_count_beyond_every_memory_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match=r"samples of 16 numbers in float64 need at least .* PB"):
        HMC(ACTION).sample(10**9, n_chains=10**9)
    with pytest.raises(ValueError, match=r"in float32 need at least .* PB"):
        HMC(ACTION).sample(10**9, n_chains=10**9, dtype=torch.float32)
