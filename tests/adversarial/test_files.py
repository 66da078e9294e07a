"""Weights and files that were cut, flipped, swapped or made up are refused or harmless."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow import (
    CheckpointError,
    EquivariantCNF,
    ReverseKL,
    StandardNormal,
    SymmetryGroup,
    fit,
)
from equiflow.runtime.precision import default_dtype
from equiflow.runtime.storage import save_atomically
from equiflow.samplers import Chain
from tests.support.adversarial import ACTION, RK4, SHORT, SQUARE, everything, same, weights
from tests.support.strategies import configurations, flows, seeds, small_flow


@settings(max_examples=10)
@given(flow=flows(solver=RK4), seed=seeds)
def test_weights_go_to_float32_and_back(flow, seed):
    phi = configurations(flow.lattice, 2, seed)
    exact = {name: value.clone() for name, value in flow.state_dict().items()}
    expected = flow.log_prob(phi).detach()
    single = copy.deepcopy(flow).float()
    single.load_state_dict(exact)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    rounded = {name: value.float().double() for name, value in exact.items()}
    double = single.double()
    assert same(list(double.state_dict().values()), list(rounded.values()))
    torch.testing.assert_close(double.log_prob(phi).detach(), expected, rtol=1e-4, atol=1e-4)
    double.load_state_dict(exact)
    # Nothing but the weights carries a dtype that could have been lost on the way.
    assert torch.equal(double.log_prob(phi).detach(), expected)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "more frequencies": ({"n_frequencies": 3}, "vector_field.features.omega"),
    "more time modes": ({"n_time_modes": 3}, "vector_field.kernel.weight"),
    "smaller kernel": ({"kernel_size": 1}, "vector_field.kernel.weight"),
    "without Z2": ({"group": SymmetryGroup(SQUARE, z2=False)}, "vector_field.drift"),
    "white prior": ({"prior": StandardNormal(SQUARE)}, "prior.log_sigma"),
}


@pytest.mark.parametrize(("options", "key"), OTHERS.values(), ids=OTHERS)
def test_weights_of_another_architecture_are_refused_by_name(options, key, tmp_path):
    flow, other = small_flow(solver=RK4), small_flow(solver=RK4, **options)
    with pytest.raises(RuntimeError, match=key.replace(".", r"\.")):
        other.load_state_dict(flow.state_dict())
    save_atomically(
        {"kind": "flow", **flow.to_dict(), "state_dict": other.state_dict()}, tmp_path / "flow.pt"
    )
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        EquivariantCNF.load(tmp_path / "flow.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel_size", [None, 2])
def test_a_flow_is_loaded_in_its_own_dtype_whatever_the_default(dtype, default, kernel_size, tmp_path):
    flow = small_flow(kernel_size=kernel_size, solver=RK4).to(dtype)
    flow.save(tmp_path / "flow.pt")
    with default_dtype(default):
        loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    assert loaded.dtype == dtype
    assert same(everything(loaded), everything(flow))


def signature(flow: EquivariantCNF) -> list[Tensor]:
    phi = configurations(flow.lattice, 2, dtype=flow.dtype)
    return [*flow.state_dict().values(), flow.log_prob(phi).detach()]


def written(content: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_atomically(content, Path(folder) / "file.pt")
        return (Path(folder) / "file.pt").read_bytes()


def load_bytes(data: bytes) -> EquivariantCNF:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pt"
        path.write_bytes(data)
        return EquivariantCNF.load(path)


@pytest.fixture(scope="module")
def saved() -> tuple[EquivariantCNF, bytes]:
    flow = small_flow(solver=RK4)
    return flow, written({"kind": "flow", **flow.to_dict()})


@settings(max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_flow_cut_anywhere_is_refused(saved, cut):
    _, data = saved
    with pytest.raises(CheckpointError, match="cannot be read as an equiflow flow"):
        load_bytes(data[: int(cut * len(data))])


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flow_with_one_byte_changed_is_refused_or_the_same(saved, place, flip):
    flow, data = saved
    damaged = bytearray(data)
    damaged[int(place * len(data))] ^= flip
    try:
        loaded = load_bytes(bytes(damaged))
    except CheckpointError:
        return
    assert same(signature(loaded), signature(flow))
    assert (loaded.solver, loaded.group) == (flow.solver, flow.group)


@settings(max_examples=30)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x89HDF"]))
def test_bytes_made_up_are_refused(data, prefix):
    with pytest.raises(CheckpointError):
        load_bytes(prefix + data)


def leaves(content: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where every entry of nested dictionaries is, weights left out."""
    for key, value in content.items():
        if key not in ("kind", "state_dict", "flow", "optimiser"):
            yield (*where, key)
            if isinstance(value, dict):
                yield from leaves(value, (*where, key))


DELETED = object()


