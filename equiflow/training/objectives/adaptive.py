"""The path gradient with a solver as fine as the flow needs: `AdaptivePathGradient`, the default of `fit`.

An objective that changes while it trains has a state of its own, an `Adaptation`, which a training run owns,
saves in its checkpoint and asks for the objective of each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from equiflow.flows import Flow, IntegratedFlow
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count, check_positive, check_type, make_plain
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import Objective, ObjectiveValue, that_integrates
from equiflow.training.objectives.reverse import PathGradient

#: samples on which the error of the solver is measured
CHECKED_SAMPLES = 8
#: training steps between two checks: at first and after an error, and in calm times
FEWEST_BETWEEN, MOST_BETWEEN = 5, 25
#: the solver is made so fine that the error is expected to be this part of the tolerance
AIM = 0.25
#: an error of so many tolerances cannot be repaired by a finer solver: the weights themselves are lost
LOST = 50.0
#: smallest factor on the number of steps at one check
LEAST_AT_ONCE = 0.8


@dataclass(frozen=True)
class AdaptivePathGradient:
    """`PathGradient` with a penalty that decays, and in as many steps of the solver as the flow needs.

    Every few steps, the log weights of 8 samples are computed in twice the steps of the solver. If the change
    scatters by more than the tolerance, training goes on in more steps; if fewer would do, in fewer. A
    constant change does no harm, because it cancels in all weights. Training that has run away is set back
    to the last weights at which the solver was accurate, with half the learning rate.

    Weights that a coarse solver has trained make up for its error, and miss their optimum by that. Toward the
    end, training therefore takes more steps and a smaller penalty (`benchmarks/training.py`).

    Args:
        solver: the coarsest solver, in equal steps, with which training begins.
        first_penalty: the kinetic penalty of `PathGradient` at the beginning. Straight trajectories keep the
            field from becoming stiff while learning is fast.
        last_penalty: the penalty at the end; in between it decays exponentially.
        tolerance: largest standard deviation of the solver's error of the log weights.
        last_steps: the fewest steps of the solver at the end; in between their number grows linearly.
        max_steps: largest number of steps of the solver. Where it is too coarse, too, training is set back.

    Raises:
        TypeError: if the solver is none, or a number is of the wrong type.
        ValueError: if the solver adapts its steps, or a number is out of range.

    >>> [AdaptivePathGradient().fewest_steps(progress) for progress in (0.0, 0.5, 1.0)]
    [3, 4, 5]
    """

    solver: Solver = Solver("rk4", steps=3)  # noqa: RUF009 - it is frozen
    first_penalty: float = 1e-2
    last_penalty: float = 3e-5
    tolerance: float = 0.1
    last_steps: int = 5
    max_steps: int = 24

    def __post_init__(self) -> None:
        make_plain(self, "first_penalty", "last_penalty", "tolerance", "last_steps", "max_steps")
        check_type(self.solver, Solver, "solver", 'Write Solver("rk4", steps=3).')
        for name in ("first_penalty", "last_penalty", "tolerance"):
            check_positive(getattr(self, name), name)
        check_count(self.last_steps, "last_steps")
        check_type(self.max_steps, int, "max_steps")
        if self.solver.steps is None or self.max_steps < self.solver.steps:
            raise ValueError(
                f"Expected a solver with equal steps, at most max_steps={self.max_steps} of them, got "
                f'{self.solver}. Write Solver("rk4", steps=3).'
            )

    def check_suits(self, flow: Flow, action: Action) -> None:
        """See `Selective.check_suits`; the trace must be exact."""
        that_integrates(flow, self, instead="ReverseKL()").demand_exact_trace()

    def penalty(self, progress: float) -> float:
        """Return the kinetic penalty after a part of the training, from 0 to 1."""
        return self.first_penalty * (self.last_penalty / self.first_penalty) ** progress

    def fewest_steps(self, progress: float) -> int:
        """Return the fewest steps of the solver after a part of the training, from 0 to 1."""
        assert self.solver.steps is not None
        first = self.solver.steps
        last = max(first, min(self.last_steps, self.max_steps))
        return round(first + (last - first) * progress)

    def at(self, progress: float, *, steps: int | None = None) -> PathGradient:
        """Return the objective after a part of the training.

        Args:
            progress: part of the training, from 0 to 1.
            steps: number of steps of the solver; by default the fewest.

        Returns:
            What is minimised then.
        """
        solver = self.solver if steps is None else replace(self.solver, steps=steps)
        return PathGradient(kinetic_penalty=self.penalty(progress), solver=solver)

    def adaptation(self) -> Adaptation:
        """Return the state with which a training run begins."""
        assert self.solver.steps is not None
        return Adaptation(self, self.solver.steps)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`; in a loop of your own, the objective at the end, in the fewest steps."""
        return self.at(1.0)(flow, action, batch_size, generator)


@runtime_checkable
class Adaptive(Protocol):
    """An objective that changes while it trains."""

    def adaptation(self) -> Adaptation | None:
        """Return the state with which a training run begins; None if this one does not change after all."""


@dataclass(frozen=True)
class Check:
    """A measurement of the solver's error.

    Attributes:
        error: standard deviation of the error of log weights.
        is_small: whether it is below the tolerance, so that the weights can be trusted.
        is_lost: whether it is too large for a finer solver to help.
    """

    error: float
    is_small: bool
    is_lost: bool


