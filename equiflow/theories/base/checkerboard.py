"""The two sublattices of a checkerboard, and the symmetries that keep each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_flag
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.symmetry import Transformation


def parity_of_sites(lattice: Lattice) -> Tensor:
    """Return `(x_1 + ... + x_d) mod 2` of every site, `(*lattice)` int64.

    Raises:
        ValueError: if a side is odd, where neighbours across the boundary would share a parity.
    """
    if any(side % 2 for side in lattice.shape):
        raise ValueError(
            f"A checkerboard needs even sides, got lattice {lattice.shape}. Use even sides, or a flow "
            "without masks, such as EquivariantCNF(lattice)."
        )
    total = torch.zeros(lattice.shape, dtype=torch.int64)
    for axis, side in zip(lattice.axes, lattice.shape, strict=True):
        total = total + torch.arange(side).reshape(side, *(1,) * (-axis - 1))
    return total % 2


@dataclass(frozen=True)
class CheckerboardGroup(Group):
    """Translations that keep the parity of sites x (optionally) Z2.

    This is the whole symmetry of a flow of masked coupling layers with free kernels. A translation by one
    site exchanges the sublattices, and a rotation turns the kernels.

    Args:
        lattice: with even sides.
        z2: whether phi -> -phi belongs to the group.

    Raises:
        ValueError: if a side is odd.

    >>> str(CheckerboardGroup(Lattice((4, 4)), z2=True))
    'even translations x Z2'
    """

    lattice: Lattice
    z2: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "z2", check_flag(self.z2, "z2"))
        parity_of_sites(self.lattice)

    @property
    def space(self) -> Lattice:
        """The lattice."""
        return self.lattice

    def generators(self) -> dict[str, Element]:
        """Return two steps along the first axis, one step along it and any other, and Z2."""
        dim = self.lattice.dim
        named: dict[str, Element] = {"translation by two along axis 0": self._element((2, *(0,) * (dim - 1)))}
        for axis in range(1, dim):
            shift = (1, *(int(other == axis) for other in range(1, dim)))
            named[f"translation along axes 0 and {axis}"] = self._element(shift)
        if self.z2:
            named["Z2 phi -> -phi"] = self._element((0,) * dim, -1)
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Transformation:
        """Draw an element uniformly."""
        check_draw(generator)

        def draw(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        first, *others = (draw(side) for side in self.lattice.shape)
        first -= (first + sum(others)) % 2  # sides are even, so each even translation is reached twice
        return self._element((first, *others), 1 - 2 * draw(2) if self.z2 else 1)

    def subgroups(self) -> Sequence[CheckerboardGroup]:
        """See `Group.subgroups`."""
        return (self, CheckerboardGroup(self.lattice)) if self.z2 else (self,)

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"z2": self.z2}

    def _element(self, shift: tuple[int, ...], sign: int = 1) -> Transformation:
        """Return a translation with a sign."""
        dim = self.lattice.dim
        return Transformation(PointElement(tuple(range(dim)), (1,) * dim), shift, sign)

    def __str__(self) -> str:
        return "even translations x Z2" if self.z2 else "even translations"
