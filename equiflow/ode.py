"""Integration of ordinary differential equations: the one place that knows torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

State = tuple[Tensor, ...]
Rates = Callable[[Tensor, State], State]

FIXED_STEP_ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ADAPTIVE_ORDER = {"adaptive_heun": 2, "fehlberg2": 2, "bosh3": 3, "dopri5": 5, "dopri8": 8}


class SolverError(RuntimeError):
    """The solver gave up, or what it returned is not finite."""


@dataclass(frozen=True)
class Solver:
    """How to integrate: a fixed number of steps, or steps that adapt to a tolerance.

    Args:
        method: fixed steps: `euler, midpoint, heun2, heun3, rk4`; adaptive: `adaptive_heun, fehlberg2,
            bosh3, dopri5, dopri8` (torchdiffeq's names; its `rk4` is the 3/8 rule).
        steps: number of equal steps, for fixed-step methods only.
        rtol: relative tolerance per step, for adaptive methods.
        atol: absolute tolerance per step, for adaptive methods.
        adjoint: gradients by the adjoint equation (memory independent of the number of steps) instead
            of backpropagation through the steps (gradients exact for the discrete map).
        max_steps: an adaptive solver gives up after this many.

    Raises:
        ValueError: for an unknown method, or options that do not belong to it.
    """

    method: str = "dopri5"
    steps: int | None = None
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: bool = False
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.method not in FIXED_STEP_ORDER | ADAPTIVE_ORDER:
            known = ", ".join(FIXED_STEP_ORDER | ADAPTIVE_ORDER)
            raise ValueError(f"Unknown method {self.method!r}; expected one of {known}.")
        if self.is_adaptive and self.steps is not None:
            raise ValueError(
                f"{self.method} chooses its own steps; set rtol and atol, or use rk4 with steps=N."
            )
        if not self.is_adaptive and self.steps is None:
            raise ValueError(f"{self.method} takes fixed steps; give it steps=N.")
        for name, count in (("steps", self.steps), ("max_steps", self.max_steps)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} must be an integer >= 1, got {count!r}.")
        if not (0 < self.rtol < 1 and 0 < self.atol < math.inf):
            raise ValueError(
                f"Tolerances must be positive and rtol below 1; got rtol={self.rtol}, atol={self.atol}."
            )

    @property
    def is_adaptive(self) -> bool:
        """Whether the method chooses its steps from the tolerances."""
        return self.method in ADAPTIVE_ORDER

    @property
    def order(self) -> int:
        """Order of convergence in the step size."""
        return (FIXED_STEP_ORDER | ADAPTIVE_ORDER)[self.method]

    def refined(self) -> Solver:
        """The finer solver of a certificate: twice the steps, or tolerances 100 times smaller."""
        if self.steps is not None:
            return replace(self, steps=2 * self.steps)
        return replace(self, rtol=self.rtol / 100, atol=self.atol / 100)

    def __str__(self) -> str:
        detail = f"rtol={self.rtol:g}, atol={self.atol:g}" if self.is_adaptive else f"steps={self.steps}"
        return f"{self.method}({detail})"


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
        else:
            trajectory = odeint(counter, state, times, **common)
    except AssertionError as failure:  # torchdiffeq's way to say that it gives up
        if failure is counter.failure:  # raised by the rates themselves, not by the solver
            raise
        raise SolverError(_explain(counter, solver, f"gave up ({failure})")) from failure
    final = tuple(part[-1] for part in trajectory)
    if not all(bool(part.isfinite().all()) for part in final):
        raise SolverError(_explain(counter, solver, "returned NaN or infinite values"))
    return final


def _options(solver: Solver, times: Tensor) -> dict[str, object]:
    if solver.is_adaptive:
        # Without step_t the last step passes t1 and an interpolant of lower order steps back to it.
        return {"max_num_steps": solver.max_steps, "step_t": times}
    steps = solver.steps or 1

    def grid(func: object, y0: Tensor, t: Tensor) -> Tensor:
        return torch.linspace(float(t[0]), float(t[-1]), steps + 1, dtype=t.dtype, device=t.device)

    return {"grid_constructor": grid}


def _explain(counter: _Counted, solver: Solver, what: str) -> str:
    return (
        f"{solver} {what} at t={float(counter.t):.4g} after {counter.calls} evaluations. "
        "The vector field is too stiff or its weights diverged: look at the weights, lower the "
        "learning rate, or allow a finer solver."
    )
