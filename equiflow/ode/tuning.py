"""Choice of the cheapest solver that is accurate enough: `choose_solver`, which `flow.tune_solver` calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.checks import plain

#: numbers of equal steps to try, from cheap to dear
STEPS = (3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64)
#: tolerances to try, from loose to tight
TOLERANCES = tuple(10.0**-digits for digits in range(5, 12))


@dataclass(frozen=True)
class SolverChoice:
    """The cheapest solver found that reaches a target, and the solvers tried on the way.

    Attributes:
        solver: the choice.
        nfe: its evaluations per sample.
        error: its error.
        target: the largest acceptable error.
        trials: every solver tried with its evaluations and its error, in order of the evaluations.
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
    """Try fixed-step and adaptive solvers from cheap to dear until one of each kind reaches the target.

    Args:
        measure: returns the error of a solver and its number of evaluations.
        target: largest acceptable error.
        like: solver whose `adjoint`, `checkpoint` and `max_steps` the candidates keep; by default
            `Solver()`.
        finest: smallest tolerance to try. A tolerance below rounding costs steps and gains nothing.

    Returns:
        The cheapest solver that reaches the target, with all trials.

    Raises:
        ValueError: if the target is not positive and finite.
        SolverError: if none of the candidates reaches the target.
    """
    target = plain(target)
    if not 0 < target < math.inf:
        raise ValueError(f"target must be positive and finite, got {target}.")
    trials: list[tuple[Solver, int, float]] = []
    for kind in _candidates(Solver() if like is None else like, finest):
        for solver in kind:
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


def _candidates(like: Solver, finest: float) -> tuple[list[Solver], list[Solver]]:
    """Return fixed-step and adaptive solvers, each from cheap to dear."""
    fixed = [Solver("rk5", steps=n, adjoint=like.adjoint, checkpoint=like.checkpoint) for n in STEPS]
    # A tolerance that equals `finest` up to rounding is tried too.
    tolerances = [tolerance for tolerance in TOLERANCES if tolerance >= 0.99 * finest]
    adaptive = [
        Solver("dopri5", rtol=tolerance, atol=tolerance, adjoint=like.adjoint, max_steps=like.max_steps)
        for tolerance in tolerances
    ]
    return fixed, adaptive
