"""Inputs that nobody should give, and some that everybody does: right, or refused in words."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow import (
    HMC,
    CheckpointError,
    EquivariantCNF,
    FreeField,
    FreeScalar,
    IndependenceMetropolis,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SolverError,
    StandardNormal,
    SymmetryGroup,
    TrainingDivergedError,
    effective_sample_size,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
    measure,
)
from equiflow.flows import AugmentedFlow, ExtendedAction, SymplecticFlow
from equiflow.ode.solver import ADAPTIVE_ORDER, FIXED_STEP_ORDER
from equiflow.runtime.storage import load_safely, save_atomically
from equiflow.samplers import Chain, Ensemble
from equiflow.statistics import bridge_log_z, log_mean_exp
from equiflow.testing import divergence_error, equivariance_error, invariance_error, randomise
from tests.support.strategies import POINT_GROUPS, configurations, flows, seeds, small_flow

RK4 = Solver("rk4", steps=4)
SQUARE = Lattice((3, 3))
ACTION = Phi4(SQUARE, m2=1.0, lam=1.0)
SHORT = {"steps": 2, "batch_size": 4, "warmup": 0, "progress": False}
REFUSED = (TypeError, ValueError)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(flow: EquivariantCNF) -> list[Tensor]:
    return [p.detach().clone() for p in flow.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- every combination of lattice, group, kernel, prior, solver, dtype, batch -----------------------


@st.composite
def wide_lattices(draw: st.DrawFn, max_volume: int = 42) -> Lattice:
    """1D to 4D, sides 1 to 7, mostly rectangles."""
    sides: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        sides.append(draw(st.integers(1, max(1, min(7, max_volume // math.prod(sides))))))
    return Lattice(tuple(draw(st.permutations(sides))))


solvers = st.one_of(
    st.builds(
        Solver,
        st.sampled_from(sorted(FIXED_STEP_ORDER)),
        steps=st.integers(3, 5),
        adjoint=st.booleans(),
    ),
    st.builds(
        Solver,
        st.sampled_from(sorted(ADAPTIVE_ORDER)),
        rtol=st.sampled_from([1e-2, 1e-4]),
        atol=st.sampled_from([1e-3, 1e-5]),
        adjoint=st.booleans(),
    ),
)


def fits(kernel_size: int | tuple[int, ...] | None, lattice: Lattice) -> bool:
    sizes = lattice.shape if kernel_size is None else kernel_size
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * lattice.dim
    return len(sizes) == lattice.dim and all(1 <= n <= s for n, s in zip(sizes, lattice.shape, strict=True))


@settings(max_examples=80)
@given(
    lattice=wide_lattices(),
    point=st.sampled_from((*POINT_GROUPS, "D4", "Oh", "nonsense")),
    z2=st.booleans(),
    kernel_size=st.one_of(
        st.none(), st.integers(-1, 8), st.lists(st.integers(0, 7), min_size=1, max_size=5).map(tuple)
    ),
    prior=st.sampled_from([FreeField, StandardNormal]),
    solver=solvers,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(0, 2),
    seed=seeds,
)
@example(Lattice((1,)), "full", True, None, FreeField, RK4, torch.float32, 1, 0)
@example(Lattice((7, 5)), "full", False, 4, StandardNormal, RK4, torch.float64, 0, 0)
@example(Lattice((1, 1, 1, 1)), "rotations", False, 1, FreeField, RK4, torch.float64, 2, 0)
@example(Lattice((2, 1, 7, 3)), "full", True, (2, 1, 4, 3), FreeField, RK4, torch.float64, 1, 0)
def test_every_combination_obeys_the_laws_or_is_refused(
    lattice, point, z2, kernel_size, prior, solver, dtype, n, seed
):
    try:
        group = SymmetryGroup(lattice, point, z2)
        field = OrbitConvField(
            lattice, group=group, kernel_size=kernel_size, n_frequencies=1, n_time_modes=2, max_frequency=2.0
        )
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert not (point in POINT_GROUPS and fits(kernel_size, lattice))
        expected = ("expected 1 to the side", "expected one of", f"does not have the point group {point}")
        assert any(words in refusal for words in expected)
        return
    assert fits(kernel_size, lattice)
    flow = EquivariantCNF(lattice, vector_field=field, prior=prior(lattice, group=group), solver=solver)
    flow.to(dtype)
    randomise(flow, scale=0.1, seed=seed)
    exact = 1e-5 if dtype == torch.float32 else 1e-12
    assert max(equivariance_error(field, n_random=1).values()) < exact
    assert divergence_error(field, times=(0.4,)) < 10 * exact
    phi, log_q = flow.sample_and_log_prob(n, generator=generator(seed))
    assert (phi.shape, log_q.shape) == ((n, *lattice.shape), (n,))
    assert (phi.dtype, log_q.dtype) == (dtype, dtype)
    volume = 1 + lattice.volume / 4
    rough = volume * (2.0 if solver.order < 3 else 0.05)
    torch.testing.assert_close(flow.log_prob(phi).detach(), log_q, rtol=0, atol=rough)
    if not solver.is_adaptive:
        assert max(invariance_error(flow, group, n_samples=1).values()) < 100 * volume * exact


def test_an_unlawful_combination_would_be_noticed():
    lattice = Lattice((7, 5))
    field = OrbitConvField(lattice, group=SymmetryGroup(lattice, "trivial", z2=False)).double()
    randomise(field, scale=0.1)
    assert max(equivariance_error(field, group=SymmetryGroup(lattice)).values()) > 1e-3


# --- arguments of the wrong kind ---------------------------------------------------------------------

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


# --- the form of a field in memory and in autograd ---------------------------------------------------


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

CALLS: dict[str, Callable[[EquivariantCNF, Tensor], Any]] = {
    "log_prob": lambda flow, phi: flow.log_prob(phi),
    "transform": lambda flow, phi: flow.transform_and_log_det(phi),
    "inverse": lambda flow, phi: flow.inverse_and_log_det(phi),
    "velocity": lambda flow, phi: flow.vector_field.velocity_and_divergence(phi, 0.3),
    "path rates": lambda flow, phi: list(vars(flow.vector_field.path_rates(phi, 0.3, phi)).values()),
    "prior": lambda flow, phi: (flow.prior.log_prob(phi), flow.prior.score(phi)),
    "action": lambda flow, phi: (lambda s: (s(phi), s.grad(phi)))(Phi4(flow.lattice, m2=-1.0, lam=1.0)),
    "observed": lambda flow, phi: log_weights(flow, FreeScalar(flow.lattice, m2=1.0), phi),
}


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


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


# --- values that are not finite, or nearly not -------------------------------------------------------

bad_values = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=30)
@given(flow=flows(solver=RK4), value=bad_values, where=seeds, n=st.integers(1, 4))
def test_one_bad_value_anywhere_is_refused(flow, value, where, n):
    phi = configurations(flow.lattice, n)
    assert bool(flow.log_prob(phi).isfinite().all())
    phi.view(-1)[where % phi.numel()] = value
    for name in ("log_prob", "transform", "inverse"):
        with pytest.raises(ValueError, match=f"NaN or infinite values in 1 of {n} configurations"):
            CALLS[name](flow, phi)


@settings(max_examples=60)
@given(
    exponent=st.floats(0, 308),
    prior=st.sampled_from([FreeField, StandardNormal]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
@example(308.2, FreeField, torch.float64, 0)
@example(200.0, StandardNormal, torch.float64, 0)
def test_huge_fields_have_vanishing_density_or_are_refused(exponent, prior, dtype, seed):
    flow = small_flow(prior=prior(SQUARE), solver=RK4).to(dtype)
    phi = (configurations(SQUARE, 2, seed).sign() * 10.0**exponent).to(dtype)
    try:
        log_q = flow.log_prob(phi)
    except (ValueError, SolverError) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert exponent > 38
        assert "infinite" in refusal
        return
    assert not bool(log_q.isnan().any())
    assert exponent < 6 or bool((log_q < -1e3).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300 * 1e300])
def test_weights_that_are_not_finite_are_refused_by_every_estimate(bad):
    log_weight = torch.tensor([0.0, 1.0, bad, 2.0])
    good = torch.tensor([0.0, 1.0, 0.5, 2.0])
    ensemble = Ensemble(torch.zeros(4, 3, 3), good, log_weight)
    for estimate in (
        lambda: effective_sample_size(log_weight),
        lambda: forward_effective_sample_size(log_weight),
        lambda: log_mean_exp(log_weight),
        lambda: bridge_log_z(log_weight, good),
        lambda: bridge_log_z(good, log_weight),
        lambda: ensemble.mean(lambda phi: phi.sum((1, 2))),
        lambda: measure(ensemble),
        lambda: IndependenceMetropolis.from_ensemble(ensemble),
    ):
        with pytest.raises(ValueError, match="NaN or infinite"):
            estimate()


@pytest.mark.parametrize("scale", [1e3, 1e30, 1e300])
def test_huge_finite_weights_leave_an_estimate_and_an_error_that_is_a_number(scale):
    log_weight = scale * torch.tensor([0.0, 1.0, -1.0, 0.5])
    assert log_mean_exp(log_weight).mean == pytest.approx(scale, rel=2e-3)
    assert effective_sample_size(log_weight).mean == pytest.approx(0.25)
    for estimate in (effective_sample_size, forward_effective_sample_size, log_mean_exp):
        assert not math.isnan(estimate(log_weight).error)
        assert not math.isnan(estimate(log_weight).mean)


@pytest.mark.parametrize("objective", [PathGradient(), ReverseKL()])
@pytest.mark.parametrize("rate", [1e300, 1e308])
def test_training_never_returns_a_flow_that_is_not_finite(rate, objective):
    flow = small_flow(solver=RK4)
    with contextlib.suppress(TrainingDivergedError):
        fit(flow, ACTION, objective=objective, learning_rate=rate, **SHORT | {"steps": 1})
        assert all(bool(p.isfinite().all()) for p in flow.parameters())
        with contextlib.suppress(ValueError, SolverError):  # huge weights may overflow, but not in silence
            assert bool(flow.sample(2).isfinite().all())


# --- batches of none and one -------------------------------------------------------------------------


def test_no_samples_make_no_estimate_and_one_makes_no_error():
    flow = small_flow(solver=RK4)
    for n in (0, 1):
        ensemble = importance_sample(flow, ACTION, n, certify=2)
        assert ensemble.phi.shape == (n, 3, 3)
        assert log_weights(flow, ACTION, ensemble.phi).shape == (n,)
        for estimate in (
            ensemble.effective_sample_size,
            ensemble.log_z,
            lambda e=ensemble: e.mean(lambda phi: phi.sum((1, 2))),
            lambda e=ensemble: measure(e),
        ):
            with pytest.raises(ValueError, match=r">= 2|at least 2|samples"):
                estimate()


def test_one_sample_makes_a_chain_and_none_does_not():
    flow = small_flow(solver=RK4)
    chain = IndependenceMetropolis(flow, ACTION).sample(1, generator=generator())
    assert chain.samples.shape == (1, 1, 3, 3)
    assert HMC(ACTION).sample(1, n_chains=1, n_thermalisation=1).samples.shape == (1, 1, 3, 3)
    for sample in (IndependenceMetropolis(flow, ACTION).sample, HMC(ACTION).sample):
        with pytest.raises(ValueError, match="n_samples"):
            sample(0)
    with pytest.raises(ValueError, match="n >= 4"):
        chain.mean(lambda phi: phi.sum((1, 2)))


def test_an_empty_batch_has_actions_gradients_and_weights():
    flow, empty = small_flow(solver=RK4), torch.zeros(0, 3, 3)
    assert {len(t) for call in CALLS.values() for t in tensors(call(flow, empty))} == {0}
    (gradient,) = torch.autograd.grad(flow.log_prob(empty.requires_grad_()).sum(), empty)
    assert gradient.shape == (0, 3, 3)


# --- autocast, default dtype, default device ---------------------------------------------------------


def everything(flow: EquivariantCNF) -> list[Tensor]:
    phi = configurations(flow.lattice, dtype=flow.dtype)
    found = [part for call in CALLS.values() for part in tensors(call(flow, phi))]
    path = flow.rsample_path(3, generator=generator())
    found += [path.phi, path.log_q, path.score, *flow.sample_and_log_prob(3, generator=generator())]
    found.append(importance_sample(flow, ACTION, 4, certify=2, generator=generator()).log_weight)
    for objective in (PathGradient(), ReverseKL()):
        trained = copy.deepcopy(flow)
        fit(trained, ACTION, objective=objective, **SHORT)
        found += weights(trained)
    return [part.detach() for part in found]


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel_size", [None, 2])
@pytest.mark.parametrize("z2", [True, False])
def test_autocast_never_lowers_the_precision(lower, dtype, kernel_size, z2):
    flow = small_flow(group=SymmetryGroup(SQUARE, z2=z2), kernel_size=kernel_size, solver=RK4).to(dtype)
    expected = everything(flow)
    with torch.autocast("cpu", dtype=lower):
        found = everything(flow)
    assert same(found, expected)


@pytest.mark.parametrize("family", [SymplecticFlow, AugmentedFlow])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_never_lowers_the_precision_of_an_exact_flow(family, dtype):
    flow = family(SQUARE, n_steps=1, n_frequencies=2).to(dtype)
    randomise(flow, scale=0.1)
    action = ExtendedAction(ACTION)

    def results() -> list[Tensor]:
        state, log_q = flow.sample_and_log_prob(3, generator=generator())
        trained = copy.deepcopy(flow)
        fit(trained, action, objective=ReverseKL(), **SHORT)
        return [state, log_q, flow.log_prob(state).detach(), action(state), *weights(trained)]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    assert same(found, expected)


def test_autocast_would_lower_a_plain_product():
    a = torch.randn(4, 4, dtype=torch.float32, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_dtype_of_the_caller_changes_nothing(default, dtype):
    flow = small_flow(solver=RK4).to(dtype)
    expected = everything(flow)
    with default_dtype(default):
        found = everything(flow)
    assert same(found, expected)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_flow_is_built_in_the_default_dtype(default):
    with default_dtype(default):
        flow = EquivariantCNF(SQUARE, solver=RK4)
        assert {p.dtype for p in flow.parameters()} == {flow.dtype} == {default}
        assert flow.sample(2).dtype == default


def test_the_default_device_of_the_caller_changes_nothing():
    flow = small_flow(solver=RK4)
    phi = configurations(SQUARE)
    expected = [*tensors(flow.log_prob(phi)), *flow.sample_and_log_prob(3, generator=generator())]
    with torch.device("meta"):
        found = [*tensors(flow.log_prob(phi)), *flow.sample_and_log_prob(3, generator=generator())]
        fit(copy.deepcopy(flow), ACTION, **SHORT)
    assert same([x.detach() for x in found], [x.detach() for x in expected])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device")
def test_a_generator_or_a_field_on_another_device_is_refused():
    flow = small_flow(solver=RK4).cuda()
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        flow.sample(2, generator=generator())
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        flow.log_prob(configurations(SQUARE))
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        small_flow(solver=RK4).log_prob(configurations(SQUARE).cuda())


# --- threads -----------------------------------------------------------------------------------------


def in_threads(function: Callable[[int], Any], n: int, workers: int = 6) -> list[Any]:
    # A new thread starts with a thread per core, which rounds differently: start it as this one is.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, range(n)))


@pytest.mark.parametrize("adjoint", [False, True])
def test_threads_sample_what_one_would(adjoint):
    flow = small_flow(solver=Solver("rk4", steps=4, adjoint=adjoint))

    def draw(seed: int) -> list[Tensor]:
        path = flow.rsample_path(4, generator=generator(seed))
        return [*flow.sample_and_log_prob(4, generator=generator(seed)), path.phi.detach(), path.score]

    one = [draw(seed) for seed in range(12)]
    assert all(same(a, b) for a, b in zip(in_threads(draw, 12), one, strict=True))
    assert not same(one[0], one[1])


def test_threads_that_share_a_generator_do_not_repeat():
    """The reason for one generator each: a shared one gives every number once, in no fixed order."""
    flow, shared = small_flow(solver=RK4), generator()
    drawn = torch.cat(in_threads(lambda _: flow.sample(2, generator=shared), 12))
    assert len(drawn.flatten(1).unique(dim=0)) == 24


@pytest.mark.parametrize("objective", [PathGradient(), ReverseKL()])
def test_threads_train_what_one_would(objective):
    def train(seed: int) -> list[Tensor]:
        flow = small_flow(seed=seed, solver=RK4)
        fit(flow, ACTION, objective=objective, seed=seed, **SHORT | {"steps": 4})
        return weights(flow)

    one = [train(seed) for seed in range(3)]
    assert all(same(a, b) for a, b in zip(in_threads(train, 3), one, strict=True))
    assert not same(one[0], one[1])


def test_threads_that_save_to_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared.pt"

    def write(n: int) -> set[float]:
        save_atomically({"kind": "thing", "weights": torch.full((20_000,), float(n % 4))}, path)
        return set(load_safely(path, "thing")["weights"].tolist())

    assert all(len(found) == 1 for found in in_threads(write, 60))
    assert list(tmp_path.iterdir()) == [path]


# --- weights between precisions and architectures ----------------------------------------------------


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


# --- checkpoints that were cut, flipped, swapped, or made up -----------------------------------------


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


# --- training checkpoints ----------------------------------------------------------------------------


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
