"""A `Solver` is a value that refuses impossible options and tells method, step control and gradient apart."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

import equiflow.solvers
from equiflow.ode.solver import (
    ADAPTIVE_ORDER,
    FIXED_STEP_ORDER,
    EqualSteps,
    Gradient,
    Solver,
    Tolerances,
)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "nonsense"},
        {"method": "dopri5", "steps": 8},
        {"method": "rk4"},
        {"method": "rk4", "steps": 0},
        {"method": "rk4", "steps": -3},
        {"method": "rk4", "steps": 2.5},
        {"rtol": 0.0},
        {"rtol": 1.0},
        {"rtol": math.nan},
        {"atol": -1e-5},
        {"atol": math.inf},
        {"max_steps": 0},
        {"method": "rk4", "steps": 3, "rtol": 0.0},
        {"method": "rk4", "steps": 3, "max_steps": 0},
        {"rtol": "1e-5"},
        {"adjoint": 1},
        {"checkpoint": True},
        {"method": "rk4", "steps": 3, "checkpoint": True, "adjoint": True},
    ],
    ids=str,
)
def test_impossible_solvers_are_refused(options):
    with pytest.raises((ValueError, TypeError)):
        Solver(**options)


@pytest.mark.parametrize(
    "solver",
    [Solver("rk4", steps=5), Solver("dopri5"), Solver("dopri5", rtol=1e-12, atol=1e-12)],
    ids=str,
)
def test_refined_solver_is_finer(solver):
    fine = solver.refined()
    assert fine.method == solver.method
    assert fine != solver
    assert fine.steps == (None if solver.steps is None else 2 * solver.steps)
    assert fine.rtol <= solver.rtol
    assert fine.atol <= solver.atol


@pytest.mark.parametrize(
    ("solver", "control", "gradient"),
    [
        (Solver(), Tolerances(1e-5, 1e-5, 10_000), Gradient.BACKPROPAGATION),
        (
            Solver("bosh3", rtol=1e-3, atol=1e-4, max_steps=7),
            Tolerances(1e-3, 1e-4, 7),
            Gradient.BACKPROPAGATION,
        ),
        (Solver("dopri8", adjoint=True), Tolerances(1e-5, 1e-5, 10_000), Gradient.ADJOINT),
        (Solver("rk4", steps=3), EqualSteps(3), Gradient.BACKPROPAGATION),
        (Solver("rk5", steps=8, checkpoint=True), EqualSteps(8), Gradient.CHECKPOINTED),
        (Solver("euler", steps=1, adjoint=True), EqualSteps(1), Gradient.ADJOINT),
    ],
    ids=str,
)
def test_step_control_and_gradient_are_told_apart(solver, control, gradient):
    assert solver.step_control == control
    assert solver.gradient is gradient
    assert solver.refined().step_control == control.refined() != control
    assert solver.refined().gradient is gradient


@pytest.mark.parametrize(
    ("solver", "text"),
    [(Solver("rk5", steps=8), "rk5(steps=8)"), (Solver(rtol=1e-3), "dopri5(rtol=0.001, atol=1e-05)")],
)
def test_a_solver_prints_its_step_control(solver, text):
    assert str(solver) == text


def test_a_solver_is_saved_and_shown_with_all_its_options():
    solver = Solver("rk5", steps=8, checkpoint=True)
    fields = {
        "method": "rk5",
        "steps": 8,
        "rtol": 1e-5,
        "atol": 1e-5,
        "adjoint": False,
        "max_steps": 10_000,
        "checkpoint": True,
    }
    assert asdict(solver) == fields
    assert list(asdict(solver)) == list(fields)
    assert repr(solver) == f"Solver({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
    assert Solver(**asdict(solver)) == solver


def test_methods_are_of_one_kind():
    assert not FIXED_STEP_ORDER.keys() & ADAPTIVE_ORDER.keys()
    assert equiflow.solvers.FIXED_STEP_ORDER is FIXED_STEP_ORDER
    assert equiflow.solvers.Solver is Solver
