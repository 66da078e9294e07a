"""Integration on groups: `integrate_on_group` solves `dU/dt = v(U, t) U` and keeps U in the group.

Around each state the group is described by a chart, `U = exp(omega) U_n`, in which the equation is one for
omega in a flat space. `equiflow.ode.integrate` solves it there. The chart is left after every equal step, or
when omega has grown too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from equiflow.ode.integrate import Rates, Solution, State, integrate
from equiflow.ode.solver import EqualSteps, Solver, SolverError, Tolerances

#: `B_k / k!` from k = 2 on, in the series `x / (e^x - 1) = 1 - x / 2 + sum_k B_k x^k / k!`
_BERNOULLI = (1 / 12, 0.0, -1 / 720, 0.0, 1 / 30240)
#: `|B_8| / 8!`, the first coefficient that is left out
_LEFT_OUT = 1 / 1209600
#: largest chart, whatever the tolerance
_LARGEST = 1.0

Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Charts:
    """How configurations of a group are described by vectors of its algebra, near a configuration.

    Attributes:
        move: `move(U, omega) = exp(omega) U`, with omega of shape `(batch, *tangent_shape)`.
        bracket: commutators `[v, w]`, shaped like velocities.
        size: `size(omega)`, a bound of the eigenvalues of `[omega, .]`, as a tensor of any shape.
        tangent_shape: shape of the velocity of one configuration.
    """

    move: Product
    bracket: Product
    size: Callable[[Tensor], Tensor]
    tangent_shape: tuple[int, ...]


def integrate_on_group(
    rates: Rates,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    *,
    charts: Charts,
    parameters: Iterable[Tensor] = (),
    estimate_error: bool = False,
) -> Solution:
    r"""Solve `dU/dt = v(U, t) U`, with other parts of the state in flat spaces, from `t0` to `t1`.

    In the chart around `U_n` this is `d omega/dt = dexp^-1_omega v(exp(omega) U_n, t)` with

        dexp^-1_omega v = v - [omega, v] / 2 + [omega, [omega, v]] / 12 - ... .

    Equal steps are those of Runge-Kutta-Munthe-Kaas methods: in a step of length h, omega is of order h, so
    a method of order p keeps its order with p - 1 brackets. Adaptive methods take six, and stay in a chart
    while the terms that are left out are smaller than their tolerances. U is only ever multiplied by
    exponentials, so it leaves the group by rounding alone.

    Args:
        rates: function of a 0-d time tensor and the state. It returns v, `(batch, *tangent_shape)`, and the
            rates of the other parts.
        state: U, `(batch, ...)`, real or complex, and real tensors of the same precision, batch first.
        t0: initial time.
        t1: final time, before or after `t0`.
        solver: method, step control and way to gradients.
        charts: exponentials and brackets of the group.
        parameters: tensors that get gradients from the adjoint equation.
        estimate_error: also solve with `solver.refined()` and report the difference.

    Returns:
        The final state and the number of evaluations.

    Raises:
        SolverError: if the solver gives up or the result is not finite.

    References:
        Munthe-Kaas, Appl. Numer. Math. 29 (1999) 115.
    """
    if state[0].numel() == 0 or t0 == t1:
        return Solution(state, 0, solver, (0.0,) * len(state) if estimate_error else None)
    control, parameters = solver.step_control, tuple(parameters)
    if isinstance(control, EqualSteps):
        final, nfe = _in_equal_steps(rates, state, t0, t1, solver, control, charts, parameters)
    else:
        final, nfe = _in_adaptive_charts(rates, state, t0, t1, solver, control, charts, parameters)
    if not estimate_error:
        return Solution(final, nfe, solver)
    with torch.no_grad():
        finer = integrate_on_group(rates, state, t0, t1, solver.refined(), charts=charts)
    pairs = zip(final, finer.state, strict=True)
    error = tuple(float((a.detach() - b).abs().max()) for a, b in pairs)
    return Solution(final, nfe + finer.nfe, solver, error)


def inverse_dexp(omega: Tensor, velocity: Tensor, bracket: Product, n_brackets: int) -> Tensor:
    """Return the rate of omega for which `exp(omega) U_n` moves with a velocity.

    Args:
        omega: `(batch, *tangent_shape)`.
        velocity: v in `dU/dt = v U`, shaped like omega.
        bracket: commutators of the algebra.
        n_brackets: largest power of omega that is kept, 1 to 6.

    Returns:
        `sum_k B_k / k! [omega, .]^k v`, shaped like omega.
    """
    nested = bracket(omega, velocity)
    rate = velocity - nested / 2
    for coefficient in _BERNOULLI[: n_brackets - 1]:
        nested = bracket(omega, nested)
        rate = rate if coefficient == 0 else rate + coefficient * nested
    return rate


def _in_equal_steps(
    rates: Rates,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    control: EqualSteps,
    charts: Charts,
    parameters: tuple[Tensor, ...],
) -> tuple[State, int]:
    """Take each step in a chart of its own."""
    single, nfe = replace(solver, steps=1), 0
    for n in range(control.steps):
        start, end = (t0 + (t1 - t0) * (k / control.steps) for k in (n, n + 1))
        chart = _Chart(rates, state[0], charts, n_brackets=max(1, solver.order - 1))
        solution = chart.solve(state, start, end, single, parameters)
        state, nfe = chart.left(solution), nfe + solution.nfe
    return state, nfe


def _in_adaptive_charts(
    rates: Rates,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    control: Tolerances,
    charts: Charts,
    parameters: tuple[Tensor, ...],
) -> tuple[State, int]:
    """Let an adaptive method choose its steps within charts, and leave each before it grows too large."""
    largest = min(_LARGEST, (min(control.rtol, control.atol) / _LEFT_OUT) ** (1 / 8))
    t, nfe, span = t0, 0, t1 - t0
    for _ in range(control.max_steps):
        end = t1 if abs(span) >= abs(t1 - t) else t + span
        chart = _Chart(rates, state[0], charts, watched=True)
        solution = chart.solve(state, t, end, solver, parameters)
        nfe += solution.nfe
        fits = chart.size <= largest
        span = (end - t) * min(2.0, max(0.1, 0.8 * largest / (chart.size + 1e-30)))
        if fits:
            state, t = chart.left(solution), end
        if t == t1:
            return state, nfe
    raise SolverError(
        f"{solver} gave up at t={t:.4g} after {nfe} evaluations in {control.max_steps} charts. The vector "
        "field turns links too fast: look at the weights, or allow more steps."
    )


class _Chart:
    """The group around one configuration.

    Args:
        rates: see `integrate_on_group`.
        base: `U_n`.
        charts: exponentials and brackets.
        n_brackets: see `inverse_dexp`.
        watched: whether the largest omega is looked at, which waits for a GPU.
    """

    def __init__(
        self, rates: Rates, base: Tensor, charts: Charts, *, n_brackets: int = 6, watched: bool = False
    ) -> None:
        self.rates, self.charts, self.watched = rates, charts, watched
        self.n_brackets = n_brackets
        self.is_complex = base.is_complex()
        self.base = torch.view_as_real(base) if self.is_complex else base
        self.size = 0.0

    def solve(
        self, state: State, t0: float, t1: float, solver: Solver, parameters: tuple[Tensor, ...]
    ) -> Solution:
        """Integrate omega from zero, and the other parts of the state, from `t0` to `t1`."""
        omega = self.base.new_zeros(len(self.base), *self.charts.tangent_shape)
        if not (solver.adjoint and torch.is_grad_enabled()):
            return integrate(self._rates, (omega, *state[1:]), t0, t1, solver)
        # The adjoint equation gives gradients to the state only. So U_n joins it, and does not move.
        begin = omega, self.base, *state[1:]
        solution = integrate(self._rates_beside_base, begin, t0, t1, solver, parameters=parameters)
        moved, _, *others = solution.state
        return replace(solution, state=(moved, *others))

    def left(self, solution: Solution) -> State:
        """Return the state at the end of a solution, no longer in the chart."""
        omega, *others = solution.state
        return self._at(self.base, omega), *others

    def _at(self, base: Tensor, omega: Tensor) -> Tensor:
        """Return `exp(omega) U_n`."""
        return self.charts.move(torch.complex(*base.unbind(-1)) if self.is_complex else base, omega)

    def _rates(self, t: Tensor, state: State) -> State:
        """Return the rates of omega and of the other parts."""
        omega, *others = state
        rate, _, *rest = self._rates_beside_base(t, (omega, self.base, *others))
        return rate, *rest

    def _rates_beside_base(self, t: Tensor, state: State) -> State:
        """Return the rates of omega, of `U_n` and of the other parts."""
        omega, base, *others = state
        if self.watched:
            self.size = max(self.size, float(self.charts.size(omega.detach()).max()))
        velocity, *rest = self.rates(t, (self._at(base, omega), *others))
        rate = inverse_dexp(omega, velocity, self.charts.bracket, self.n_brackets)
        return rate, torch.zeros_like(base), *rest
