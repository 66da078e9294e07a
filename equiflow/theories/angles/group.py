"""The symmetry group of angles on a lattice: lattice symmetries x O(2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation


@dataclass(frozen=True)
class AngleGroup(Group):
    """Translations x point group x O(2), which turns or mirrors all angles together.

    `(g theta)(x) = s theta(g^-1 x) + alpha` with `s = 1` or -1. Velocities are only multiplied by s.

    Args:
        angles: where the group acts.
        point: name of the point group, see `point_group`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the lattice does not have the point group.

    >>> from equiflow import Lattice
    >>> str(AngleGroup(Angles(Lattice((4, 4)))))
    'translations x D4 x O(2)'
    """

    angles: Angles
    point: str = "full"

    def __post_init__(self) -> None:
        check_type(self.angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        SymmetryGroup(self.angles.lattice, self.point)  # raises if the lattice lacks the point group

    @property
    def space(self) -> Angles:
        """The angles."""
        return self.angles

    @property
    def spatial(self) -> SymmetryGroup:
        """The part that moves sites and leaves the angles alone."""
        return SymmetryGroup(self.angles.lattice, self.point, z2=False)

    def generators(self) -> dict[str, Element]:
        """Return the generators of the lattice symmetries, a turn and a mirror of all angles."""
        still = self.spatial.identity
        # One radian is not a rational part of a turn: its powers come close to every angle.
        turns = {"O(2) theta -> theta + 1": Turn(still, 1.0), "O(2) theta -> -theta": Turn(still, 0.0, -1)}
        return self.spatial.generators() | turns

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """Draw an element uniformly."""
        moved = self.spatial.random_element(generator)
        alpha = 2 * math.pi * float(torch.rand((), generator=generator, dtype=torch.float64))
        return Turn(moved, alpha, 1 - 2 * int(torch.randint(2, (), generator=generator)))

    def subgroups(self) -> Sequence[AngleGroup]:
        """See `Group.subgroups`."""
        return [AngleGroup(self.angles, spatial.point) for spatial in self.spatial.subgroups()]

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point}

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same angles contains all elements of this one."""
        return isinstance(other, AngleGroup) and self.angles == other.angles and self.spatial <= other.spatial

    def __str__(self) -> str:
        return f"{self.spatial} x O(2)"


@dataclass(frozen=True)
class Turn:
    """A transformation of the sites, a sign, then a turn of all angles by alpha.

    Args:
        spatial: the transformation of the sites.
        alpha: angle of the turn, in radians.
        sign: 1, or -1 for a mirror.
    """

    spatial: Transformation
    alpha: float
    sign: int = 1

    def __call__(self, theta: Tensor) -> Tensor:
        """Transform angles `(batch, *lattice)`."""
        return self.linear(theta) + self.alpha

    def linear(self, velocity: Tensor) -> Tensor:
        """Transform velocities, shaped like the angles."""
        return self.sign * self.spatial(velocity)

    def __str__(self) -> str:
        return f"{self.spatial}, theta -> {'-' if self.sign < 0 else ''}theta + {self.alpha:.3f}"
