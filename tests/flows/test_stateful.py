"""A flow keeps its laws, and its copies keep their values, under any sequence of operations."""

from __future__ import annotations

import copy
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from equiflow import (
    EquivariantCNF,
    FreeField,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    StandardNormal,
    SymmetryGroup,
    fit,
)
from equiflow.testing import divergence_error, equivariance_error, invariance_error, randomise
from equiflow.training import Objective, ObjectiveValue
from tests.support.strategies import POINT_GROUPS, configurations, seeds

SHAPES = ((1,), (4,), (2, 2), (3, 2), (3, 3), (2, 1, 2))
DTYPES = (torch.float32, torch.float64)
SOLVERS = (
    Solver("rk4", steps=6),
    Solver("rk5", steps=4),
    Solver("rk4", steps=6, adjoint=True),
    Solver("midpoint", steps=16),
    Solver("dopri5", rtol=1e-5, atol=1e-5),
    Solver("dopri5", rtol=1e-5, atol=1e-5, adjoint=True),
)
OBJECTIVES = (PathGradient(solver=Solver("rk4", steps=3)), ReverseKL())
SYMMETRY = {torch.float32: 1e-5, torch.float64: 1e-12}
ROUNDING = {torch.float32: 2e-4, torch.float64: 1e-11}


class InterruptionError(Exception):
    pass


@dataclass(frozen=True, repr=False)
class Interrupted:
    """An objective that stops the run at its second call, and has the repr of the objective inside."""

    inner: Objective
    calls: list[int]

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(self, flow, action, batch_size, generator=None) -> ObjectiveValue:
        self.calls.append(batch_size)
        if len(self.calls) == 2:
            raise InterruptionError
        return self.inner(flow, action, batch_size, generator)


def fingerprint(flow: EquivariantCNF) -> list[Tensor]:
    """Return all numbers of a flow, and its results for some fields."""
    phi = configurations(flow.lattice, 2, dtype=flow.dtype)
    with torch.no_grad():
        return [*(tensor.clone() for tensor in flow.state_dict().values()), flow.log_prob(phi)]


