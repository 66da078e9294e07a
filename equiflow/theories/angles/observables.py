"""Observables of angles on a lattice: one value (or one correlator) per configuration, before any average.

`theta` is `(batch, *lattice)` throughout. No observable changes when an angle makes a full turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.theories.angles.space import Angles
from equiflow.theories.scalar import observables


def standard(angles: Angles) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the observables that are measured on angles unless told otherwise, by name."""
    known = [abs_magnetisation, magnetisation_squared, energy]
    if angles.lattice.dim > 1:
        known.append(vortex_density)
    return {function.__name__: function for function in known}


def abs_magnetisation(theta: Tensor) -> Tensor:
    """Return `|m|` with `m = mean_x exp(i theta_x)`, `(batch,)`."""
    return magnetisation_squared(theta).sqrt()


def magnetisation_squared(theta: Tensor) -> Tensor:
    """Return `|m|^2 = mean_x G(x)`, `(batch,)`; V times its average is the susceptibility."""
    return observables.magnetisation(theta.cos()).square() + observables.magnetisation(theta.sin()).square()


def energy(theta: Tensor) -> Tensor:
    """Return the mean over x of `-sum_mu cos(theta(x + mu) - theta(x))`, `(batch,)`: `S / (beta V)`."""
    axes = tuple(range(1, theta.dim()))
    return -torch.stack([_links(theta, axis).cos().mean(axes) for axis in axes]).sum(0)


def helicity_modulus(beta: float) -> Callable[[Tensor], Tensor]:
    r"""Return the observable whose average is the helicity modulus: the stiffness against a twist.

    `Y = [sum_x cos(d_mu theta) - beta (sum_x sin(d_mu theta))^2] / V`, averaged over the directions mu that
    are as long as the first (Teitel and Jayaprakash 1983). It equals `-d^2 log Z / d phi^2 / (beta V)` for a
    twist phi on every link along mu. In two dimensions it jumps from `2 / (pi beta)` to zero.

    Args:
        beta: coupling at which the average is taken, `beta = J / T`; the modulus is in units of J.

    Returns:
        A function of `theta` with values `(batch,)`.
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
    """Return the number of full turns around each plaquette in a plane: -1, 0 or 1.

    The plaquette at x has the corners `x`, `x + a`, `x + a + b`, `x + b`. Along each link the angle is taken
    to turn the shorter way round.

    Args:
        theta: `(batch, *lattice)`.
        axes: the directions a and b of the plane.

    Returns:
        `(batch, *lattice)`.
    """
    a, b = (axis + 1 for axis in axes)
    along, across = (_shorter(_links(theta, axis)) for axis in (a, b))
    around = along + across.roll(-1, a) - along.roll(-1, b) - across
    return (around / (2 * math.pi)).round()


def vortex_density(theta: Tensor) -> Tensor:
    """Return the number of vortices and antivortices per plaquette, `(batch,)`.

    Its average is 1/3 for independent uniform angles.

    Raises:
        ValueError: in one dimension, where there are no plaquettes.
    """
    if theta.dim() < 3:
        raise ValueError(f"Vortices need two dimensions or more, got theta of shape {tuple(theta.shape)}.")
    planes = itertools.combinations(range(theta.dim() - 1), 2)
    return torch.stack([vorticity(theta, plane).abs().flatten(1).mean(1) for plane in planes]).mean(0)


def two_point(theta: Tensor) -> Tensor:
    """Return `G(x) = mean_y cos(theta(y + x) - theta(y))` for every offset x, `(batch, *lattice)`."""
    return observables.two_point(theta.cos()) + observables.two_point(theta.sin())


def _links(theta: Tensor, axis: int) -> Tensor:
    """Return `theta(x + mu) - theta(x)`, shaped like `theta`."""
    return theta.roll(-1, axis) - theta


def _shorter(angle: Tensor) -> Tensor:
    """Return the angle between -pi and pi that differs by full turns."""
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()
