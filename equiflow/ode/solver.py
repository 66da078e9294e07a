"""Which method integrates a flow, and how to choose the cheapest one that is accurate enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

FIXED_STEP_ORDER = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "classic_rk4": 4,
    "rk4": 4,
    "rk5": 5,
}
ADAPTIVE_ORDER = {"adaptive_heun": 2, "fehlberg2": 2, "bosh3": 3, "dopri5": 5, "dopri8": 8}


class SolverError(RuntimeError):
    """The solver gave up, or what it returned is not finite."""


@dataclass(frozen=True)
class Solver:
    """How to integrate: a fixed number of steps, or steps that adapt to a tolerance.

    Args:
        method: fixed steps: `euler, midpoint, heun2, heun3, classic_rk4, rk4, rk5`; adaptive:
            `adaptive_heun, fehlberg2, bosh3, dopri5, dopri8` (torchdiffeq's names; its `rk4` is the
            3/8 rule, `classic_rk4` Kutta's, `rk5` Dormand and Prince's formula in equal steps).
        steps: number of equal steps, for fixed-step methods only.
        rtol: relative tolerance per step, for adaptive methods.
        atol: absolute tolerance per step, for adaptive methods.
        adjoint: gradients by the adjoint equation (memory independent of the number of steps) instead
            of backpropagation through the steps (gradients exact for the discrete map).
        checkpoint: backpropagation that keeps the state after each step and computes the step again
            when its gradient is due (gradients exact for the discrete map, memory of one step), for
            fixed-step methods only.
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
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in FIXED_STEP_ORDER | ADAPTIVE_ORDER:
            known = ", ".join(FIXED_STEP_ORDER | ADAPTIVE_ORDER)
            raise ValueError(f"Unknown method {self.method!r}; expected one of {known}.")
        if self.is_adaptive and self.steps is not None:
            raise ValueError(
                f"{self.method} chooses its own steps; set rtol and atol, or use rk4 with steps=N."
            )
        if not self.is_adaptive and self.steps is None:
            raise ValueError(f"{self.method} takes fixed steps; give it steps=N.")
        for name, count in (
            ("steps", 1 if self.steps is None else self.steps),
            ("max_steps", self.max_steps),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {count!r}.")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if isinstance(value, bool) or not isinstance(value, (float, int)):
                raise TypeError(f"{name} must be a number, got {value!r}.")
        if not (0 < self.rtol < 1 and 0 < self.atol < math.inf):
            raise ValueError(
                f"Tolerances must be positive and rtol below 1; got rtol={self.rtol}, atol={self.atol}."
            )
        self._check_gradient()

    def _check_gradient(self) -> None:
        for name, choice in (("adjoint", self.adjoint), ("checkpoint", self.checkpoint)):
            if not isinstance(choice, bool):
                raise TypeError(f"{name} must be True or False, got {choice!r}.")
        if self.checkpoint and (self.is_adaptive or self.adjoint):
            raise ValueError(
                "checkpoint=True is for backpropagation through fixed steps: take rk4 or rk5 with steps=N "
                "and adjoint=False."
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
class SolverChoice:
    """The cheapest solver found that reaches a target, and what was tried.

    Attributes:
        solver: the choice.
        nfe: its evaluations per sample.
        error: its error.
        target: the error that was asked for.
        trials: every solver tried with its evaluations and error, in order of the evaluations.
    """

    solver: Solver
    nfe: int
    error: float
    target: float
    trials: tuple[tuple[Solver, int, float], ...]

    def __str__(self) -> str:
        lines = [f"{solver!s:36s} nfe {nfe:4d}  error {error:.1e}" for solver, nfe, error in self.trials]
        return "\n".join([*lines, f"chosen for {self.target:g}: {self.solver}, nfe {self.nfe}"])


def choose_solver(
    measure: Callable[[Solver], tuple[float, int]],
    *,
    target: float,
    like: Solver | None = None,
    finest: float = 1e-11,
) -> SolverChoice:
    """Try fixed-step and adaptive solvers from cheap to dear until one reaches the target.

    Args:
        measure: returns the error of a solver and its number of evaluations.
        target: largest acceptable error.
        like: whose way to gradients (`adjoint`, `checkpoint`) and `max_steps` are kept.
        finest: smallest tolerance to try; below rounding it only takes more steps.

    Raises:
        SolverError: if none of the candidates reaches the target.
    """
    if not 0 < target < math.inf:
        raise ValueError(f"target must be positive and finite, got {target}.")
    like = Solver() if like is None else like
    steps = (3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64)
    fixed = [Solver("rk5", steps=n, adjoint=like.adjoint, checkpoint=like.checkpoint) for n in steps]
    tolerances = [10.0**-p for p in range(5, 12) if 10.0**-p >= 0.99 * finest]
    adaptive = [
        Solver("dopri5", rtol=tol, atol=tol, adjoint=like.adjoint, max_steps=like.max_steps)
        for tol in tolerances
    ]
    trials: list[tuple[Solver, int, float]] = []
    for family in (fixed, adaptive):
        for solver in family:
            try:
                error, nfe = measure(solver)
            except SolverError:
                continue
            trials.append((solver, nfe, error))
            if error <= target:
                break
    reached = [trial for trial in trials if trial[2] <= target]
    if not reached:
        best = min((trial[2] for trial in trials), default=math.inf)
        raise SolverError(
            f"No solver tried reaches {target:g}; the best error is {best:.1e}. Ask for less, use "
            "float64, or train with a larger kinetic penalty."
        )
    solver, nfe, error = min(reached, key=lambda trial: trial[1])
    return SolverChoice(solver, nfe, error, target, tuple(sorted(trials, key=lambda trial: trial[1])))
