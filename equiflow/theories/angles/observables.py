"""Observables of angles on a lattice: one value (or one correlator) per configuration, before any average.

`theta` is `(batch, *lattice)`; nothing here changes when an angle makes a full turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.theories.scalar import observables


def abs_magnetisation(theta: Tensor) -> Tensor:
    """`|m|` with `m = mean_x exp(i theta_x)`, `(batch,)`."""
    return magnetisation_squared(theta).sqrt()


def magnetisation_squared(theta: Tensor) -> Tensor:
    """`|m|^2 = mean_x G(x)`; V times its average is the susceptibility, `(batch,)`."""
    return observables.magnetisation(theta.cos()).square() + observables.magnetisation(theta.sin()).square()


def energy(theta: Tensor) -> Tensor:
    """`-sum_mu cos(theta(x + mu) - theta(x))`, averaged over sites, `(batch,)`; `S / (beta V)`."""
    axes = tuple(range(1, theta.dim()))
    return -torch.stack([_links(theta, axis).cos().mean(axes) for axis in axes]).sum(0)


def helicity_modulus(beta: float) -> Callable[[Tensor], Tensor]:
    r"""How stiff the angles are against a twist, in units of the coupling J (of `beta = J / T`).

    `Y = [sum_x cos(d_mu theta) - beta (sum_x sin(d_mu theta))^2] / V`, averaged over directions mu that
    are as long as the first (Teitel and Jayaprakash 1983). It is `-d^2 log Z / d phi^2 / (beta V)` for a
    twist phi on every link along mu. In two dimensions it jumps from `2 / (pi beta)` to zero.

    Returns:
        The function of `theta`, `(batch,)`, to average at that beta.
    """

    def modulus(theta: Tensor) -> Tensor:
        axes = tuple(range(1, theta.dim()))
        found = []
        for axis in axes:
            if theta.shape[axis] == theta.shape[1]:
                links = _links(theta, axis)
                found.append(
                    links.cos().mean(axes) - beta * links.sin().sum(axes).square() / theta[0].numel()
                )
        return torch.stack(found).mean(0)

    return modulus


def vorticity(theta: Tensor, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """Full turns around each plaquette in the plane of two directions, -1, 0 or 1, `(batch, *lattice)`.

    The plaquette at x has the corners `x`, `x + a`, `x + a + b`, `x + b`; each link counts as the shorter
    way round.
    """
    a, b = (axis + 1 for axis in axes)
    along, across = (_shorter(_links(theta, axis)) for axis in (a, b))
    around = along + across.roll(-1, a) - along.roll(-1, b) - across
    return (around / (2 * math.pi)).round()


def vortex_density(theta: Tensor) -> Tensor:
    """Vortices and antivortices per plaquette, `(batch,)`; 1/3 of independent uniform angles.

    Raises:
        ValueError: in one dimension, where nothing can be gone around.
    """
    if theta.dim() < 3:
        raise ValueError(f"Vortices need two dimensions or more, got theta of shape {tuple(theta.shape)}.")
    planes = itertools.combinations(range(theta.dim() - 1), 2)
    return torch.stack([vorticity(theta, plane).abs().flatten(1).mean(1) for plane in planes]).mean(0)


def two_point(theta: Tensor) -> Tensor:
    """`G(x) = mean_y cos(theta(y + x) - theta(y))` for every offset, `(batch, *lattice)`."""
    return observables.two_point(theta.cos()) + observables.two_point(theta.sin())


def _links(theta: Tensor, axis: int) -> Tensor:
    """`theta(x + mu) - theta(x)`."""
    return theta.roll(-1, axis) - theta


def _shorter(angle: Tensor) -> Tensor:
    """The angle itself, up to full turns between -pi and pi."""
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()