def with_entry(content: dict[str, Any], where: tuple[str, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    inner = changed
    for key in where[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[where[-1]]
    else:
        inner[where[-1]] = value
    return changed


#: of no use to any entry
NONSENSE = (None, -1, "nonsense", [], {"a": 1}, b"x", 1 + 2j, math.nan, [-3, 3], torch.zeros(2), DELETED)
RECIPE = sorted(leaves({"kind": "flow", **small_flow(solver=RK4).to_dict()}))


@pytest.mark.parametrize("where", RECIPE, ids=".".join)
def test_nonsense_in_any_entry_of_a_recipe_is_refused_or_harmless(saved, where):
    flow, _ = saved
    content = {"kind": "flow", **flow.to_dict()}
    for value in NONSENSE:
        try:
            loaded = load_bytes(written(with_entry(content, where, value)))
        except CheckpointError:
            continue
        assert same(signature(loaded), signature(flow)), value
        assert (loaded.solver, loaded.group) == (flow.solver, flow.group), value
        assert loaded.to_dict().keys() == flow.to_dict().keys()


IMPOSSIBLE = {
    "dtype half": (("dtype",), "float16"),
    "dtype bfloat16": (("dtype",), "bfloat16"),
    "dtype complex": (("dtype",), "complex128"),
    "dtype integer": (("dtype",), "int64"),
    "dtype no dtype": (("dtype",), "Tensor"),
    "another dtype": (("dtype",), "float32"),
    "a side of 2^70": (("lattice",), [2**70, 3]),
    "sides of 2^40": (("lattice",), [2**40, 2**40]),
    "negative sides": (("lattice",), [-3, -3]),
    "2^70 frequencies": (("vector_field", "config", "n_frequencies"), 2**70),
    "2^70 time modes": (("vector_field", "config", "n_time_modes"), 2**70),
    "unknown solver": (("solver", "method"), "leapfrog"),
    "negative steps": (("solver", "steps"), -4),
    "adaptive with steps": (("solver", "method"), "dopri5"),
    "adjoint in words": (("solver", "adjoint"), "yes"),
    "unknown group": (("vector_field", "group", "point"), "D17"),
    "z2 in words": (("vector_field", "group", "z2"), "yes"),
    "a field of another kind": (("vector_field", "name"), "FreeField"),
    "a prior of another kind": (("prior", "name"), "OrbitConvField"),
    "os.system": (("vector_field", "name"), "os.system"),
    "tensors for a field": (("vector_field",), torch.zeros(2)),
}


@pytest.mark.parametrize(("where", "value"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_entries_are_refused(saved, where, value):
    content = {"kind": "flow", **saved[0].to_dict()}
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        load_bytes(written(with_entry(content, where, value)))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.long(),
        lambda w: w.to(torch.complex128),
        lambda w: w.float(),
        lambda w: w[:0],
        lambda w: w.flatten().tolist(),
        lambda w: w.to("meta"),
        lambda w: None,
    ],
    ids=["integers", "complex", "float32", "empty", "list", "meta", "none"],
)
def test_weights_of_another_kind_are_refused(saved, change):
    content = {"kind": "flow", **saved[0].to_dict()}
    for name in content["state_dict"]:
        weight = change(content["state_dict"][name])
        changed = content | {"state_dict": content["state_dict"] | {name: weight}}
        with pytest.raises(CheckpointError, match=r"does not describe a flow|cannot be read"):
            load_bytes(written(changed))


@pytest.fixture(scope="module")
def interrupted() -> dict[str, Any]:
    """The checkpoint after the first of two steps."""

    class StopError(Exception):
        pass

    class Stopping:
        calls = 0

        def __repr__(self) -> str:
            return repr(ReverseKL())

        def __call__(self, *args: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise StopError
            return ReverseKL()(*args)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pt"
        options = SHORT | {"checkpoint": path, "checkpoint_every": 1}
        with pytest.raises(StopError):
            fit(small_flow(solver=RK4), ACTION, objective=Stopping(), **options)
        return torch.load(path, weights_only=True)


def resume(content: dict[str, Any] | bytes) -> tuple[EquivariantCNF, dict[str, list[float]] | None]:
    """The flow and the record of a run that goes on from a checkpoint; no record if that was refused."""
    flow = small_flow(solver=RK4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pt"
        path.write_bytes(content if isinstance(content, bytes) else written(content))
        try:
            history = fit(flow, ACTION, objective=ReverseKL(), checkpoint=path, **SHORT)
        except CheckpointError:
            return flow, None
    return flow, {name: column for name, column in history.to_dict().items() if name != "seconds"}


ENTRIES = (
    "settings", "step", "flow", "optimiser", "generator", "history",
    "settings.steps", "settings.seed", "settings.objective",
    "history.loss", "history.step", "history.nfe", "history.seconds",
    "optimiser.state", "optimiser.param_groups",
)  # fmt: skip


@pytest.mark.parametrize("where", ENTRIES)
def test_nonsense_in_a_training_checkpoint_is_refused_and_leaves_the_flow_alone(interrupted, where):
    flow, record = resume(interrupted)
    assert record is not None
    assert len(record["step"]) == 2
    for value in (*NONSENSE, 10**6):
        found, history = resume(with_entry(interrupted, tuple(where.split(".")), value))
        if history is None:
            assert same(weights(found), weights(small_flow(solver=RK4))), value
        else:
            assert same(weights(found), weights(flow)), value
            assert history == record, value


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_a_damaged_training_checkpoint_is_refused_or_the_same(interrupted, place, flip):
    data = bytearray(written(interrupted))
    position = int(place * len(data))
    damaged = data[:position] if flip == 0 else data
    if flip:
        damaged[position] ^= flip
    found, history = resume(bytes(damaged))
    if history is not None:
        flow, record = resume(interrupted)
        assert same(weights(found), weights(flow))
        assert history == record


def test_a_training_checkpoint_is_no_flow_and_a_flow_no_training_checkpoint(saved, interrupted, tmp_path):
    with pytest.raises(CheckpointError, match=r"not an equiflow flow; it holds 'training'"):
        load_bytes(written(interrupted))
    assert resume(saved[1])[1] is None
    save_atomically({**interrupted, "kind": "flow"}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(tmp_path / "run.pt")
    save_atomically({"kind": "training", **saved[0].to_dict()}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"does not|checkpoint"):
        fit(small_flow(solver=RK4), ACTION, checkpoint=tmp_path / "run.pt", **SHORT)


def test_chains_refuse_to_be_averaged_over_bad_values():
    chain = Chain(torch.full((8, 2, 3, 3), math.nan), torch.ones(8, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        chain.mean(lambda phi: phi.sum((1, 2)))
