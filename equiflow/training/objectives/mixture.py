"""Several objectives at once: `Mixture`, a weighted sum of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import Objective, ObjectiveValue, check_suits


class Mixture:
    """A convex combination of objectives, `sum_i w_i L_i`; gradient and loss are weighted sums.

    Reverse and forward divergence together keep every mode of the samples and still see the action.
    Each part draws its own batch, in the order given. The ESS in the history comes from the first part that
    draws model samples, or else from the first part with target samples.

    Args:
        parts: pairs of an objective and its weight; the weights are positive and add up to 1.

    Raises:
        TypeError: if a part is not a pair of an objective and a weight.
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

    def check_suits(self, flow: Flow, action: Action) -> None:
        """See `Selective.check_suits`; every part is checked."""
        for objective, _ in self.parts:
            check_suits(objective, flow, action)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`; each part draws `batch_size` samples."""
        values = [objective(flow, action, batch_size, generator) for objective, _ in self.parts]
        weights = [weight for _, weight in self.parts]

        def first(name: str) -> Tensor | None:
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
