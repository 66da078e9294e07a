"""Where fermions are: the density around the centre of the trap and the density of pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def shell_volumes(edges: Tensor, dim: int) -> Tensor:
    """Return the volumes between spheres of ascending radii, `(bin,)`.

    Args:
        edges: radii, `(bin + 1,)`.
        dim: dimension of space.

    Returns:
        `pi^{dim/2} / Gamma(dim/2 + 1) (r_{k+1}^dim - r_k^dim)`.
    """
    unit_ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
    volumes: Tensor = unit_ball * edges.pow(dim).diff()
    return volumes


def radial_density(x: Tensor, edges: Tensor) -> Tensor:
    """Return the density of particles around the centre of the trap, `n(r) = <sum_i delta(x_i - r)>`.

    Args:
        x: positions, `(batch, particle, dim)`.
        edges: radii that bound the bins, ascending, `(bin + 1,)`.

    Returns:
        The average over each shell, `(batch, bin)`; the integral over space is the number of particles.
    """
    return _counts(x.norm(dim=-1), edges) / shell_volumes(edges, x.shape[-1])


def pair_density(x: Tensor, edges: Tensor) -> Tensor:
    """Return the density of pairs at a distance, `<sum_{i<j} delta(x_i - x_j - r)>`.

    For fermions it vanishes like r^2 at r = 0.

    Args:
        x: positions, `(batch, particle, dim)`.
        edges: distances that bound the bins, ascending, `(bin + 1,)`.

    Returns:
        The average over each shell, `(batch, bin)`; the integral over space is the number of pairs.
    """
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    return _counts((x[:, i] - x[:, j]).norm(dim=-1), edges) / shell_volumes(edges, x.shape[-1])


def _counts(distance: Tensor, edges: Tensor) -> Tensor:
    """Return how many distances `(batch, n)` are in each bin, `(batch, bin)`."""
    inside = (distance[..., None] >= edges[:-1]) & (distance[..., None] < edges[1:])
    return inside.sum(1).to(edges.dtype)
