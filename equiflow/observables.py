"""Observables: one value (or one correlator) per configuration, before any average.

`phi` is `(batch, *lattice)` throughout; the lattice axes are all axes but the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _axes(phi: Tensor) -> tuple[int, ...]:
    return tuple(range(1, phi.dim()))


def magnetisation(phi: Tensor) -> Tensor:
    """`M = mean_x phi_x`, `(batch,)`."""
    return phi.mean(_axes(phi))


def abs_magnetisation(phi: Tensor) -> Tensor:
    """`|M|`, `(batch,)`."""
    return magnetisation(phi).abs()


def phi_squared(phi: Tensor) -> Tensor:
    """`mean_x phi_x^2`, `(batch,)`."""
    return phi.square().mean(_axes(phi))


def phi_fourth(phi: Tensor) -> Tensor:
    """`mean_x phi_x^4`, `(batch,)`."""
    return phi.pow(4).mean(_axes(phi))


def susceptibility(phi: Tensor) -> Tensor:
    """`V M^2 = sum_x G(x)`, whose average is the susceptibility chi2 of the symmetric phase, `(batch,)`."""
    return math.prod(phi.shape[1:]) * magnetisation(phi).square()


def nearest_neighbour(phi: Tensor) -> Tensor:
    """`mean over x and mu of phi_x phi_{x+mu}`, `(batch,)`."""
    axes = _axes(phi)
    products = [(phi * phi.roll(-1, axis)).mean(axes) for axis in axes]
    return torch.stack(products).mean(0)


def two_point(phi: Tensor) -> Tensor:
    """`G(x) = mean_y phi_y phi_{y+x}` for every offset, `(batch, *lattice)`."""
    axes = _axes(phi)
    power = torch.fft.rfftn(phi, dim=axes).abs().square()
    correlator = torch.fft.irfftn(power, s=phi.shape[1:], dim=axes)
    return correlator / math.prod(phi.shape[1:])


def zero_momentum_correlator(phi: Tensor, axis: int = 0) -> Tensor:
    """`C(t) = sum over the other directions of G(x)` with `x_axis = t`, `(batch, sides[axis])`."""
    if not 0 <= axis < phi.dim() - 1:
        raise ValueError(f"axis must be 0 to {phi.dim() - 2}, a direction of the lattice; got {axis}.")
    across = tuple(a for a in _axes(phi) if a != axis + 1)
    return two_point(phi).sum(across) if across else two_point(phi)


def structure_factor(phi: Tensor, axis: int = 0) -> Tensor:
    """`|phi_p|^2 / V` at the smallest momentum along `axis`, `2 pi / side`, `(batch,)`."""
    side = phi.shape[axis + 1]
    phase = 2 * math.pi * torch.arange(side, dtype=phi.dtype, device=phi.device) / side
    correlator = zero_momentum_correlator(phi, axis)
    return correlator @ phase.cos()
