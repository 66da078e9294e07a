"""Weights of jaxlft give its flow; the reference was computed with the authors' code at L = 6."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from equiflow import EquivariantCNF, FactorisedConvField, Lattice, Phi4, fit, importance_sample
from equiflow.interop import load_jaxlft
from equiflow.interop.jaxlft import NAMES, orbit_labels, quicksort_order
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import assert_equivariant, assert_vector_field
from tests.support.strategies import configurations

FILE = Path(__file__).parents[1] / "data" / "jaxlft_reference_L6.npz"
#: of the labels that kernel_d4's rule gives with numpy 1.26 and its argsort, rolled to offset 0, int64
DIGESTS = {
    5: "ed84b559fae82d52",
    6: "06c0cded5b7c8fcf",
    8: "dfb728ef0970713d",
    10: "c590c54b30ba39a6",
    11: "08832f4c6ef4d99d",
    12: "6404a251720337ee",
    13: "05b1c9e531d9cc9f",
    14: "88bf945af8afbc5c",
    16: "32e6a30dde9acbea",
    20: "c550278baf14b810",
    32: "96010e977f5eed2a",
    64: "0366595f10e8be7c",
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def parameters(
    n_orbits: int, *, n_frequencies: int = 4, bonds: tuple[int, int] = (3, 2), n_times: int = 5, seed: int = 0
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed).standard_normal
    return {
        "phi_freq": 1 + draw(n_frequencies) ** 2,
        "freq_superpos": draw((bonds[0], n_frequencies + 1)),
        "time_superpos": draw((bonds[1], n_times)),
        "w": draw((n_orbits, *bonds)),
    }


def velocity_by_sum(p: dict[str, np.ndarray], labels: np.ndarray, phi: np.ndarray, t: float) -> np.ndarray:
    """The vector field of arXiv:2207.00283 as a sum over offsets, one configuration."""
    n_times, n_features = p["time_superpos"].shape[1], p["freq_superpos"].shape[1]
    harmonics = np.arange(1, (n_times - 1) // 2 + 1)
    times = np.concatenate([np.sin(2 * np.pi * harmonics * t), np.cos(2 * np.pi * harmonics * t), [1.0]])
    kernels = p["w"] @ (p["time_superpos"] @ times / n_times)
    features = np.stack([*np.sin(np.multiply.outer(p["phi_freq"], phi)), phi], -1)
    bonds = features @ p["freq_superpos"].T / n_features
    total = np.zeros_like(phi)
    for offset in np.ndindex(labels.shape):
        total += np.roll(bonds, offset, tuple(range(phi.ndim))) @ kernels[labels[offset]]
    return total


def errors(reference: dict[str, Tensor], flow: EquivariantCNF) -> dict[str, float]:
    """Largest differences from what jaxlft computed."""
    phi, found = reference["phi"], dict.fromkeys(("velocity", "divergence"), 0.0)
    for t, *expected in zip(reference["t"], reference["velocity"], reference["divergence"], strict=True):
        computed = flow.vector_field.velocity_and_divergence(phi, t)
        for name, ours, theirs in zip(found, computed, expected, strict=True):
            found[name] = max(found[name], float((ours - theirs).abs().max()))
    moved, log_det = flow.transform_and_log_det(phi)
    found["flow"] = float((moved - reference["flow_phi"]).abs().max())
    found["log_q"] = float((log_det + reference["flow_log_q_change"]).abs().max())
    return found


@torch.no_grad()
def test_it_is_the_flow_of_the_original(reference):
    flow = load_jaxlft(FILE)
    assert flow.lattice.shape == (6, 6)
    assert flow.dtype == torch.float64
    assert max(errors(reference, flow).values()) < 1e-13
    flow.vector_field = FactorisedConvField(flow.lattice, convolution="fourier").double()
    flow.vector_field.load_state_dict(load_jaxlft(FILE).vector_field.state_dict())
    assert max(errors(reference, flow).values()) < 1e-13


def swap_orbits(p: dict[str, np.ndarray]) -> None:
    p["w"][[3, 4]] = p["w"][[4, 3]]


def linear_first(p: dict[str, np.ndarray]) -> None:
    p["freq_superpos"] = np.roll(p["freq_superpos"], 1, 1)


def cosines_first(p: dict[str, np.ndarray]) -> None:
    p["time_superpos"][:, :20] = np.roll(p["time_superpos"][:, :20], 10, 1)


def one_bond_more(p: dict[str, np.ndarray]) -> None:
    p["w"] *= 21 / 20


@torch.no_grad()
@pytest.mark.parametrize("mistake", [swap_orbits, linear_first, cosines_first, one_bond_more])
def test_each_convention_matters(reference, mistake: Callable[[dict[str, np.ndarray]], None]):
    arrays = {name: reference[f"param/{name}"].numpy().copy() for name in NAMES}
    mistake(arrays)
    found = errors(reference, load_jaxlft(arrays))
    assert min(found["velocity"], found["flow"]) > 1e-6


@torch.no_grad()
def test_torchdiffeq_s_rk4_is_another_formula(reference):
    flow = load_jaxlft(FILE)
    flow.solver = type(flow.solver)("rk4", steps=50)
    assert errors(reference, flow)["log_q"] > 1e-8


@pytest.mark.parametrize("side", DIGESTS)
def test_orbits_are_numbered_as_there(side):
    labels = orbit_labels(Lattice((side, side)))
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16] == DIGESTS[side]
    half = side // 2 + 1
    assert int(labels.max()) + 1 == half * (half + 1) // 2


def test_the_order_is_quicksort_s_and_not_a_stable_one():
    values = np.random.default_rng(0).integers(0, 20, 300)
    order = quicksort_order(values.tolist())
    assert sorted(order) == list(range(300))
    assert (np.diff(values[order]) >= 0).all()
    assert order != np.argsort(values, kind="stable").tolist()


@torch.no_grad()
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 2), (5, 5), (7, 7), (8, 8), (12, 12), (5,), (3, 3, 3), (4, 4, 4)]
)
def test_other_sizes_and_dimensions(shape):
    lattice = Lattice(shape)
    labels = orbit_labels(lattice)
    arrays = parameters(int(labels.max()) + 1)
    flow = load_jaxlft(arrays, lattice=lattice)
    phi = configurations(lattice)
    for t in (0.0, 0.3, 1.0):
        expected = [velocity_by_sum(arrays, labels.numpy(), one, t) for one in phi.numpy()]
        torch.testing.assert_close(flow.vector_field.velocity(phi, t), torch.from_numpy(np.stack(expected)))
    assert_vector_field(flow.vector_field)


@pytest.mark.parametrize(("n_orbits", "side"), [(1, 1), (3, 2), (6, 4), (10, 6), (28, 12), (153, 32)])
def test_the_number_of_orbits_tells_the_even_side(n_orbits, side):
    assert load_jaxlft(parameters(n_orbits)).lattice.shape == (side, side)


def test_the_published_size_has_as_many_parameters_as_published():
    field = FactorisedConvField(Lattice((32, 32)))
    assert sum(p.numel() for p in field.parameters()) == 62_669


@torch.no_grad()
def test_another_numbering_can_be_given():
    lattice = Lattice((10, 10))
    own = orbit_labels(lattice)
    swap = torch.arange(21)
    swap[[14, 15]] = swap[[15, 14]]
    other, arrays = swap[own], parameters(21)
    renumbered = arrays | {"w": arrays["w"][swap]}
    phi = configurations(lattice)
    expected = load_jaxlft(arrays).vector_field.velocity(phi, 0.3)
    for given in (other.roll((5, 5), (0, 1)).numpy(), other.roll((5, 5), (0, 1)).tolist()):
        flow = load_jaxlft(renumbered, orbits=given)
        torch.testing.assert_close(flow.vector_field.velocity(phi, 0.3), expected)
    assert (load_jaxlft(renumbered).vector_field.velocity(phi, 0.3) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"w": None}, {}, "w missing"),
        ({"w": np.zeros((11, 3, 2))}, {}, "11 orbits.*10 belong to L = 6 and 7, 15 to L = 8 and 9"),
        ({}, {"lattice": Lattice((8, 8))}, "has 15 orbits, w has 10: w fits L = 6 and 7"),
        ({}, {"lattice": Lattice((6, 8))}, "equal sides"),
        ({"w": np.zeros((10, 2, 3))}, {}, "do not fit each other"),
        ({"w": np.zeros((10, 6))}, {}, "do not fit each other"),
        ({"w": np.zeros((0, 3, 2))}, {}, "do not fit each other"),
        ({"phi_freq": np.ones(5)}, {}, "do not fit each other"),
        ({"time_superpos": np.zeros((2, 4))}, {}, "an odd number"),
        ({"phi_freq": np.full(4, np.nan)}, {}, "phi_freq must hold finite"),
        ({"phi_freq": np.arange(4)}, {}, "phi_freq must hold finite floating-point"),
        ({"phi_freq": np.zeros(4)}, {}, "phi_freq has a zero"),
        ({}, {"orbits": np.zeros((6, 6), int)}, "orbits must number the 10 orbits"),
        ({}, {"orbits": np.arange(36).reshape(6, 6)}, "orbits must number the 10 orbits"),
        ({}, {"orbits": np.arange(10)}, "orbits must number the 10 orbits"),
        # Offset 0 at site 0 instead of the centre.
        ({}, {"orbits": orbit_labels(Lattice((6, 6))).numpy()}, "orbits must number the 10 orbits"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change, options, message):
    arrays = {k: v for k, v in (parameters(10) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_jaxlft(arrays, **options)


def test_a_haiku_dictionary_and_single_precision():
    arrays = {name: value.astype(np.float32) for name, value in parameters(10).items()}
    flow = load_jaxlft({"phi4_cnf/~": arrays})
    assert flow.dtype == torch.float32
    assert flow.sample(2).dtype == torch.float32
    assert torch.equal(flow.vector_field.features.omega, torch.from_numpy(arrays["phi_freq"]))


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("single-L6.npz", params=np.array({"~": RunsCode()}, dtype=object))
    with pytest.raises(CheckpointError, match=r"holds pickled objects.*np\.savez"):
        load_jaxlft("single-L6.npz")
    assert not Path("code-was-run").exists()


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, fraction):
    path, data = tmp_path / "damaged.npz", FILE.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(CheckpointError, match=r"damaged\.npz cannot be read"):
        load_jaxlft(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_jaxlft(tmp_path / "nothing.npz")


@torch.no_grad()
def test_it_is_saved_resized_and_symmetric(tmp_path):
    flow = load_jaxlft(FILE)
    flow.save(tmp_path / "flow.pt")
    phi = configurations(flow.lattice)
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    assert_equivariant(flow.vector_field)
    # On a field of period 6 twice the lattice gives the same velocity: kernels carry over by offset.
    larger = flow.resized(Lattice((12, 12))).vector_field.velocity(phi.repeat(1, 2, 2), 0.3)
    torch.testing.assert_close(larger, flow.vector_field.velocity(phi, 0.3).repeat(1, 2, 2))


def test_it_trains():
    lattice = Lattice((4, 4))
    action = Phi4(lattice, m2=-4.0, lam=8.0)
    field = FactorisedConvField(lattice, n_frequencies=8, n_feature_bonds=4, n_harmonics=1, n_time_bonds=3)
    flow = EquivariantCNF(lattice, vector_field=field)
    before = importance_sample(flow, action, 1024, certify=0).effective_sample_size()
    fit(flow, action, steps=40, batch_size=64, learning_rate=2e-2)
    after = importance_sample(flow, action, 1024, certify=0).effective_sample_size()
    assert after.mean > 0.8 > before.mean
