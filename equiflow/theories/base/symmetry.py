"""Symmetries of a periodic lattice and of a scalar field on it.

A group transforms a field by `(g phi)(x) = s phi(R^-1 (x - a))` with a signed permutation R of the axes, a
translation a and an internal sign s. Site 0 is the fixed point of R. On a lattice of any parity R therefore
maps offsets to offsets modulo the lattice. Start with `SymmetryGroup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_flag, check_type, is_integer, plain
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.point_groups import POINT_GROUPS, PointElement, point_group, schoenflies
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Transformation:
    """One element of the group of a scalar field: `(g phi)(x) = sign * phi(R^-1 (x - shift))`.

    Args:
        point: the signed permutation R of the axes.
        shift: the translation, in sites along each axis.
        sign: 1 or -1.
    """

    point: PointElement
    shift: tuple[int, ...]
    sign: int = 1

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform `phi` of shape `(..., *lattice)`; values are moved, never recomputed."""
        axes = tuple(range(-len(self.shift), 0))
        moved = self.point(phi).roll(self.shift, axes)
        return moved if self.sign == 1 else -moved

    def __str__(self) -> str:
        sign = "-" if self.sign < 0 else ""
        return f"phi(x) -> {sign}phi(R^-1(x - {self.shift})), R x = {self.point}"


@dataclass(frozen=True, eq=False)
class OffsetOrbits:
    """Offsets of a kernel, grouped into orbits of the point group.

    Attributes:
        index: `(*lattice)` int64, the orbit of each offset modulo the lattice, -1 outside the kernel.
        multiplicity: `(orbit,)` int64, number of offsets in each orbit.
    """

    index: Tensor
    multiplicity: Tensor

    def __len__(self) -> int:
        return len(self.multiplicity)

    def mean(self, values: Tensor) -> Tensor:
        """Average values `(..., *lattice)` over each orbit, `(..., orbit)`."""
        flat = self.index.flatten().to(values.device)
        inside = (flat >= 0).nonzero().flatten()
        flat_values = values.flatten(-self.index.dim()).index_select(-1, inside)
        total = values.new_zeros(*flat_values.shape[:-1], len(self))
        return total.index_add_(-1, flat[inside], flat_values) / self.multiplicity.to(values.device)


