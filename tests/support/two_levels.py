"""A trained flow on 3 x 3 sites whose coarse solver is far off, and many small ensembles of two levels."""

from __future__ import annotations

import functools

import torch

from equiflow import EquivariantCNF, Lattice, Phi4, Solver, importance_sample
from equiflow.flows.solved import with_solver
from equiflow.samplers import Correction, Ensemble, TwoLevels

ACTION = Phi4(Lattice((3, 3)), m2=-4.0, lam=6.0)
FINE = Solver("rk5", steps=6)
#: its log Z is off by 0.28 and its phi^2 by 0.009, with a spread of the error of log w of 0.31
COARSE = Solver("midpoint", steps=2)
#: fine enough for errors of many small ensembles
CHEAPER = Solver("rk5", steps=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def trained() -> EquivariantCNF:
    """Return a flow with an ESS of 0.98, which the packaged flow of a larger lattice is on this one."""
    flow = EquivariantCNF.pretrained("phi4-2d-L8").resized(Lattice((3, 3))).double()
    flow.solver = FINE
    return flow


def draw(n: int = 200, *, share: float = 0.2, seed: int = 0, certify: int = 0, **options: object) -> Ensemble:
    """Draw an ensemble of two levels."""
    levels = TwoLevels(COARSE, fine_share=share)
    options = {"levels": levels, "certify": certify, "generator": generator(seed)} | options
    return importance_sample(trained(), ACTION, n, **options)


@functools.cache
def replicas(n_replicas: int, n_pairs: int, n_others: int) -> list[Ensemble]:
    """Return independent ensembles, all drawn at once; in each, the pairs are the last samples."""
    levels = TwoLevels(COARSE, CHEAPER, fine_share=1.0)
    twice = draw(n_replicas * n_pairs, levels=levels, seed=1, batch_size=10_000)
    coarse = with_solver(trained(), COARSE)
    once = importance_sample(
        coarse, ACTION, n_replicas * n_others, certify=0, batch_size=10_000, generator=generator(2)
    )
    fine, made = twice.correction, []
    assert fine is not None
    rows = torch.arange(n_others, n_others + n_pairs)
    for k in range(n_replicas):
        a, b = slice(k * n_others, (k + 1) * n_others), slice(k * n_pairs, (k + 1) * n_pairs)
        parts = [
            torch.cat([getattr(once, name)[a], getattr(twice, name)[b]])
            for name in ("phi", "log_q", "log_weight")
        ]
        pairs = Correction(
            rows, fine.phi[b], fine.log_q[b], fine.log_weight[b], fine.coarse, fine.fine, 4, 24
        )
        made.append(Ensemble(*parts, correction=pairs, space=ACTION.space))
    return made
