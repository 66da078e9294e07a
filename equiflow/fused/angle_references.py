"""Solves of fields of angles and their gradients by operations of torch, for derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from equiflow.fused.solving import Formula

#: velocity and divergence of angles `(batch, V)` at the n-th time
Rates = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def rates_in_torch(shape: tuple[int, int], tables: Any) -> Rates:
    """Return a function for the rates that `equiflow.fused.angle_fields` describes.

    Args:
        shape: sides of the lattice, two of them.
        tables: the `AngleTables` of all times.

    Returns:
        Velocity `(batch, V)` and divergence `(batch,)` of angles `(batch, V)` at the n-th time.
    """
    from equiflow.fused import modes

    left, right = (torch.from_numpy(modes.matrix(side, tables.kernels.dtype)) for side in shape)
    n_channels, n_pairs = tables.slopes.shape[1], tables.bends.shape[2]
    c, d = torch.triu_indices(n_channels, n_channels)
    n_harmonics = tables.kernels.shape[1] - n_channels - n_pairs

    def convolved(kernels: Tensor, fields: Tensor) -> Tensor:
        """Return `K * field` for kernels `(kernel, V)` and fields `(batch, part, kernel, V)`."""
        in_modes = left @ fields.unflatten(-1, shape) @ right.mT
        return (left.mT @ (kernels.unflatten(-1, shape) * in_modes) @ right).flatten(-2)

    def unit(theta: Tensor) -> Tensor:
        return torch.stack([theta.cos(), theta.sin()], 1).unsqueeze(2)

    def rates(theta: Tensor, n: int) -> tuple[Tensor, Tensor]:
        harmonics, own, products = tables.kernels[n].split([n_harmonics, n_channels, n_pairs])
        u, double = unit(theta), unit(2 * theta)
        w = convolved(own, u)
        e, m = _dot(u, w), _cross(u, w)
        overlap = products[:, :1]
        g = m[:, c] * m[:, d] + (overlap - _dot(double, convolved(products, double))) / 2
        angles = torch.pi * (tables.angles @ e + tables.phase[:, None])
        slope = tables.slopes[n] @ angles.sin()
        q = convolved(harmonics[:1], u) + convolved(own, slope.unsqueeze(1) * u).sum(2, keepdim=True)
        velocity = _cross(u, q).squeeze(1) + (slope * m).sum(1)
        of_sites = (angles.cos() * (tables.bends[n] @ g)).sum(1) - _dot(u, q).squeeze(1)
        of_sites = of_sites + (slope * (2 * tables.at_origin[n][:, None] - e)).sum(1)
        for k in range(2, n_harmonics + 1):
            u_k = unit(k * theta)
            p = convolved(harmonics[k - 1 : k], u_k)
            velocity = velocity + _cross(u_k, p).squeeze(1)
            of_sites = of_sites - k * _dot(u_k, p).squeeze(1)
        return velocity, of_sites.sum(1) + tables.constant[n]

    return rates


def solve_in_torch(
    theta: Tensor, rates: Rates, n_times: int, formula: Formula
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `angle_solving.solve` returns, by operations of torch.

    Args:
        theta: `(batch, *lattice)`.
        rates: of `rates_in_torch`.
        n_times: number of evaluations.
        formula: of a step.

    Returns:
        The final angles, `int div v dt` and `int sum_x v_x^2 dt`.
    """
    y = theta.flatten(1)
    log_det = energy = theta.new_zeros(len(theta))
    for first in range(0, n_times, len(formula.weights)):
        stages: list[Tensor] = []
        for i, (row, weight) in enumerate(zip(formula.matrix, formula.weights, strict=True)):
            at = y + formula.h * sum((a * k for a, k in zip(row, stages, strict=False)), torch.zeros_like(y))
            velocity, divergence = rates(at, first + i)
            stages.append(velocity)
            log_det = log_det + formula.h * weight * divergence
            energy = energy + formula.h * weight * velocity.square().sum(1)
        y = y + formula.h * sum(b * k for b, k in zip(formula.weights, stages, strict=True))
    return y.view_as(theta), log_det, energy


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


def _dot(u: Tensor, w: Tensor) -> Tensor:
    return u[:, 0] * w[:, 0] + u[:, 1] * w[:, 1]


def _cross(u: Tensor, w: Tensor) -> Tensor:
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]
