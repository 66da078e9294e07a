"""Files of trajectories: what was written is read, and what is no trajectory is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiflow import HMC, Hamiltonian, HarmonicChain, Lattice
from equiflow.interop import load_trajectories, save_samples
from equiflow.runtime.storage import CheckpointError


def random_states(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def test_states_of_numpy_are_read(tmp_path):
    states = random_states((7, 4, 2, 3))
    np.save(tmp_path / "states.npy", states)
    np.savez(tmp_path / "states.npz", states=states)
    np.savez(tmp_path / "parts.npz", q=states[..., 0, :], p=states[..., 1, :])
    for name in ("states.npy", "states.npz", "parts.npz"):
        assert torch.equal(load_trajectories(tmp_path / name), torch.from_numpy(states))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(np.float32, torch.float32), (np.float16, torch.float32), (np.int64, torch.float64)],
)
def test_numbers_of_any_precision_become_floats(tmp_path, kind, expected):
    states = (4 * random_states((5, 2, 3))).astype(kind)
    np.save(tmp_path / "states.npy", states)
    found = load_trajectories(tmp_path / "states.npy")
    assert found.dtype == expected
    assert np.array_equal(found.numpy(), states.astype(found.numpy().dtype))


def test_a_chain_of_states_is_read(tmp_path):
    chain = HMC(Hamiltonian(HarmonicChain(Lattice((3,))))).sample(
        4, n_chains=2, n_thermalisation=1, generator=torch.Generator().manual_seed(0)
    )
    save_samples(chain, tmp_path / "chain.npz")
    found = load_trajectories(tmp_path / "chain.npz")
    assert found.shape == (4, 2, 2, 3)
    assert torch.equal(found, chain.samples)


def test_files_that_hold_something_else_are_named(tmp_path):
    path = tmp_path / "wrong.npz"
    np.savez(path, q=random_states((5, 3)), v=random_states((5, 3)))
    with pytest.raises(ValueError, match="has the arrays q, v; expected q and p"):
        load_trajectories(path)
    np.savez(path, q=random_states((5, 3)), p=random_states((5, 4)))
    with pytest.raises(ValueError, match=r"q of shape \(5, 3\) and momenta p of shape \(5, 4\)"):
        load_trajectories(path)
    np.savez(path, states=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="expected real numbers"):
        load_trajectories(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trajectories(path)
    with pytest.raises(FileNotFoundError):
        load_trajectories(tmp_path / "absent.npy")
    (tmp_path / "states.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        load_trajectories(tmp_path / "states.txt")


def test_loading_runs_no_code(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trajectories(path)
