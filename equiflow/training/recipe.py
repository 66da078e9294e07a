"""What `fit` takes for what it is not told: `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from equiflow.flows import ConditionalFlow, Flow, IntegratedFlow
from equiflow.runtime import distributed
from equiflow.training.objectives.adaptive import AdaptivePathGradient
from equiflow.training.objectives.base import Objective
from equiflow.training.objectives.conditional import OverCouplings
from equiflow.training.objectives.reverse import PathGradient

#: version of what a checkpoint of training means; those of version 0.1 have none
CHECKPOINT_VERSION = 2

#: model samples per step where none are measured to suffice
BATCH_SIZE = 128


@dataclass(frozen=True)
class Recipe:
    """How to train a flow.

    Attributes:
        steps: optimiser steps.
        batch_size: model samples per step, over all processes.
        objective: what is minimised.
        eps: what Adam adds to the root of the squared gradient. At the start, some weights have gradients of
            pure rounding. A smaller number would turn them into full steps, in other directions on other
            machines.
    """

    steps: int
    batch_size: int
    objective: Objective | OverCouplings
    eps: float

    @classmethod
    def of(cls, flow: Flow | ConditionalFlow) -> Recipe:
        """Return the recipe that suits a flow. `benchmarks/training.py` measures it."""
        batch_size = max(flow.training_batch_size, distributed.world_size())
        adaptive = isinstance(flow, IntegratedFlow) and flow.trace_is_exact
        objective = AdaptivePathGradient() if adaptive else _path_gradient(flow)
        return cls(flow.training_steps, batch_size, objective, eps=1e-5)

    @classmethod
    def of_version_0_1(cls, flow: Flow | ConditionalFlow) -> Recipe:
        """Return the recipe of version 0.1, for runs that it has begun."""
        return cls(600, BATCH_SIZE, _path_gradient(flow), eps=1e-8)

    @classmethod
    def to_go_on(cls, flow: Flow | ConditionalFlow, saved: dict[str, Any] | None) -> Recipe:
        """Return the recipe of a run, which may have been begun by an earlier version.

        Args:
            flow: what is trained.
            saved: content of the checkpoint that the run goes on from; None for a new run.

        Returns:
            The recipe of the version that began the run.
        """
        return cls.of(flow) if saved is None or "version" in saved else cls.of_version_0_1(flow)


def _path_gradient(flow: Flow | ConditionalFlow) -> Objective | OverCouplings:
    """Return the path gradient by a solver that stays as it is."""
    if isinstance(flow, ConditionalFlow):
        # A range of couplings may include the critical point, which needs a larger penalty.
        return OverCouplings(PathGradient(kinetic_penalty=1e-2, solver=flow.training_solver))
    return PathGradient(solver=flow.training_solver)
