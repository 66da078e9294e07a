"""Who evaluates the vector field of a flow: torch, its compiler, or fused kernels for whole solves."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from equiflow.flows.compiled import CompiledField
from equiflow.ode.integrate import Rates, Solution, State, check_finite, integrate
from equiflow.ode.lie import Charts, integrate_on_group
from equiflow.ode.solver import EqualSteps, Solver
from equiflow.runtime.compilation import Compiled
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField
from equiflow.vector_fields.base import FusedField, FusedSolution

#: what a solve calls for the rates of a flow
FieldOfSolve = VectorField | CompiledField | FusedField


def without_evaluator(text: str) -> str:
    """Return the `repr` of a flow, or a text with such, without who evaluates the field.

    Runs and files are told apart by it, and may be continued where kernels are missing.

    Args:
        text: of one or several lines.

    Returns:
        The text without the last option of the flow.
    """
    return re.sub(r", by=[^,\n]*$", "", text, flags=re.MULTILINE)


def fastest(
    field: VectorField, phi: Tensor, *, compiled: dict[str, Compiled] | None, kernels: bool
) -> FieldOfSolve:
    """Return a vector field in the form that is evaluated fastest.

    Args:
        field: the vector field.
        phi: where a solve starts, `(batch, *lattice)`.
        compiled: functions that `torch.compile` has made of the field's methods, if it shall.
        kernels: whether fused kernels are used where they fit.

    Returns:
        The field compiled, with kernels, or itself.
    """
    if compiled is not None:
        return CompiledField(field, compiled)
    return (field.fused(phi) if kernels else None) or field


def solve(
    field: FieldOfSolve,
    phi: Tensor,
    t0: float,
    t1: float,
    solver: Solver,
    *,
    space: Space,
    parameters: Iterable[Tensor] = (),
) -> Solution:
    """Integrate `(phi, log_det)` from flow time `t0` to `t1`.

    Args:
        field: vector field, for one solve.
        phi: configurations at `t0`, `(batch, *lattice)`.
        t0: initial flow time.
        t1: final flow time.
        solver: method, step control and way to gradients.
        space: of the configurations.
        parameters: of the field, which get gradients from the adjoint equation.

    Returns:
        A `Solution` whose state is `phi` at `t1` and `log_det`, `(batch,)`.

    Raises:
        SolverError: if the solver gives up or the result is not finite.
    """
    end = solve_by_kernels(field, phi, t0, t1, solver)
    if end is not None:
        return Solution((end.phi, end.log_det), end.nfe, solver)

    def rates(t: Tensor, state: State) -> State:
        return field.velocity_and_divergence(state[0], t)

    state = phi, phi.real.new_zeros(len(phi))
    return integrate_in(space, rates, state, t0, t1, solver, parameters=parameters)


def integrate_in(
    space: Space,
    rates: Rates,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    *,
    parameters: Iterable[Tensor] = (),
) -> Solution:
    """Integrate a state whose first part are configurations of a space, flat or not.

    Args:
        space: of the configurations.
        rates: function of time and state, returning the velocity and the rates of the other parts.
        state: configurations and other tensors, batch first.
        t0: initial flow time.
        t1: final flow time.
        solver: method, step control and way to gradients.
        parameters: tensors that get gradients from the adjoint equation.

    Returns:
        The final state and the number of evaluations.

    Raises:
        SolverError: if the solver gives up or the result is not finite.
    """
    if space.is_flat:
        return integrate(rates, state, t0, t1, solver, parameters=parameters)
    charts = Charts(space.move, space.bracket, space.bracket_bound, space.tangent_shape)
    return integrate_on_group(rates, state, t0, t1, solver, charts=charts, parameters=parameters)


def solve_by_kernels(
    field: FieldOfSolve, phi: Tensor, t0: float, t1: float, solver: Solver, *, score: Tensor | None = None
) -> FusedSolution | None:
    """Return the whole solve by fused kernels, or None if it has to be done evaluation by evaluation.

    Kernels take equal steps. Their gradients are those of backpropagation, with or without checkpoints.

    Args:
        field: vector field, for one solve.
        phi: configurations at `t0`, `(batch, *lattice)`.
        t0: initial flow time.
        t1: final flow time.
        solver: method, step control and way to gradients.
        score: `grad log q` at `t0`, to be carried along.

    Returns:
        The end of the solve, if the field has kernels and the solver suits them.

    Raises:
        SolverError: if the result is not finite.
    """
    control = solver.step_control
    by_adjoint = solver.adjoint and torch.is_grad_enabled()
    if not isinstance(field, FusedField) or not isinstance(control, EqualSteps) or by_adjoint:
        return None
    if phi.numel() == 0 or t0 == t1:
        return None
    end = field.solve(phi, t0, t1, method=solver.method, steps=control.steps, score=score)
    # The kinetic energy overflows before phi does; it is wanted with the score only.
    parts = (end.phi, end.log_det)
    wanted = parts if end.score is None else (*parts, end.kinetic_energy, end.score)
    check_finite(wanted, solver, t1, end.nfe)
    return end
