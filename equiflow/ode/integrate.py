"""Integration of ordinary differential equations: `integrate` solves one, as a `Solver` says.

Equal steps are taken by `equiflow.ode.equal_steps`; adaptive steps are torchdiffeq's, and no other file
imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.ode.equal_steps import solve_in_equal_steps
from equiflow.ode.solver import EqualSteps, Gradient, Solver, SolverError, Tolerances
from equiflow.runtime.autograd import all_finite, is_transformed
from equiflow.runtime.precision import full_precision

State = tuple[Tensor, ...]
Rates = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class Solution:
    """The state at the end of an integration, and its cost.

    Attributes:
        state: final state, shaped like the initial state.
        nfe: number of evaluations of the rates.
        solver: how it was integrated.
        error_estimate: for each part of the state, the largest change under `solver.refined()`; None
            unless it was asked for.
    """

    state: State
    nfe: int
    solver: Solver
    error_estimate: tuple[float, ...] | None = None


def integrate(
    rates: Rates,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    *,
    parameters: Iterable[Tensor] = (),
    estimate_error: bool = False,
) -> Solution:
    """Solve `d state/dt = rates(t, state)` from `t0` to `t1` (either direction).

    Args:
        rates: function of a 0-d time tensor and the state, returning rates shaped like the state.
        state: tuple of tensors of one dtype, batch first.
        t0: initial time.
        t1: final time.
        solver: method, step control and way to gradients.
        parameters: tensors that get gradients from the adjoint equation; backpropagation finds them itself.
        estimate_error: also solve with `solver.refined()` and report the difference.

    Returns:
        The final state and the number of evaluations.

    Raises:
        SolverError: if the solver gives up or the result is not finite. Within `torch.func.vmap` no value can
            be looked at, so a result that is not finite is returned.
        ValueError: within `torch.func`, if the solver adapts its steps, or computes gradients by the adjoint
            equation or with checkpoints.
    """
    if is_transformed():
        _check_transformed(solver)
    if state[0].numel() == 0 or t0 == t1:
        return Solution(state, 0, solver, (0.0,) * len(state) if estimate_error else None)
    counter = _Counted(rates)
    final = _solve(counter, state, t0, t1, solver, tuple(parameters))
    nfe = counter.calls
    error = None
    if estimate_error:
        with torch.no_grad():
            finer = integrate(rates, state, t0, t1, solver.refined())
        pairs = zip(final, finer.state, strict=True)
        error = tuple(float((a.detach() - b).abs().max()) for a, b in pairs)
        nfe += finer.nfe
    return Solution(final, nfe, solver, error)


def _check_transformed(solver: Solver) -> None:
    """Raise unless `torch.func` can transform a solve."""
    plain = solver.gradient is Gradient.BACKPROPAGATION or not torch.is_grad_enabled()
    if solver.is_adaptive or not plain:
        option = "" if plain else ", adjoint=True" if solver.adjoint else ", checkpoint=True"
        raise ValueError(
            "torch.func (vmap, grad, jvp and others) transforms equal steps without adjoint and checkpoint "
            f'only, got {solver}{option}; set flow.solver = Solver("rk5", steps=12), for instance.'
        )


class _Counted:
    """Rates that count their evaluations and remember the last time, for statistics and error messages."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.calls = 0
        self.t: Tensor | float = math.nan
        self.failure: AssertionError | None = None

    @full_precision
    def __call__(self, t: Tensor, state: State) -> State:
        self.calls += 1
        self.t = t.detach()
        try:
            return self.rates(t, state)
        except AssertionError as failure:
            self.failure = failure
            raise


def _solve(
    rates: _Counted, state: State, t0: float, t1: float, solver: Solver, parameters: tuple[Tensor, ...]
) -> State:
    """Return the final state, or raise a SolverError if there is none or it is not finite."""
    control = solver.step_control
    if isinstance(control, EqualSteps):
        final = _in_equal_steps(rates, state, t0, t1, solver, control, parameters)
    else:
        final = _in_adaptive_steps(rates, state, t0, t1, solver, control, parameters)
    check_finite(final, solver, rates.t, rates.calls)
    return final


def check_finite(final: State, solver: Solver, t: Tensor | float, nfe: int) -> None:
    """Raise unless all parts of a final state are finite.

    Args:
        final: the state.
        solver: how it was integrated.
        t: time of the last evaluation.
        nfe: number of evaluations.

    Raises:
        SolverError: if a value is NaN or infinite.
    """
    if not all_finite(*final):
        raise SolverError(_explain(solver, "returned NaN or infinite values", t, nfe))


def _in_equal_steps(
    rates: _Counted,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    control: EqualSteps,
    parameters: tuple[Tensor, ...],
) -> State:
    """Integrate all parts of the state as one flat tensor."""
    sizes = [part.numel() for part in state]

    def parts(flat: Tensor) -> State:
        return tuple(p.view_as(like) for p, like in zip(flat.split_with_sizes(sizes), state, strict=True))

    def flat_rates(t: Tensor, flat: Tensor) -> Tensor:
        return _flat(rates(t, parts(flat)))

    final = solve_in_equal_steps(
        flat_rates,
        _flat(state),
        t0,
        t1,
        method=solver.method,
        steps=control.steps,
        gradient=solver.gradient,
        parameters=parameters,
    )
    return parts(final)


def _flat(state: State) -> Tensor:
    return torch.cat([part.reshape(-1) for part in state])


def _in_adaptive_steps(
    rates: _Counted,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    control: Tolerances,
    parameters: tuple[Tensor, ...],
) -> State:
    """Integrate with torchdiffeq; raise a SolverError if it gives up."""
    # Imported here, because it imports much of scipy, which equal steps do without.
    from torchdiffeq import odeint, odeint_adjoint

    times = torch.tensor([t0, t1], dtype=state[0].dtype, device=state[0].device)
    # Without step_t the last step passes t1 and an interpolant of lower order steps back to it.
    options = {"max_num_steps": control.max_steps, "step_t": times}
    common = {"method": solver.method, "rtol": control.rtol, "atol": control.atol, "options": options}
    try:
        if solver.gradient is Gradient.ADJOINT and torch.is_grad_enabled():
            trajectory = odeint_adjoint(
                rates,
                state,
                times,
                adjoint_params=tuple(p for p in parameters if p.requires_grad),
                # The parameters' own adjoints follow from the rest: they need not limit the step size.
                adjoint_options={**options, "norm": "seminorm"},
                **common,
            )
        else:
            trajectory = odeint(rates, state, times, **common)
    except AssertionError as failure:  # torchdiffeq gives up by a failing assert
        if failure is rates.failure:  # raised by the rates themselves, not by the solver
            raise
        raise SolverError(_explain(solver, f"gave up ({failure})", rates.t, rates.calls)) from failure
    return tuple(part[-1] for part in trajectory)


def _explain(solver: Solver, what: str, t: Tensor | float, nfe: int) -> str:
    return (
        f"{solver} {what} at t={float(t):.4g} after {nfe} evaluations. "
        "The vector field is too stiff or its weights diverged: look at the weights, lower the "
        "learning rate, or allow a finer solver."
    )