def identical(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


class FlowMachine(RuleBasedStateMachine):
    mathematics = True
    clone = staticmethod(copy.deepcopy)
    revive = staticmethod(lambda flow: pickle.loads(pickle.dumps(flow)))
    load = staticmethod(EquivariantCNF.load)
    field: Callable[..., OrbitConvField] = OrbitConvField

    @initialize(
        shape=st.sampled_from(SHAPES),
        point=st.sampled_from(POINT_GROUPS),
        z2=st.booleans(),
        whole=st.booleans(),
        free=st.booleans(),
        solver=st.sampled_from(SOLVERS),
        seed=seeds,
    )
    def start(self, shape, point, z2, whole, free, solver, seed):
        self.path = Path(tempfile.mkdtemp())
        self.lattice = Lattice(shape)
        self.group = SymmetryGroup(self.lattice, point, z2)
        self.kernel_size = None if whole else min(shape)
        self.free = free
        self.action = Phi4(self.lattice, m2=-0.5, lam=0.5)
        self.others: list[tuple[EquivariantCNF, list[Tensor]]] = []
        self.flow = self.build(solver)
        self.fresh = copy.deepcopy(self.flow.state_dict())
        self.draw_weights(seed)

    def build(self, solver: Solver) -> EquivariantCNF:
        field = self.field(
            self.lattice,
            group=self.group,
            kernel_size=self.kernel_size,
            n_frequencies=2,
            n_time_modes=2,
            max_frequency=2.0,
        )
        prior = (FreeField if self.free else StandardNormal)(self.lattice, group=self.group)
        return EquivariantCNF(self.lattice, vector_field=field, prior=prior, solver=solver)

    def tolerance(self) -> float:
        """Return the tolerance: rounding, and with adaptive steps the effect of one step more or less."""
        return ROUNDING[self.flow.dtype] + (1e-4 if self.flow.solver.is_adaptive else 0.0)

    def replace_by(self, other: EquivariantCNF) -> None:
        """Go on with another flow that must be equal to the bit, and keep this one for comparison."""
        assert other is not self.flow
        assert (other.solver, other.group) == (self.flow.solver, self.flow.group)
        before = fingerprint(self.flow)
        assert identical(fingerprint(other), before)
        self.others = [*self.others[-2:], (self.flow, before)]
        self.flow = other

    @rule(seed=seeds)
    def draw_weights(self, seed):
        self.flow.load_state_dict(self.fresh)
        randomise(self.flow, scale=0.1, seed=seed)

    @rule(objective=st.sampled_from(OBJECTIVES), seed=seeds)
    def take_a_step(self, objective, seed):
        optimiser = torch.optim.Adam(self.flow.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(seed)
        objective(self.flow, self.action, 4, generator).surrogate.backward()
        optimiser.step()

    @rule(dtype=st.sampled_from(DTYPES))
    def convert(self, dtype):
        assert self.flow.to(dtype) is self.flow
        assert {tensor.dtype for tensor in self.flow.state_dict().values()} == {dtype}
        assert self.flow.dtype == dtype

    @rule()
    def convert_there_and_back(self):
        before, dtype, state = fingerprint(self.flow), self.flow.dtype, copy.deepcopy(self.flow.state_dict())
        self.flow.double() if dtype == torch.float32 else self.flow.float()
        self.flow.to(dtype).load_state_dict(state)
        assert identical(fingerprint(self.flow), before)

    @rule(solver=st.sampled_from(SOLVERS))
    def change_solver(self, solver):
        self.flow.solver = solver

    @rule()
    def copy_deeply(self):
        self.replace_by(self.clone(self.flow))

    @rule()
    def pickle_and_unpickle(self):
        self.replace_by(self.revive(self.flow))

    @rule()
    def save_and_load(self):
        self.flow.save(self.path / "flow.pt")
        self.replace_by(self.load(self.path / "flow.pt"))

    @rule()
    def fill_a_fresh_flow(self):
        other = self.build(self.flow.solver).to(self.flow.dtype)
        other.load_state_dict(self.flow.state_dict())
        self.replace_by(other)

    @rule(objective=st.sampled_from(OBJECTIVES), seed=seeds)
    def train_with_an_interruption(self, objective, seed):
        whole = copy.deepcopy(self.flow)
        options = {"steps": 2, "batch_size": 3, "warmup": 0, "seed": seed, "progress": False}
        expected = fit(whole, self.action, objective=objective, **options)
        path = self.path / "run.pt"
        path.unlink(missing_ok=True)
        options |= {"checkpoint": path, "checkpoint_every": 1}
        stopped = copy.deepcopy(self.flow)
        with pytest.raises(InterruptionError):
            fit(stopped, self.action, objective=Interrupted(objective, []), **options)
        resumed = fit(self.flow, self.action, objective=objective, **options)
        assert replace(resumed, seconds=[]) == replace(expected, seconds=[])
        assert identical(fingerprint(self.flow), fingerprint(whole))

    @rule(n=st.integers(0, 3), seed=seeds)
    def draw(self, n, seed):
        one, other = (
            self.flow.sample_and_log_prob(n, generator=torch.Generator().manual_seed(seed)) for _ in range(2)
        )
        assert identical(list(one), list(other))
        assert one[0].shape == (n, *self.lattice.shape)
        assert one[1].shape == (n,)
        assert {tensor.dtype for tensor in one} == {self.flow.dtype}

    @precondition(lambda self: self.mathematics)
    @invariant()
    def symmetry_holds_under_every_generator(self):
        tolerance = SYMMETRY[self.flow.dtype]
        errors = equivariance_error(self.flow.vector_field, times=(0.4,), n_random=1)
        assert max(errors.values()) < tolerance

    @precondition(lambda self: self.mathematics)
    @invariant()
    def density_is_invariant(self):
        errors = invariance_error(self.flow, self.group, n_samples=1)
        assert max(errors.values()) < self.tolerance()

    @precondition(lambda self: self.mathematics)
    @invariant()
    def divergence_is_the_dense_trace(self):
        assert divergence_error(self.flow.vector_field, times=(0.4,)) < 10 * SYMMETRY[self.flow.dtype]

    @precondition(lambda self: self.mathematics)
    @invariant()
    def log_prob_of_a_sample_is_what_came_with_it(self):
        flow = self.flow
        with torch.no_grad():
            phi, log_q = flow.sample_and_log_prob(3, generator=torch.Generator().manual_seed(1))
            error = float((flow.log_prob(phi) - log_q).abs().max())
        bound = flow.certificate(3, generator=torch.Generator().manual_seed(1)).max_log_q_error
        assert bool(phi.isfinite().all())
        assert bool(log_q.isfinite().all())
        assert error < 0.02
        # Both ways may err where the certificate happens to be small.
        assert error < 30 * bound + 1e-6 + self.tolerance()

    @invariant()
    def what_was_left_behind_stays_as_it_was(self):
        for flow, before in self.others:
            assert identical(fingerprint(flow), before)

    @invariant()
    def weights_belong_to_this_flow_alone(self):
        mine = {tensor.data_ptr() for tensor in self.flow.state_dict().values()}
        for flow, _ in self.others:
            assert not mine & {tensor.data_ptr() for tensor in flow.state_dict().values()}

    def teardown(self):
        if hasattr(self, "path"):
            shutil.rmtree(self.path)


def run(machine: type[FlowMachine], *, examples: int, steps: int = 8) -> None:
    options = settings(max_examples=examples, stateful_step_count=steps, report_multiple_bugs=False)
    run_state_machine_as_test(machine, settings=options)


def test_a_flow_keeps_its_laws_whatever_is_done_to_it():
    run(FlowMachine, examples=8)


class SharesWeights(FlowMachine):
    mathematics = False
    clone = staticmethod(copy.copy)


class LosesDigits(FlowMachine):
    mathematics = False
    revive = staticmethod(lambda flow: copy.deepcopy(flow).float().to(flow.dtype))


class ForgetsTheSolver(FlowMachine):
    mathematics = False

    @staticmethod
    def load(path):
        flow = EquivariantCNF.load(path)
        flow.solver = Solver(rtol=1e-6)
        return flow


class BreaksTheSymmetry(FlowMachine):
    class field(OrbitConvField):  # noqa: N801 (stands in for the family)
        def velocity_and_divergence(self, phi, t):
            velocity, divergence = super().velocity_and_divergence(phi, t)
            source = torch.zeros_like(velocity)
            source.flatten(1)[:, 0] = 1e-3
            return velocity + source, divergence


class NegatesTheDivergence(FlowMachine):
    class field(OrbitConvField):  # noqa: N801
        def velocity_and_divergence(self, phi, t):
            velocity, divergence = super().velocity_and_divergence(phi, t)
            return velocity, -divergence


class ForgetsWhereItStopped(FlowMachine):
    mathematics = False

    @rule(seed=seeds)
    def train_with_an_interruption(self, seed):
        whole = copy.deepcopy(self.flow)
        options = {"batch_size": 3, "warmup": 0, "seed": seed, "progress": False}
        fit(whole, self.action, steps=2, **options)
        for _ in range(2):
            fit(self.flow, self.action, steps=1, **options)
        assert identical(fingerprint(self.flow), fingerprint(whole))


@pytest.mark.parametrize(
    "machine",
    [
        SharesWeights,
        LosesDigits,
        ForgetsTheSolver,
        BreaksTheSymmetry,
        NegatesTheDivergence,
        ForgetsWhereItStopped,
    ],
)
def test_a_planted_mistake_is_found(machine):
    with pytest.raises(AssertionError):
        run(machine, examples=20)
