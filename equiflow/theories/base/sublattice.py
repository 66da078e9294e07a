"""The symmetries of a lattice that keep a sublattice of every n-th site: `SublatticeGroup`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equiflow.runtime.checks import check_count
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation


@dataclass(frozen=True)
class SublatticeGroup(Group):
    """Translations by multiples of `step` sites x point group x (optionally) Z2.

    This is the whole symmetry of a flow that begins on a coarser lattice, see `MultiscaleFlow`.

    Args:
        lattice: where the field lives; its sides are multiples of the step.
        step: number of sites of the smallest translation, 1 for all translations.
        point: name of the point group, see `point_group`; it leaves the site 0 where it is.
        z2: whether phi -> -phi belongs to the group.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a side is no multiple of the step, or the lattice does not have the point group.

    >>> print(SublatticeGroup(Lattice((8, 8)), step=2))
    translations by 2 x D4 x Z2
    """

    lattice: Lattice
    step: int
    point: str = "full"
    z2: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", check_count(self.step, "step"))
        object.__setattr__(self, "z2", self._whole.z2)  # checks the other arguments
        if any(side % self.step for side in self.lattice.shape):
            raise ValueError(
                f"Sides must be multiples of step={self.step}, got lattice {self.lattice.shape}."
            )

    @property
    def _whole(self) -> SymmetryGroup:
        """The group with all translations."""
        return SymmetryGroup(self.lattice, self.point, self.z2)

    @property
    def space(self) -> Lattice:
        """The lattice."""
        return self.lattice

    def generators(self) -> dict[str, Element]:
        """Return a translation by the step along each axis, the point group, and Z2."""
        named: dict[str, Element] = {}
        for name, element in self._whole.generators().items():
            assert isinstance(element, Transformation)
            moves = any(element.shift)
            named[name.replace("translation", f"translation by {self.step}") if moves else name] = (
                self._stretched(element) if moves else element
            )
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Transformation:
        """Draw an element uniformly."""
        # Multiples of the step are reached equally often, since the sides are such multiples.
        return self._stretched(self._whole.random_element(generator))

    def subgroups(self) -> Sequence[SublatticeGroup]:
        """See `Group.subgroups`; all have the same translations."""
        of_points = self._whole.subgroups()
        return [SublatticeGroup(self.lattice, self.step, group.point, group.z2) for group in of_points]

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same lattice contains all elements of this one."""
        if isinstance(other, SublatticeGroup):
            return self._whole <= other._whole and self.step % other.step == 0
        return self._whole <= other

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"step": self.step, "point": self.point, "z2": self.z2}

    def _stretched(self, element: Transformation) -> Transformation:
        """Return an element with a translation that is `step` times as long."""
        return Transformation(element.point, tuple(self.step * s for s in element.shift), element.sign)

    def __str__(self) -> str:
        return str(self._whole).replace("translations", f"translations by {self.step}")
