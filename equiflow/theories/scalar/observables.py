"""Observables of a scalar field: one value (or one correlator) per configuration, before any average.

`phi` is `(batch, *lattice)` throughout; the lattice axes are all axes but the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action


def magnetisation(phi: Tensor) -> Tensor:
    """Return `M = mean_x phi_x`, `(batch,)`."""
    return phi.mean(_axes(phi))


def abs_magnetisation(phi: Tensor) -> Tensor:
    """Return `|M|`, `(batch,)`."""
    return magnetisation(phi).abs()


def phi_squared(phi: Tensor) -> Tensor:
    """Return `mean_x phi_x^2`, `(batch,)`."""
    return phi.square().mean(_axes(phi))


def phi_fourth(phi: Tensor) -> Tensor:
    """Return `mean_x phi_x^4`, `(batch,)`."""
    return phi.pow(4).mean(_axes(phi))


def susceptibility(phi: Tensor) -> Tensor:
    """Return `V M^2 = sum_x G(x)`, `(batch,)`; its average is the susceptibility of the symmetric phase."""
    return math.prod(phi.shape[1:]) * magnetisation(phi).square()


def nearest_neighbour(phi: Tensor) -> Tensor:
    """Return the mean over x and mu of `phi_x phi_{x+mu}`, `(batch,)`."""
    axes = _axes(phi)
    products = [(phi * phi.roll(-1, axis)).mean(axes) for axis in axes]
    return torch.stack(products).mean(0)


def two_point(phi: Tensor) -> Tensor:
    """Return `G(x) = mean_y phi_y phi_{y+x}` for every offset x, `(batch, *lattice)`."""
    axes = _axes(phi)
    power = torch.fft.rfftn(phi, dim=axes).abs().square()
    correlator: Tensor = torch.fft.irfftn(power, s=phi.shape[1:], dim=axes)
    return correlator / math.prod(phi.shape[1:])


def zero_momentum_correlator(phi: Tensor, axis: int = 0) -> Tensor:
    """Return `C(t)`, the sum of `G(x)` over all x with `x_axis = t`.

    It is the correlation of slices, `C(t) = 1/V sum_s S_s S_{s+t}` with `S_t = sum_{x_axis = t} phi_x`.

    Args:
        phi: `(batch, *lattice)`.
        axis: direction of the lattice along which t runs.

    Returns:
        `(batch, sides[axis])`.

    Raises:
        ValueError: if `axis` is not a direction of the lattice.
    """
    across = _across(phi, axis)
    slices = phi.sum(across) if across else phi
    return two_point(slices) / math.prod(phi.shape[a] for a in across)


def axis_two_point(phi: Tensor, axis: int = 0) -> Tensor:
    """Return `G(x)` at the sites on an axis: `x_axis = t`, and 0 in the other directions.

    Args:
        phi: `(batch, *lattice)`.
        axis: direction of the lattice along which t runs.

    Returns:
        `(batch, sides[axis])`.

    Raises:
        ValueError: if `axis` is not a direction of the lattice.
    """
    values = two_point(phi)
    for across in reversed(_across(phi, axis)):
        values = values.select(across, 0)
    return values


def structure_factor(phi: Tensor, axis: int = 0) -> Tensor:
    """Return `|phi_p|^2 / V` at the smallest momentum along `axis`, `p = 2 pi / side`.

    Args:
        phi: `(batch, *lattice)`.
        axis: direction of the momentum.

    Returns:
        `(batch,)`.

    Raises:
        ValueError: if `axis` is not a direction of the lattice.
    """
    side = phi.shape[axis + 1]
    phase = 2 * math.pi * torch.arange(side, dtype=phi.dtype, device=phi.device) / side
    correlator = zero_momentum_correlator(phi, axis)
    return correlator @ phase.cos()


def action_density(phi: Tensor, action: Action) -> Tensor:
    """Return `S[phi] / V`.

    Args:
        phi: `(batch, *lattice)`.
        action: S.

    Returns:
        `(batch,)`.
    """
    check_type(action, Action, "action")
    return action(phi) / action.lattice.volume


def _axes(phi: Tensor) -> tuple[int, ...]:
    """Return the axes of the lattice directions in `phi`."""
    return tuple(range(1, phi.dim()))


def _across(phi: Tensor, axis: int) -> tuple[int, ...]:
    """Return the axes of `phi` in the other directions of the lattice."""
    if not 0 <= axis < phi.dim() - 1:
        raise ValueError(f"axis must be 0 to {phi.dim() - 2}, a direction of the lattice; got {axis}.")
    return tuple(a for a in _axes(phi) if a != axis + 1)
