"""The example of slow modes, on systems small enough for a test."""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from equiflow.flows import CanonicalFlow

EXAMPLE = Path(__file__).parents[2] / "examples" / "slow_modes.py"
pytest.importorskip("matplotlib")


@pytest.fixture
def run(monkeypatch, tmp_path) -> Callable[..., dict]:
    """Run the example in this process; its results."""

    def run_it(*arguments: str) -> dict:
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments, "--out", str(out)])
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        finally:
            torch.set_default_dtype(default)
        assert (out / "modes.png").stat().st_size > 5000
        assert CanonicalFlow.load(out / "flow.pt").latent_frequencies().dim() == 1
        return json.loads((out / "results.json").read_text())

    return run_it


def states_of_chain(n: int, count: int) -> np.ndarray:
    """Independent states of a chain with fixed ends at beta = 1."""
    noise = np.random.default_rng(0).normal(size=(count, 2, n))
    stiffness = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    factor = np.linalg.cholesky(np.linalg.inv(stiffness))
    return np.stack([noise[:, 0] @ factor.T, noise[:, 1]], 1)


def test_a_chain_with_fixed_ends(run, capsys):
    found = run(
        "--system",
        "chain",
        "--n",
        "3",
        "--ends",
        "fixed",
        "--steps",
        "200",
        "--samples",
        "256",
        "--learning-rate",
        "0.05",
    )
    assert found["exact"] == pytest.approx([2 * math.sin(k * math.pi / 8) for k in (1, 2, 3)])
    assert found["frequencies"] == sorted(found["frequencies"])
    assert found["frequencies"] == pytest.approx(found["exact"], rel=0.3)
    assert len(found["overlaps"]) == 3
    exact = sum(math.log(omega / (2 * math.pi)) for omega in found["exact"])
    assert found["minus_log_z_bound"] > exact - 4 * found["minus_log_z_bound_error"]
    assert "relative error" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [("chain", "--ends", "periodic", "--n", "4"), ("phi4", "--n", "3")],
    ids=["periodic", "phi4"],
)
def test_other_chains(run, arguments):
    found = run("--system", *arguments, "--steps", "3", "--samples", "64")
    assert len(found["frequencies"]) == len(found["exact"])
    assert found["exact"] == sorted(found["exact"])
    assert all(0 <= overlap <= 1 + 1e-6 for overlap in found["overlaps"])


def test_a_ring(run):
    found = run("--system", "ring", "--steps", "2", "--samples", "64", "--batch-size", "16")
    assert found["exact"] is None
    assert len(found["frequencies"]) == 2
    assert 0 <= found["slow_latent_explained_by_angle"] <= 1


def test_trajectories_are_learned_from(run, tmp_path):
    np.save(tmp_path / "states.npy", states_of_chain(3, 2000))
    found = run(
        "--n",
        "3",
        "--steps",
        "200",
        "--samples",
        "64",
        "--learning-rate",
        "0.05",
        "--trajectories",
        str(tmp_path / "states.npy"),
    )
    assert found["learned_from"] == "trajectories"
    assert found["frequencies"] == pytest.approx(found["exact"], rel=0.3)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((50, 3)), "expected (..., 2, 3): positions and momenta"),
        (np.zeros((50, 2, 4)), "expected (..., 2, 3)"),
        (np.full((50, 2, 3), np.nan), "NaN or infinite"),
        (None, "No such file"),
    ],
    ids=["no momenta", "other n", "not finite", "absent"],
)
def test_trajectories_of_another_shape_are_refused(run, tmp_path, capsys, states, message):
    if states is not None:
        np.save(tmp_path / "states.npy", states)
    with pytest.raises(SystemExit) as raised:
        run("--n", "3", "--steps", "1", "--trajectories", str(tmp_path / "states.npy"))
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--system", "chain", "--ends", "periodic", "--pinning", "0"), "centre of mass"),
        (("--n", "0"), "0"),
        (("--beta", "0"), "beta must be positive"),
    ],
)
def test_impossible_systems_are_refused(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        run(*arguments, "--steps", "1")
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
