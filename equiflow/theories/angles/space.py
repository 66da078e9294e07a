"""The space of angles on a lattice: a torus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Angles(Space):
    r"""An angle on every site of a lattice: a torus.

    Configurations are `(batch, *lattice)`, real numbers of which those that differ by multiples of 2 pi are
    the same angle. Flows move them along the real line by velocities of period 2 pi; samples are given in
    [-pi, pi). Densities are per `prod_x d theta_x`.

    Args:
        lattice: where the angles live.

    >>> Angles(Lattice((4, 6))).shape
    (4, 6)
    >>> Angles(Lattice((2,))).nearest(torch.tensor([[3.0, 4.0]]))
    tensor([[ 3.0000, -2.2832]])
    """

    lattice: Lattice

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Angles:
        """See `Space.of_shape`."""
        return cls(Lattice(tuple(shape)))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """That of the lattice."""
        return self.lattice.shape

    def windings(self) -> dict[str, Any]:
        """A turn of each angle by itself, see `Space.windings`."""
        return {f"winding of site {x}": Winding(x) for x in range(self.lattice.volume)}

    def nearest(self, phi: Tensor, to: Tensor | float = 0.0) -> Tensor:
        """Angles within half a turn of others: by default in [-pi, pi). Differentiable, with slope 1."""
        with torch.no_grad():
            turns = ((phi - to) / (2 * math.pi) + 0.5).floor()
            rest = phi - 2 * math.pi * turns - to
            turns += (rest >= math.pi).to(phi) - (rest < -math.pi).to(phi)  # rounding, at the seam
        return phi - 2 * math.pi * turns


@dataclass(frozen=True)
class Winding:
    """One angle turned by 2 pi."""

    site: int

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform angles `(batch, *lattice)`."""
        turned = phi.flatten(1).clone()
        turned[:, self.site] += 2 * math.pi
        return turned.view_as(phi)

    def linear(self, velocity: Tensor) -> Tensor:
        """Velocities do not notice."""
        return velocity