class Adaptation:
    """How an `AdaptivePathGradient` stands in one training run.

    Args:
        objective: the objective, which does not change.
        steps: number of steps of the solver.
    """

    def __init__(self, objective: AdaptivePathGradient, steps: int) -> None:
        self.objective = objective
        self.steps = steps
        self.fewest = objective.fewest_steps(0.0)
        self.due, self.between = FEWEST_BETWEEN, FEWEST_BETWEEN

    def at(self, progress: float) -> Objective:
        """Return what is minimised after a part of the training, from 0 to 1."""
        self.fewest = self.objective.fewest_steps(progress)
        self.steps = max(self.steps, self.fewest)
        return self.objective.at(progress, steps=self.steps)

    def is_due(self, step: int) -> bool:
        """Return whether the error is measured before a training step."""
        return step >= self.due

    def hasten(self) -> None:
        """Let the error be measured before the next step."""
        self.due = 0

    def refine(self, step: int) -> None:
        """Take half as many steps more, after training has run away at a step."""
        self.steps = min(self.objective.max_steps, self.steps + (self.steps + 1) // 2)
        self.due, self.between = step + FEWEST_BETWEEN, FEWEST_BETWEEN

    def check(self, flow: Flow, action: Action, *, step: int, seed: int) -> Check:
        """Measure the error of the solver and choose the number of its steps.

        Args:
            flow: what is trained.
            action: its target.
            step: number of the training step to come.
            seed: of the samples, which depend on the step too.

        Returns:
            The error. If it is lost, the caller should set the weights back.
        """
        # The same samples in all processes: a generator that is not shared between them.
        error = distributed.from_first(lambda: self.error(flow, action, seed=seed + step))
        tolerance, before = self.objective.tolerance, self.steps
        lost = not error <= LOST * tolerance or (before == self.objective.max_steps and error > tolerance)
        self._choose_steps(error)
        calm = error <= tolerance / 2 and self.steps <= before
        self.between = min(MOST_BETWEEN, self.between + FEWEST_BETWEEN) if calm else FEWEST_BETWEEN
        self.due = step + self.between
        return Check(error, is_small=error <= tolerance, is_lost=lost)

    def error(self, flow: Flow, action: Action, *, seed: int) -> float:
        """Return the standard deviation of the change of log weights in twice the steps.

        It is infinite if a solve has no finite end.

        Args:
            flow: what is trained.
            action: its target.
            seed: of the samples.

        Returns:
            The error of the present number of steps.

        Raises:
            ValueError: if the trace of the vector field is estimated.
        """
        return self.error_and_variance(flow, action, seed=seed)[0]

    @torch.no_grad()
    def error_and_variance(self, flow: Flow, action: Action, *, seed: int) -> tuple[float, float]:
        """Return the error, see `error`, and the variance of log w in twice the steps.

        Args:
            flow: what is trained.
            action: its target.
            seed: of the samples.

        Returns:
            Both, each infinite if a solve has no finite end.

        Raises:
            ValueError: if the trace of the vector field is estimated.
        """
        continuous = that_integrates(flow, self.objective, instead="ReverseKL()")
        continuous.demand_exact_trace()  # the noise of an estimate is larger than the error
        generator = torch.Generator(flow.device).manual_seed(seed % 2**63)
        z = flow.prior.rsample(CHECKED_SAMPLES, generator)
        coarse = replace(self.objective.solver, steps=self.steps)
        try:
            now, finer = (_log_weight(continuous, action, z, by) for by in (coarse, coarse.refined()))
        except SolverError:
            return math.inf, math.inf
        error = float((finer - now).std())
        variance = float((finer - flow.prior.log_prob(z).double()).var())
        return (error if math.isfinite(error) else math.inf), variance

    def coarsened_to(self, error: float, steps: int) -> float:
        """Return the error to be expected in another number of steps.

        Args:
            error: in the present number of steps.
            steps: the other number.

        Returns:
            What the order of the method says.
        """
        return error * (self.steps / steps) ** self.objective.solver.order

    def _choose_steps(self, error: float) -> None:
        """Take as many steps as an error asks for, between 0.8 and 2 times as many as now."""
        objective, now = self.objective, self.steps
        if error > objective.tolerance:
            wanted = now * min(2.0, (error / (AIM * objective.tolerance)) ** (1 / objective.solver.order))
            self.steps = min(objective.max_steps, max(now + 1, round(wanted)))
        else:
            fewest = max(self.fewest, math.ceil(LEAST_AT_ONCE * now))
            will_do = (n for n in range(fewest, now) if self.coarsened_to(error, n) < objective.tolerance / 2)
            self.steps = next(will_do, now)

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.objective.solver.method}"

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"steps": self.steps, "fewest": self.fewest, "due": self.due, "between": self.between}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.steps, self.due, self.between = state["steps"], state["due"], state["between"]
        self.fewest = state.get("fewest", self.fewest)  # files of the first recipe lack it


def _log_weight(flow: IntegratedFlow, action: Action, z: torch.Tensor, solver: Solver) -> torch.Tensor:
    """Return `log det - S` of the samples at the end of a solve, up to the constant `log prior(z)`."""
    phi, log_det = flow.transform_by(solver, z)
    return (log_det - action(phi)).double()
