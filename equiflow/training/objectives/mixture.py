"""Several objectives at once."""

from __future__ import annotations

import math

import torch

from equiflow.flows import Flow
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import Objective, ObjectiveValue


class Mixture:
    """A convex combination of objectives: the gradient, and the loss, are weighted sums of theirs.

    Reverse and forward divergence together keep every mode of the samples and still see the action.
    Each part draws a batch of its own, in the order given. The ESS in the history is that of the first
    part that draws model samples, else that of the first with target samples.

    Args:
        parts: objectives with their weights, which are positive and add up to 1.

    Raises:
        ValueError: without parts, or for weights that are not positive or do not add up to 1.

    >>> from equiflow import PathGradient, ReverseKL
    >>> Mixture((ReverseKL(), 0.25), (PathGradient(), 0.75))
    Mixture((ReverseKL(), 0.25), (PathGradient(kinetic_penalty=0.001, solver=None), 0.75))
    """

    def __init__(self, *parts: tuple[Objective, float]) -> None:
        weights = []
        for part in parts:
            if not (isinstance(part, tuple) and len(part) == 2 and callable(part[0])):
                raise TypeError(
                    f"Each part must be a pair (objective, weight), got {part!r}. "
                    "Write Mixture((ReverseKL(), 0.5), (ForwardKL(samples), 0.5))."
                )
            weights.append(float(part[1]))
        if not all(weight > 0 for weight in weights) or not math.isclose(sum(weights), 1.0, rel_tol=1e-9):
            raise ValueError(f"Weights must be positive and add up to 1, got {weights}.")
        self.parts = tuple((part[0], weight) for part, weight in zip(parts, weights, strict=True))

    def __repr__(self) -> str:
        return f"Mixture({', '.join(f'({objective!r}, {weight!r})' for objective, weight in self.parts)})"

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`; `batch_size` is that of each part."""
        values = [objective(flow, action, batch_size, generator) for objective, _ in self.parts]
        weights = [weight for _, weight in self.parts]

        def first(name: str) -> torch.Tensor | None:
            found = (getattr(value, name) for value in values)
            return next((log_weight for log_weight in found if log_weight is not None), None)

        pairs = list(zip(weights, values, strict=True))
        return ObjectiveValue(
            torch.stack([weight * value.surrogate for weight, value in pairs]).sum(),
            first("log_weight"),
            sum(value.nfe for value in values),
            value=torch.stack([weight * value.loss for weight, value in pairs]).sum(),
            target_log_weight=first("target_log_weight"),
        )
