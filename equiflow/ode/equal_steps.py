"""Integration in equal steps of an explicit Runge-Kutta method, and the three ways to its gradient.

`solve_in_equal_steps` is the entry. No step looks at the value of a tensor, so a GPU is never waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equiflow.ode.adjoint import FlatRates, solve_with_adjoint
from equiflow.ode.solver import Gradient
from equiflow.ode.tableaus import TABLEAUS, Tableau


class Formula:
    """One step of an explicit Runge-Kutta method.

    Args:
        tableau: the coefficients; they are rounded to floats once.
    """

    def __init__(self, tableau: Tableau) -> None:
        self.nodes = [float(node) for node in tableau.nodes]
        self.rows = [[float(a) for a in row] for row in tableau.rows]
        self.weights = [float(weight) for weight in tableau.weights]

    def increment(self, rates: FlatRates, t: Tensor, end: Tensor, y: Tensor) -> Tensor:
        """Return `y(end) - y(t) = h sum_i b_i k_i`, `(n,)`, with `h = end - t`.

        Args:
            rates: right-hand side of the equation.
            t: time at the beginning of the step, 0-d.
            end: time at the end of the step, 0-d.
            y: state at the beginning of the step, `(n,)`.

        Returns:
            The increment of the state, `(n,)`.
        """
        h = end - t
        stages = [rates(t, y)]
        for node, row in zip(self.nodes[1:], self.rows, strict=True):
            stages.append(rates(t + node * h, y + h * _combine(row, stages)))
        return h * _combine(self.weights, stages)


class _Heun3(Formula):
    """Heun's third-order formula in the order of operations of torchdiffeq's heun3."""

    def increment(self, rates: FlatRates, t: Tensor, end: Tensor, y: Tensor) -> Tensor:
        h = end - t
        k1 = rates(t, y)
        k2 = rates(t + h * (1 / 3), y + h * k1 * (1 / 3))
        k3 = rates(t + h * (2 / 3), y + h * (k2 * (2 / 3)))
        return h * (k1 * 0.25 + k3 * 0.75)


class _ThreeEighths(Formula):
    """The 3/8 rule in the order of operations of torchdiffeq's rk4."""

    def increment(self, rates: FlatRates, t: Tensor, end: Tensor, y: Tensor) -> Tensor:
        h = end - t
        k1 = rates(t, y)
        k2 = rates(t + h * (1 / 3), y + h * k1 * (1 / 3))
        k3 = rates(t + h * (2 / 3), y + h * (k2 - k1 * (1 / 3)))
        k4 = rates(end, y + h * (k1 - k2 + k3))
        return (k1 + 3 * (k2 + k3) + k4) * h * 0.125


# Two formulas are written out in the order in which all saved results were rounded: none may change by a bit.
_WRITTEN_OUT: dict[str, type[Formula]] = {"heun3": _Heun3, "rk4": _ThreeEighths}
FORMULAS = {name: _WRITTEN_OUT.get(name, Formula)(tableau) for name, tableau in TABLEAUS.items()}


def _combine(weights: list[float], stages: list[Tensor]) -> Tensor:
    """Return `sum_j weights_j stages_j`, leaving out zero weights."""
    pairs = [(weight, stage) for weight, stage in zip(weights, stages, strict=True) if weight]
    total = pairs[0][0] * pairs[0][1]
    for weight, stage in pairs[1:]:
        total = total.add(stage, alpha=weight)
    return total


def solve_in_equal_steps(
    rates: FlatRates,
    y: Tensor,
    t0: float,
    t1: float,
    *,
    method: str,
    steps: int,
    gradient: Gradient = Gradient.BACKPROPAGATION,
    parameters: Iterable[Tensor] = (),
) -> Tensor:
    """Solve `dy/dt = rates(t, y)` from `t0` to `t1` in equal steps.

    Args:
        rates: right-hand side of the equation.
        y: initial state, `(n,)`.
        t0: initial time.
        t1: final time, before or after `t0`.
        method: a name in `TABLEAUS`.
        steps: number of steps.
        gradient: how gradients are computed, if autograd is recording.
        parameters: tensors that get gradients from the adjoint equation.

    Returns:
        The final state, `(n,)`.
    """
    recording = torch.is_grad_enabled()
    repeat = recording and gradient is Gradient.CHECKPOINTED

    def solve(rates: FlatRates, y: Tensor, t0: float, t1: float) -> Tensor:
        return _walk(FORMULAS[method], rates, y, t0, t1, steps=steps, repeat=repeat)

    if recording and gradient is Gradient.ADJOINT:
        return solve_with_adjoint(solve, rates, y, t0, t1, parameters)
    return solve(rates, y, t0, t1)


def _walk(
    formula: Formula, rates: FlatRates, y: Tensor, t0: float, t1: float, *, steps: int, repeat: bool
) -> Tensor:
    """Take all steps; with `repeat`, backpropagation computes each step again and keeps no stages."""

    def step(t: Tensor, end: Tensor, y: Tensor) -> Tensor:
        return y + formula.increment(rates, t, end, y)

    for t, end in pairwise(torch.linspace(t0, t1, steps + 1, dtype=y.dtype, device=y.device).unbind()):
        if repeat:
            y = checkpoint(step, t, end, y, use_reentrant=False, preserve_rng_state=False)
        else:
            y = step(t, end, y)
    return y
