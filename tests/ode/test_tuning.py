"""The cheapest solver that reaches a target is chosen, by its true error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver, SolverError
from equiflow.ode.tuning import choose_solver
from equiflow.theories.scalar.phi4 import Phi4
from tests.support.strategies import small_flow

TIGHT = Solver("dopri8", rtol=1e-11, atol=1e-11)
N_SAMPLES = 32


def log_weight(flow: EquivariantCNF, solver: Solver, action: Phi4 | None) -> Tensor:
    """Return log weights of the same samples by a solver; without an action the exact flow is the target."""
    flow.solver = solver
    phi, log_q = flow.sample_and_log_prob(N_SAMPLES, generator=torch.Generator().manual_seed(0))
    flow.solver = TIGHT
    return (flow.log_prob(phi).detach() if action is None else -action(phi)) - log_q


@pytest.mark.parametrize("with_action", [False, True])
def test_the_errors_a_solver_is_chosen_by_are_true_errors(with_action):
    flow = small_flow((3, 3), scale=0.6)
    action = Phi4(flow.lattice, m2=-1.0, lam=1.0) if with_action else None
    choice = flow.tune_solver(
        1e-5, action=action, n_samples=N_SAMPLES, generator=torch.Generator().manual_seed(0)
    )
    assert len(choice.trials) > 3
    exact = log_weight(flow, TIGHT, action)
    for solver, _, error in choice.trials:
        found = log_weight(flow, solver, action)
        shift = float(found.logsumexp(0) - exact.logsumexp(0))
        assert error == pytest.approx(max(abs(shift), 0.1 * float((found - exact).abs().max())), rel=0.01)


def test_a_target_that_no_solver_reaches_is_refused_with_the_best_error():
    with pytest.raises(SolverError, match=r"best error is 1\.0e-05.*float64"):
        choose_solver(lambda solver: (1e-5, 10), target=1e-9)


def test_solvers_that_give_up_are_passed_over():
    def measure(solver):
        if solver.steps is not None:
            raise SolverError("blew up")
        return 1e-4, 50

    assert choose_solver(measure, target=1e-3).solver == Solver("dopri5", rtol=1e-5, atol=1e-5)


def test_impossible_targets_are_refused():
    with pytest.raises(ValueError, match="target"):
        choose_solver(lambda solver: (0.0, 1), target=0.0)


@pytest.mark.parametrize("options", [{"checkpoint": True}, {"adjoint": True}])
def test_a_tuned_solver_keeps_the_way_to_gradients(options):
    like = Solver("rk4", steps=3, **options)
    chosen = choose_solver(lambda solver: (0.0, 10), target=1e-3, like=like).solver
    assert (chosen.checkpoint, chosen.adjoint) == (like.checkpoint, like.adjoint)
    hopeless = lambda solver: (0.0 if solver.is_adaptive else 1.0, 10)  # noqa: E731
    patient = choose_solver(hopeless, target=1e-3, like=Solver("dopri5", max_steps=77)).solver
    assert patient.max_steps == 77


def test_the_cheapest_solver_that_reaches_the_target_is_chosen_and_dearer_ones_are_not_tried():
    def measure(solver: Solver) -> tuple[float, int]:
        return (1.0 / solver.steps**5, 6 * solver.steps) if solver.steps else (solver.rtol, 100)

    choice = choose_solver(measure, target=1e-4)
    assert (choice.solver, choice.nfe) == (Solver("rk5", steps=7), 42)
    assert [solver.steps for solver, *_ in choice.trials] == [3, 4, 5, 6, 7, None]
    assert choose_solver(measure, target=1e-8).solver == Solver("dopri5", rtol=1e-8, atol=1e-8)
    assert str(choice).endswith("chosen for 0.0001: rk5(steps=7), nfe 42")


def test_no_tolerance_below_the_finest_is_tried():
    tried = []

    def measure(solver: Solver) -> tuple[float, int]:
        tried.append(solver.rtol)
        return 1.0, 10

    with pytest.raises(SolverError, match="best error is 1"):
        choose_solver(measure, target=1e-3, finest=1e-7)
    assert min(tried) == pytest.approx(1e-7)