@dataclass(frozen=True)
class SymmetryGroup(Group):
    """Translations x point group x (optionally) Z2, acting on a scalar field.

    Args:
        lattice: where the field lives.
        point: name of the point group, see `point_group`.
        z2: whether phi -> -phi belongs to the group.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the lattice does not have the point group.

    >>> str(SymmetryGroup(Lattice((4, 4))))
    'translations x D4 x Z2'
    """

    lattice: Lattice
    point: str = "full"
    z2: bool = True

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        check_type(self.point, str, "point", 'Give the name of a point group, such as "full".')
        object.__setattr__(self, "z2", check_flag(self.z2, "z2"))
        point_group(self.lattice, self.point)  # raises if the lattice does not have it

    @property
    def space(self) -> Lattice:
        """The lattice."""
        return self.lattice

    @property
    def spatial(self) -> SymmetryGroup:
        """The group itself."""
        return self

    @cached_property
    def point_elements(self) -> tuple[PointElement, ...]:
        """The point group, identity included."""
        return point_group(self.lattice, self.point)

    @property
    def has_inversion(self) -> bool:
        """Whether x -> -x belongs to the group. Then the Fourier modes of its kernels are real."""
        return self._inversion in self.point_elements

    @property
    def identity(self) -> Transformation:
        """The element that leaves every field as it is."""
        return Transformation(self._identity, (0,) * self.lattice.dim)

    @property
    def _identity(self) -> PointElement:
        """The permutation that leaves every axis as it is."""
        return PointElement(tuple(range(self.lattice.dim)), (1,) * self.lattice.dim)

    @property
    def _inversion(self) -> PointElement:
        """The map x -> -x."""
        return PointElement(tuple(range(self.lattice.dim)), (-1,) * self.lattice.dim)

    def on(self, space: Space) -> SymmetryGroup:
        """Return the group of the same name on another lattice."""
        return SymmetryGroup(lattice_of(space), self.point, self.z2)

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point, "z2": self.z2}

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same lattice contains all elements of this one."""
        return (
            isinstance(other, SymmetryGroup)
            and self.lattice == other.lattice
            and set(self.point_elements) <= set(other.point_elements)
            and self.z2 <= other.z2
        )

    def subgroups(self) -> Sequence[SymmetryGroup]:
        """See `Group.subgroups`."""
        signs = (True, False) if self.z2 else (False,)
        made = [SymmetryGroup(self.lattice, point, z2) for point in POINT_GROUPS for z2 in signs]
        distinct = {(frozenset(g.point_elements), g.z2): g for g in reversed([self, *made]) if g <= self}
        sizes = {group: len(group.point_elements) * (1 + group.z2) for group in reversed(distinct.values())}
        return sorted(sizes, key=lambda group: (group != self, -sizes[group]))

    def elements(self) -> Iterable[Transformation]:
        """Yield all elements without a translation: point group x Z2."""
        still = (0,) * self.lattice.dim
        for point in self.point_elements:
            for sign in (1, -1) if self.z2 else (1,):
                yield Transformation(point, still, sign)

    def generators(self) -> dict[str, Element]:
        """Return named elements that generate the group: a shift along each axis, the point group, Z2."""
        dim = self.lattice.dim
        still = (0,) * dim
        named: dict[str, Element] = {
            f"translation along axis {axis}": Transformation(
                self._identity, tuple(int(other == axis) for other in range(dim))
            )
            for axis in range(dim)
        }
        for point in self.point_elements:
            if point != self._identity:
                kind = "rotation" if point.determinant == 1 else "reflection"
                named[f"{kind} x -> {point}"] = Transformation(point, still)
        if self.z2:
            named["Z2 phi -> -phi"] = Transformation(self._identity, still, -1)
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Transformation:
        """Draw an element uniformly, translations included."""
        check_draw(generator)

        def draw(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        point = self.point_elements[draw(len(self.point_elements))]
        shift = tuple(draw(side) for side in self.lattice.shape)
        return Transformation(point, shift, 1 - 2 * draw(2) if self.z2 else 1)

    def offset_orbits(self, kernel_size: int | tuple[int, ...] | None = None) -> OffsetOrbits:
        """Return the orbits of kernel offsets modulo the lattice.

        Args:
            kernel_size: number n of offsets along each axis; None for the whole lattice. The offsets
                `-((n-1)//2) ... n//2` are closed under the group. An even kernel smaller than the lattice
                therefore grows by the mirror image of its last offset, instead of breaking D4.

        Returns:
            The orbits, each with at least one offset.

        Raises:
            TypeError: if a size is not an integer.
            ValueError: if the kernel is smaller than 1 or larger than the lattice.
        """
        inside = self._support(kernel_size)
        label = torch.arange(self.lattice.volume).reshape(self.lattice.shape)
        images = torch.stack([element(label) for element in self.point_elements])
        inside = torch.stack([element(inside) for element in self.point_elements]).any(0)
        smallest = torch.where(inside, images.amin(0), -1)
        labels, index = torch.unique(smallest, return_inverse=True)
        index = index - int(labels[0] == -1)
        return OffsetOrbits(index, index[index >= 0].bincount())

    def momentum_orbits(self) -> OffsetOrbits:
        """Return the orbits of the integer momenta under the point group and k -> -k.

        Signed permutations are orthogonal, so momenta transform like offsets. A real field ties k to -k,
        whatever the group.
        """
        orbits = self.offset_orbits().index
        tied = torch.minimum(orbits, self._inversion(orbits))
        index = torch.unique(tied, return_inverse=True)[1]
        return OffsetOrbits(index, index.flatten().bincount())

    def _support(self, kernel_size: int | tuple[int, ...] | None) -> Tensor:
        """Return which offsets a kernel has before they are closed under the group, `(*lattice)` bool."""
        shape = self.lattice.shape
        sizes = shape if kernel_size is None else plain(kernel_size)
        sizes = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,) * self.lattice.dim
        if not all(map(is_integer, sizes)):
            raise TypeError(f"kernel_size must be an integer or one per axis, got {kernel_size!r}.")
        if len(sizes) != len(shape) or any(not 1 <= n <= side for n, side in zip(sizes, shape, strict=False)):
            raise ValueError(
                f"kernel_size {kernel_size} does not fit the lattice {shape}; expected 1 to the side "
                "along each axis, or None for the whole lattice."
            )
        inside = torch.ones(shape, dtype=torch.bool)
        for axis, (n, side) in enumerate(zip(sizes, shape, strict=True)):
            reached = torch.zeros(side, dtype=torch.bool)
            reached[torch.arange(-((n - 1) // 2), n // 2 + 1) % side] = True
            inside &= reached.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        return inside

    def __str__(self) -> str:
        order = len(self.point_elements)
        short = schoenflies(self.lattice, self.point_elements)
        point = short or f"{self.point} point group ({order} elements)"
        parts = ["translations"] + ([point] if order > 1 else []) + (["Z2"] if self.z2 else [])
        return " x ".join(parts)


def symmetry_on(lattice: Lattice, group: Group | None, owner: str) -> SymmetryGroup:
    """Return the group that a caller gave for a scalar field on a lattice, by default the largest one.

    Args:
        lattice: on which the group must act.
        group: what the caller gave; None for translations x the full point group x Z2.
        owner: what the group is for, as messages call it.

    Returns:
        The group.

    Raises:
        TypeError: if `lattice` is not a `Lattice`, or `group` is not a `SymmetryGroup`.
        ValueError: if the group acts on another lattice.
    """
    check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
    return group_on(lattice, group, owner, SymmetryGroup)


def spatial_part(group: Group) -> SymmetryGroup:
    """Return what a group does to the sites of a lattice, see `Group.spatial`.

    Raises:
        TypeError: if it does not act on a lattice.
    """
    if not isinstance(group.spatial, SymmetryGroup):
        raise TypeError(f"{group} acts on no lattice; expected a SymmetryGroup or a group of fields on one.")
    return group.spatial
