"""Integration of ordinary differential equations: the one place that knows torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchdiffeq import odeint, odeint_adjoint
from torchdiffeq._impl.dopri5 import _DORMAND_PRINCE_SHAMPINE_TABLEAU as DORMAND_PRINCE
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.precision import full_precision

State = tuple[Tensor, ...]
Rates = Callable[[Tensor, State], State]


class _Explicit(FixedGridODESolver):
    """Equal steps of an explicit formula, given by its Butcher tableau."""

    nodes: ClassVar[list[float]]
    rows: ClassVar[list[list[float]]]
    weights: ClassVar[list[float]]

    def _step_func(
        self, func: Callable[..., Tensor], t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor
    ) -> tuple[Tensor, Tensor]:
        stages = [func(t0, y0)]
        for node, row in zip(self.nodes[1:], self.rows, strict=True):
            stages.append(func(t0 + node * dt, y0 + dt * _combine(row, stages)))
        return dt * _combine(self.weights, stages), stages[0]


class _RK5(_Explicit):
    """Dormand and Prince's fifth-order formula in equal steps, six evaluations each.

    On trained flows it needs about 0.7 of the evaluations of rk4, or of the adaptive dopri5, for the
    same error of log Z.
    """

    order = 5
    # The seventh stage only serves the error estimate of the adaptive method: its weight is zero.
    nodes: ClassVar = [0.0, *DORMAND_PRINCE.alpha.tolist()[:5]]
    rows: ClassVar = [row.tolist() for row in DORMAND_PRINCE.beta[:5]]
    weights: ClassVar = DORMAND_PRINCE.c_sol.tolist()[:6]


class _ClassicRK4(_Explicit):
    """The fourth-order formula of Kutta (1901) that most codes mean by RK4; torchdiffeq's is another."""

    order = 4
    nodes: ClassVar = [0.0, 0.5, 0.5, 1.0]
    rows: ClassVar = [[0.5], [0.0, 0.5], [0.0, 0.0, 1.0]]
    weights: ClassVar = [1 / 6, 1 / 3, 1 / 3, 1 / 6]


def _combine(weights: list[float], stages: list[Tensor]) -> Tensor:
    pairs = [(weight, stage) for weight, stage in zip(weights, stages, strict=True) if weight]
    total = pairs[0][0] * pairs[0][1]
    for weight, stage in pairs[1:]:
        total = total.add(stage, alpha=weight)
    return total


SOLVERS["rk5"] = _RK5
SOLVERS["classic_rk4"] = _ClassicRK4


@dataclass(frozen=True)
class Solution:
    """The state at the end of the integration, and what it took.

    Attributes:
        state: like the initial state.
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
        solver: method and its options.
        parameters: what the adjoint accumulates gradients for.
        estimate_error: also solve with `solver.refined()` and report the difference.

    Raises:
        SolverError: if the solver gives up or the result is not finite.
    """
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


class _Counted:
    """Counts evaluations and remembers the last time, for statistics and error messages."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.calls = 0
        self.t: Tensor | float = math.nan
        self.failure: AssertionError | None = None

    @full_precision
    def __call__(self, t: Tensor, state: State) -> State:
        self.calls += 1
        self.t = t
        try:
            return self.rates(t, state)
        except AssertionError as failure:
            self.failure = failure
            raise


def _solve(
    counter: _Counted,
    state: State,
    t0: float,
    t1: float,
    solver: Solver,
    parameters: tuple[Tensor, ...],
) -> State:
    times = torch.tensor([t0, t1], dtype=state[0].dtype, device=state[0].device)
    common = {"method": solver.method, "rtol": solver.rtol, "atol": solver.atol}
    common["options"] = _options(solver, times)
    try:
        if solver.adjoint and torch.is_grad_enabled():
            trained = tuple(p for p in parameters if p.requires_grad)
            # The parameters' own adjoints follow from the rest: they need not limit the step size.
            adjoint = {**_options(solver, times), "norm": "seminorm"} if solver.is_adaptive else None
            trajectory = odeint_adjoint(
                counter, state, times, adjoint_params=trained, adjoint_options=adjoint, **common
            )
        elif solver.is_adaptive:
            trajectory = odeint(counter, state, times, **common)
        else:
            trajectory = _solve_in_equal_steps(counter, state, t0, t1, solver)
    except AssertionError as failure:  # torchdiffeq's way to say that it gives up
        if failure is counter.failure:  # raised by the rates themselves, not by the solver
            raise
        raise SolverError(_explain(counter, solver, f"gave up ({failure})")) from failure
    final = tuple(part[-1] for part in trajectory)
    if not bool(torch.stack([part.isfinite().all() for part in final]).all()):
        raise SolverError(_explain(counter, solver, "returned NaN or infinite values"))
    return final


def _solve_in_equal_steps(
    rates: Rates, state: State, t0: float, t1: float, solver: Solver
) -> tuple[tuple[Tensor, ...], ...]:
    """The parts of the final state, each in a tuple as if it were a trajectory.

    The formula of a step is torchdiffeq's. Its loop over steps compares times on their device, and a GPU
    would wait for the answer at every step; this one asks nothing of the device.
    """
    sizes = [part.numel() for part in state]

    def parts(flat: Tensor) -> State:
        return tuple(p.view_as(like) for p, like in zip(flat.split(sizes), state, strict=True))

    def flat_rates(t: Tensor, flat: Tensor, **_: object) -> Tensor:
        return _flat(rates(t, parts(flat)))

    formula = SOLVERS[solver.method](func=flat_rates, y0=_flat(state), rtol=None, atol=None)
    keep_each = solver.checkpoint and torch.is_grad_enabled()

    def step(t: Tensor, end: Tensor, flat: Tensor) -> Tensor:
        return flat + formula._step_func(flat_rates, t, end - t, end, flat)[0]

    now = formula.y0
    grid = _grid(t0, t1, solver, now).unbind()
    for t, end in pairwise(grid):
        if keep_each:
            now = checkpoint(step, t, end, now, use_reentrant=False, preserve_rng_state=False)
        else:
            now = step(t, end, now)
    return tuple((part,) for part in parts(now))


def _flat(state: State) -> Tensor:
    return torch.cat([part.reshape(-1) for part in state])


def _grid(t0: float, t1: float, solver: Solver, like: Tensor) -> Tensor:
    return torch.linspace(t0, t1, (solver.steps or 1) + 1, dtype=like.dtype, device=like.device)


def _options(solver: Solver, times: Tensor) -> dict[str, object]:
    if solver.is_adaptive:
        # Without step_t the last step passes t1 and an interpolant of lower order steps back to it.
        return {"max_num_steps": solver.max_steps, "step_t": times}
    return {"grid_constructor": lambda func, y0, t: _grid(float(t[0]), float(t[-1]), solver, t)}


def _explain(counter: _Counted, solver: Solver, what: str) -> str:
    return (
        f"{solver} {what} at t={float(counter.t):.4g} after {counter.calls} evaluations. "
        "The vector field is too stiff or its weights diverged: look at the weights, lower the "
        "learning rate, or allow a finer solver."
    )
