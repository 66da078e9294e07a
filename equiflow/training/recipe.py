"""What `fit` takes for what it is not told: `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from equiflow.flows import ConditionalFlow, Flow, IntegratedFlow
from equiflow.ode.solver import Solver
from equiflow.runtime import distributed
from equiflow.training.objectives.adaptive import AdaptivePathGradient
from equiflow.training.objectives.base import Objective
from equiflow.training.objectives.conditional import OverCouplings
from equiflow.training.objectives.reverse import PathGradient

#: version of what a checkpoint of training means; those of version 0.1 have none
CHECKPOINT_VERSION = 3

#: model samples per step where none are measured to suffice
BATCH_SIZE = 128
#: numbers in a batch from which steps are computed again for their gradients: without kernels, each step of
#: the solver keeps about 1.8 kB for each (`benchmarks/memory.py`)
LARGE_BATCH = 2**17


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
    def of(cls, flow: Flow | ConditionalFlow, *, sparing: bool = True) -> Recipe:
        """Return the recipe that suits a flow. `benchmarks/training.py` measures it.

        Args:
            flow: what is trained.
            sparing: whether large batches are trained with checkpoints in the solver. It takes more time and
                much less memory; kernels need neither.

        Returns:
            The recipe.
        """
        batch_size = max(flow.training_batch_size, distributed.world_size())
        adaptive = isinstance(flow, IntegratedFlow) and flow.trace_is_exact
        objective: Objective | OverCouplings = _path_gradient(flow)
        if adaptive:
            large = batch_size * flow.space.size >= LARGE_BATCH
            objective = AdaptivePathGradient(Solver("rk4", steps=3, checkpoint=sparing and large))
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
        if saved is not None and "version" not in saved:
            return cls.of_version_0_1(flow)
        return cls.of(flow, sparing=saved is None or saved["version"] > 2)


def _path_gradient(flow: Flow | ConditionalFlow) -> Objective | OverCouplings:
    """Return the path gradient by a solver that stays as it is."""
    if isinstance(flow, ConditionalFlow):
        # A range of couplings may include the critical point, which needs a larger penalty.
        return OverCouplings(PathGradient(kinetic_penalty=1e-2, solver=flow.training_solver))
    return PathGradient(solver=flow.training_solver)
