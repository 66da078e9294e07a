"""Solves and their gradients by operations of torch, which can be differentiated any number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: velocity `(batch, V)` and divergence `(batch,)` of configurations `(batch, V)` at the n-th time
Rates = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Formula:
    """Equal steps of an explicit Runge-Kutta method.

    Attributes:
        matrix: a, `(stage, stage)`.
        weights: b, `(stage,)`.
        h: length of a step, with its sign.
    """

    matrix: Sequence[Sequence[float]]
    weights: Sequence[float]
    h: float

    def arrays(self, dtype: Any) -> tuple[tuple[Any, Any], Any]:
        """Return matrix and weights as the kernels take them, and h."""
        n = len(self.weights)
        matrix = np.zeros((n, n), dtype)
        for i, row in enumerate(self.matrix):
            matrix[i, : len(row)] = row
        return (matrix, np.array(self.weights, dtype)), matrix.dtype.type(self.h)


def solve_in_torch(
    phi: Tensor, rates: Rates, n_times: int, formula: Formula
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry configurations through all steps, by operations of torch.

    Args:
        phi: `(batch, *lattice)`.
        rates: of the field at each time.
        n_times: number of evaluations.
        formula: of a step.

    Returns:
        The final phi, `int div v dt` and `int sum_x v_x^2 dt`.
    """
    y = phi.flatten(1)
    log_det = energy = phi.new_zeros(len(phi))
    for first in range(0, n_times, len(formula.weights)):
        stages: list[Tensor] = []
        for i, (row, weight) in enumerate(zip(formula.matrix, formula.weights, strict=True)):
            at = y + formula.h * sum((a * k for a, k in zip(row, stages, strict=False)), torch.zeros_like(y))
            velocity, divergence = rates(at, first + i)
            stages.append(velocity)
            log_det = log_det + formula.h * weight * divergence
            energy = energy + formula.h * weight * velocity.square().sum(1)
        y = y + formula.h * sum(b * k for b, k in zip(formula.weights, stages, strict=True))
    return y.view_as(phi), log_det, energy


def gradients_in_torch(
    inputs: Sequence[Tensor],
    results: Sequence[Tensor],
    of_results: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return gradients with a graph of their own.

    Args:
        inputs: what to differentiate in.
        results: made of the inputs by operations of torch.
        of_results: gradients with respect to the results; None where nobody uses one.
        needed: which inputs need a gradient.

    Returns:
        The gradient for each input, None where it is not needed.
    """
    wanted = [x for x, wants in zip(inputs, needed, strict=True) if wants]
    pairs = [(result, g) for result, g in zip(results, of_results, strict=True) if g is not None]
    outputs, given = [result for result, _ in pairs], [g for _, g in pairs]
    options = {"create_graph": True, "materialize_grads": True}
    found = iter(torch.autograd.grad(outputs, wanted, given, **options))
    return [next(found) if wants else None for wants in needed]
