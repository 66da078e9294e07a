"""Rates of fields of angles by operations of torch, for derivatives of any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.fused.references import Rates


def rates_in_torch(shape: tuple[int, int], tables: Any) -> Rates:
    """Return a function for the rates that `equiflow.fused.angle_fields` describes.

    Args:
        shape: sides of the lattice, two of them.
        tables: the `AngleTables` of all times.

    Returns:
        Velocity `(batch, V)` and divergence `(batch,)` of angles `(batch, V)` at the n-th time.
    """
    from equiflow.fused import modes

    left, right = (torch.from_numpy(modes.matrix(side, tables.in_modes.dtype)) for side in shape)
    n_channels, n_pairs = tables.slopes.shape[1], tables.bends.shape[2]
    c, d = torch.triu_indices(n_channels, n_channels, device="cpu")
    n_harmonics = tables.in_modes.shape[1] - n_channels - n_pairs

    def convolved(kernels: Tensor, fields: Tensor) -> Tensor:
        """Return `K * field` for kernels `(kernel, V)` and fields `(batch, part, kernel, V)`."""
        in_modes = left @ fields.unflatten(-1, shape) @ right.mT
        return (left.mT @ (kernels.unflatten(-1, shape) * in_modes) @ right).flatten(-2)

    def unit(theta: Tensor) -> Tensor:
        return torch.stack([theta.cos(), theta.sin()], 1).unsqueeze(2)

    def rates(theta: Tensor, n: int) -> tuple[Tensor, Tensor]:
        harmonics, own, products = tables.in_modes[n].split([n_harmonics, n_channels, n_pairs])
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


def _dot(u: Tensor, w: Tensor) -> Tensor:
    return u[:, 0] * w[:, 0] + u[:, 1] * w[:, 1]


def _cross(u: Tensor, w: Tensor) -> Tensor:
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]
