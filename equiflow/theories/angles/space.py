"""The space of angles on a lattice: a torus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Angles(Space):
    r"""An angle on every site of a lattice: a torus.

    Configurations are `(batch, *lattice)`. Real numbers that differ by multiples of 2 pi are the same angle.
    Flows move angles along the real line with velocities of period 2 pi. Samples lie in [-pi, pi). Densities
    are per `prod_x d theta_x`.

    Args:
        lattice: where the angles live.

    Raises:
        TypeError: if `lattice` is not a `Lattice`.

    >>> Angles(Lattice((4, 6))).shape
    (4, 6)
    >>> Angles(Lattice((2,))).nearest(torch.tensor([[3.0, 4.0]]))
    tensor([[ 3.0000, -2.2832]])
    """

    kind: ClassVar[str] = "angles"
    lattice: Lattice

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Angles:
        """See `Space.of_shape`."""
        return cls(Lattice(tuple(shape)))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one configuration, the shape of the lattice."""
        return self.lattice.shape

    @property
    def sites(self) -> Lattice:
        """The lattice of the angles."""
        return self.lattice

    def on(self, lattice: Lattice) -> Angles:
        """See `Space.on`."""
        return Angles(lattice)

    def windings(self) -> dict[str, Any]:
        """Return a full turn of each angle alone, see `Space.windings`."""
        return {f"winding of site {x}": Winding(x) for x in range(self.lattice.volume)}

    def nearest(self, phi: Tensor, to: Tensor | float = 0.0) -> Tensor:
        """Return the same angles within half a turn of `to`; by default in [-pi, pi).

        Args:
            phi: angles, `(batch, *lattice)`.
            to: other angles, `(batch, *lattice)`, or one number for all.

        Returns:
            The angles `phi`, `(batch, *lattice)`; differentiable in `phi`, with slope 1.
        """
        with torch.no_grad():
            turns = ((phi - to) / (2 * math.pi) + 0.5).floor()
            rest = phi - 2 * math.pi * turns - to
            # Rounding can leave a value just outside of the interval.
            turns += (rest >= math.pi).to(phi) - (rest < -math.pi).to(phi)
        return phi - 2 * math.pi * turns


@dataclass(frozen=True)
class Winding:
    """A turn of one angle by 2 pi."""

    site: int

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform angles `(batch, *lattice)`."""
        turned = phi.flatten(1).clone()
        turned[:, self.site] += 2 * math.pi
        return turned.view_as(phi)

    def linear(self, velocity: Tensor) -> Tensor:
        """Return velocities as they are: a full turn does not change them."""
        return velocity
