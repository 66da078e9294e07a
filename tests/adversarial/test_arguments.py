"""Arguments of the wrong kind, shape or form are refused by name or change nothing."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from equiflow import (
    HMC,
    EquivariantCNF,
    FreeField,
    IndependenceMetropolis,
    Lattice,
    OrbitConvField,
    Phi4,
    ReverseKL,
    Solver,
    StandardNormal,
    SymmetryGroup,
    fit,
    importance_sample,
)
from tests.support.adversarial import ACTION, CALLS, REFUSED, RK4, SHORT, SQUARE, generator, tensors
from tests.support.strategies import configurations, flows, seeds, small_flow

MISUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no sides": (lambda: Lattice(()), "at least one side"),
    "a side of zero": (lambda: Lattice((3, 0)), "each at least 1"),
    "a tuple for the lattice of a flow": (lambda: EquivariantCNF((3, 3)), "Lattice"),
    "a tuple for the lattice of a field": (lambda: OrbitConvField((3, 3)), "Lattice"),
    "a tuple for the lattice of a prior": (lambda: FreeField((3, 3)), "Lattice"),
    "a tuple for the lattice of a group": (lambda: SymmetryGroup((3, 3)), "Lattice"),
    "a tuple for the lattice of an action": (lambda: Phi4((3, 3), m2=1.0, lam=1.0), "Lattice"),
    "a name for a field": (lambda: EquivariantCNF(SQUARE, vector_field="OrbitConvField"), "VectorField"),
    "a class for a field": (lambda: EquivariantCNF(SQUARE, vector_field=OrbitConvField), "VectorField"),
    "a name for a prior": (lambda: EquivariantCNF(SQUARE, prior="FreeField"), "Prior"),
    "a class for a prior": (lambda: EquivariantCNF(SQUARE, prior=FreeField), "Prior"),
    "a name for a solver": (lambda: EquivariantCNF(SQUARE, solver="rk4"), "Solver"),
    "a name for a group": (lambda: OrbitConvField(SQUARE, group="D4"), "SymmetryGroup"),
    "a name for a prior's group": (lambda: FreeField(SQUARE, group="D4"), "SymmetryGroup"),
    "a list of groups": (lambda: SymmetryGroup(SQUARE, ["D4"]), "point group"),
    "a word for z2": (lambda: SymmetryGroup(SQUARE, z2="no"), "z2"),
    "a flag for a kernel": (lambda: OrbitConvField(SQUARE, kernel_size=True), "kernel_size"),
    "half a frequency": (lambda: OrbitConvField(SQUARE, n_frequencies=1.5), "n_frequencies"),
    "half a time mode": (lambda: OrbitConvField(SQUARE, n_time_modes=1.5), "mode"),
    "an infinite frequency": (lambda: OrbitConvField(SQUARE, max_frequency=math.inf), "max_frequency"),
    "a word for a mass": (lambda: FreeField(SQUARE, m2="1"), "m2"),
    "a word for a coupling": (lambda: Phi4(SQUARE, m2=1.0, lam="1"), "number"),
    "a word for adjoint": (lambda: Solver(adjoint="no"), "adjoint"),
    "a word for a tolerance": (lambda: Solver(rtol="small"), "rtol"),
    "a list of methods": (lambda: Solver(["rk4"]), "method"),
    "steps without end": (lambda: Solver(max_steps=None), "max_steps"),
    "a function for an action (HMC)": (lambda: HMC(lambda phi: phi.sum()), "Action"),
    "a step that is no number": (lambda: HMC(ACTION, step_size=math.nan), "step_size"),
    "an infinite step": (lambda: HMC(ACTION, step_size=math.inf), "step_size"),
    "an endless trajectory": (lambda: HMC(ACTION, trajectory_length=math.inf), "trajectory_length"),
    "a function for an action (fit)": (lambda: fit(small_flow(), lambda phi: phi.sum(), **SHORT), "Action"),
    "a field for a flow (fit)": (lambda: fit(OrbitConvField(SQUARE), ACTION, **SHORT), "Flow"),
    "half a step (fit)": (lambda: fit(small_flow(), ACTION, **SHORT | {"steps": 1.5}), "steps"),
    "an infinite rate (fit)": (lambda: fit(small_flow(), ACTION, learning_rate=math.inf, **SHORT), "rate"),
    "a number for a generator": (lambda: small_flow().sample(2, generator=3), "Generator"),
}


@pytest.mark.parametrize(("call", "expected"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_refused_by_name(call, expected):
    with pytest.raises(REFUSED, match=expected):
        call()


COUNTED: dict[str, Callable[[Any], object]] = {
    "importance": lambda n: importance_sample(small_flow(solver=RK4), ACTION, n, certify=0),
    "metropolis": lambda n: IndependenceMetropolis(small_flow(solver=RK4), ACTION).sample(n),
    "hmc": lambda n: HMC(ACTION).sample(n, n_chains=2, n_thermalisation=1),
    "hmc chains": lambda n: HMC(ACTION).sample(2, n_chains=n, n_thermalisation=1),
}


@pytest.mark.parametrize("call", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("n", [-1, 2.0, "3", None, True])
def test_what_is_no_count_is_refused(call, n):
    with pytest.raises(REFUSED, match=r"n_samples|n_chains"):
        call(n)


def strided(phi: Tensor) -> Tensor:
    big = torch.full((2 * len(phi), *phi.shape[1:], 3), math.nan, dtype=phi.dtype)
    big[::2, ..., 1] = phi
    return big[::2, ..., 1]


def inference(phi: Tensor) -> Tensor:
    with torch.inference_mode():
        return phi.clone()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": strided,
    "batch last in memory": lambda phi: phi.movedim(0, -1).contiguous().movedim(-1, 0),
    "requires_grad": lambda phi: phi.clone().requires_grad_(),
    "not a leaf": lambda phi: phi.clone().requires_grad_() * 1.0,
    "made in inference mode": inference,
    "a view of one row": lambda phi: phi[:1].expand(phi.shape),
    "a parameter": lambda phi: torch.nn.Parameter(phi.clone()),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=4)
@given(flow=flows(solver=RK4), seed=seeds)
def test_the_form_of_a_field_changes_nothing(form, flow, seed):
    phi = configurations(flow.lattice, 2, seed)
    phi = phi[:1].repeat(2, *[1] * flow.lattice.dim) if form is FORMS["a view of one row"] else phi
    given_field = form(phi)
    kept = given_field.detach().clone()
    for call in CALLS.values():
        expected = tensors(call(flow, phi))
        # Autograd saves no tensor made in inference mode, and says so.
        with torch.no_grad() if given_field.is_inference() else contextlib.nullcontext():
            found = tensors(call(flow, given_field))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(given_field.detach(), kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("adjoint", [False, True])
def test_the_mode_of_autograd_changes_no_value(mode, adjoint):
    flow = small_flow(solver=Solver("rk4", steps=4, adjoint=adjoint))
    phi = configurations(SQUARE)

    def results() -> list[Tensor]:
        found = [part for call in CALLS.values() for part in tensors(call(flow, phi))]
        path = flow.rsample_path(3, generator=generator())
        found += [path.phi, path.log_q, path.score, *flow.sample_and_log_prob(3, generator=generator())]
        found.append(torch.tensor(flow.certificate(3, action=ACTION, generator=generator()).log_z_shift))
        found.append(HMC(ACTION).sample(2, n_chains=2, n_thermalisation=2, generator=generator()).samples)
        return [part.detach() for part in found]

    expected = results()
    with mode():
        found = results()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    # Nothing made in inference mode is kept: training goes on as if it had not been.
    value = ReverseKL()(flow, ACTION, 4, generator())
    value.surrogate.backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters())


@pytest.mark.parametrize("convert", [Tensor.numpy, Tensor.tolist, lambda phi: None, lambda phi: 1.0])
@pytest.mark.parametrize("name", ["log_prob", "transform", "inverse", "prior", "action", "velocity"])
def test_what_is_no_tensor_is_refused(name, convert):
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        CALLS[name](small_flow(solver=RK4), convert(configurations(SQUARE)))


@pytest.mark.parametrize(
    "shape", [(2, 1, 3), (2, 3, 1), (2, 3, 2), (3, 3), (2, 4, 3), (2, 1, 3, 3), (3,), ()]
)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "observed"])
def test_no_call_broadcasts_a_field_of_another_shape(name, shape):
    with pytest.raises(ValueError, match="expected"):
        CALLS[name](small_flow(solver=RK4), torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.int64, torch.bool, torch.float16])
@pytest.mark.parametrize("name", CALLS)
def test_no_call_takes_other_numbers(name, dtype):
    with pytest.raises(TypeError, match="dtype"):
        CALLS[name](small_flow(solver=RK4), torch.zeros(2, 3, 3).to(dtype))


@pytest.mark.parametrize("name", ["log_prob", "transform", "inverse"])
def test_fields_without_values_are_refused(name):
    with pytest.raises(REFUSED, match="meta"):
        CALLS[name](small_flow(solver=RK4), torch.zeros(2, 3, 3, device="meta"))


PRIORS = {"free": lambda: None, "white": lambda: StandardNormal(SQUARE)}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex128])
def test_a_flow_in_numbers_that_it_cannot_compute_in_refuses_to_sample(dtype, prior):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that complex modules are new
        flow = small_flow(prior=prior(), solver=RK4).to(dtype)
    for draw in (flow.sample, flow.rsample_path, flow.certificate):
        with pytest.raises(TypeError, match=r"expected torch\.float32 or torch\.float64"):
            draw(2)
