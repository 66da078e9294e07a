"""A compiled flow gives the results of the uncompiled one, and still works if compilation fails."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from equiflow import (
    EquivariantCNF,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    PotentialField,
    Solver,
    fused,
)
from equiflow.runtime.compilation import Compiled
from equiflow.testing import randomise
from equiflow.vector_fields import VectorField
from tests.support.strategies import configurations, small_flow


def small_field(kind: type[VectorField], lattice: Lattice, **options: object) -> VectorField:
    own = {"n_frequencies": 2} if kind is OrbitConvField else {"n_channels": 2, "n_ridges": 4}
    return kind(lattice, n_time_modes=2, **own, **options)


def twins(
    lattice: Lattice, kind: type[VectorField] = PotentialField, **options: object
) -> list[EquivariantCNF]:
    flows = []
    for compiled in (False, True):
        field = small_field(kind, lattice, **options)
        flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=3), compile=compiled)
        randomise(flow.double(), scale=0.1)
        flows.append(flow)
    return flows


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "convolution", "size"),
    [
        (OrbitConvField, "dense", None),
        (OrbitConvField, "fourier", None),
        (OrbitConvField, "direct", 3),
        (PotentialField, "dense", None),
        (PotentialField, "fourier", None),
    ],
)
def test_a_velocity_compiles_without_a_graph_break(kind, convolution, size):
    field = small_field(kind, Lattice((4, 4)), kernel_size=size, convolution=convolution)
    randomise(field.double())
    phi, t = configurations(field.lattice), torch.tensor(0.3, dtype=torch.float64)
    field.velocity_and_divergence(phi, t)  # caches constants
    for gradients in (False, True):
        torch._dynamo.reset()
        with torch.set_grad_enabled(gradients):
            assert torch._dynamo.explain(field.velocity_and_divergence)(phi, t).graph_break_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OrbitConvField, PotentialField])
@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_a_compiled_flow_is_the_same_flow(kind, convolution):
    lattice = Lattice((4, 4))
    action, objective = Phi4(lattice, m2=-4.0, lam=8.0), PathGradient(solver=Solver("rk5", steps=2))
    results = []
    for flow in twins(lattice, kind, convolution=convolution):
        generator = torch.Generator().manual_seed(0)
        objective(flow, action, 5, generator).surrogate.backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            objective(flow, action, 5, generator).surrogate.backward()
        gradients = torch.cat([p.grad.flatten() for p in flow.parameters()])
        results.append([gradients, *flow.sample_and_log_prob(7, generator=generator)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_more_flows_than_torch_compiles_of_one_function():
    phi = configurations(Lattice((4, 4)))
    for seed in range(torch._dynamo.config.recompile_limit + 2):
        flow = twins(Lattice((4, 4)))[1]
        randomise(flow.vector_field, seed=seed)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            first, second = (flow.transform_and_log_det(phi)[0] for _ in range(2))
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


class Uncompilable:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + float(x.sum().item() > 0)


def fails_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, **options: object) -> object:
        def call(*arguments: object) -> object:
            raise RuntimeError("No C++ compiler\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)


def test_where_compiling_fails_it_warns_once_and_goes_on(monkeypatch):
    fails_to_compile(monkeypatch)
    function = Uncompilable()
    compiled, x = Compiled(function), torch.ones(3)
    assert torch.equal(compiled(x), x + 1)
    with pytest.warns(UserWarning, match="No C\\+\\+ compiler. Leave out compile=True"):
        assert torch.equal(compiled(x), x + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(x), x + 1)
    assert function.calls == 3


def test_wrong_arguments_are_no_failure_of_the_compiler(monkeypatch):
    fails_to_compile(monkeypatch)
    compiled = Compiled(lambda x: x.reshape(3))
    compiled(torch.ones(3))
    with pytest.raises(RuntimeError, match="invalid for input of size 4"):
        compiled(torch.ones(4))


def test_a_flow_without_compiler_is_the_same_flow(monkeypatch):
    fails_to_compile(monkeypatch)
    eager, compiled = twins(Lattice((4, 4)))
    z = configurations(Lattice((4, 4)))
    with torch.no_grad(), pytest.warns(UserWarning, match="runs uncompiled, as correct and slower"):
        result = compiled.transform_and_log_det(z)
    with torch.no_grad(), fused.switched(False):
        expected = eager.transform_and_log_det(z)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_compiling_is_no_part_of_what_is_saved(tmp_path):
    flow = twins(Lattice((4, 4)))[1]
    flow.save(tmp_path / "flow.pt")
    assert not EquivariantCNF.load(tmp_path / "flow.pt").compiled
    again = EquivariantCNF.load(tmp_path / "flow.pt", compile=True)
    assert again.compiled
    assert again.resized(Lattice((6, 6))).compiled
    assert copy.deepcopy(again).compiled


def test_copies_of_a_compiled_function_are_their_own(monkeypatch):
    fails_to_compile(monkeypatch)
    flow = twins(Lattice((4, 4)))[1]
    z = configurations(flow.lattice)
    with pytest.warns(UserWarning, match="uncompiled"):
        expected = flow.transform_and_log_det(z)[0].detach()
    twin = copy.deepcopy(flow)
    randomise(flow, seed=5)
    with pytest.warns(UserWarning, match="uncompiled"):
        torch.testing.assert_close(twin.transform_and_log_det(z)[0].detach(), expected, rtol=0, atol=0)


def test_compile_is_a_choice():
    with pytest.raises(TypeError, match="compile must be of type bool"):
        EquivariantCNF(Lattice((4, 4)), compile="yes")
    assert not small_flow((4, 4)).compiled
