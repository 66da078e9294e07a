"""Symmetries of a periodic lattice and of the field on it.

A group *transforms* a field, `(g phi)(x) = s phi(R^-1 (x - a))` with a signed permutation R of the
axes, a translation a and an internal sign s. Site 0 is the fixed point of R, so that on a lattice of
any parity R maps offsets to offsets *modulo the lattice*.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from equiflow.group import Element, Group, group_of, group_on
from equiflow.lattice import Lattice, Space, check_type, lattice_of


@dataclass(frozen=True)
class PointElement:
    """A signed permutation of the axes, `(R x)_mu = signs[mu] * x[permutation[mu]]`."""

    permutation: tuple[int, ...]
    signs: tuple[int, ...]

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform the last d axes of `phi`: `(R phi)(x) = phi(R^-1 x)`."""
        dim = len(self.permutation)
        lead = list(range(phi.dim() - dim))
        phi = phi.permute(*lead, *(len(lead) + axis for axis in self.permutation))
        flipped = [axis - dim for axis, sign in enumerate(self.signs) if sign < 0]
        # Reversing the storage sends x to L - 1 - x; one roll makes it -x modulo L, fixing site 0.
        return phi.flip(flipped).roll([1] * len(flipped), flipped) if flipped else phi

    def __matmul__(self, other: PointElement) -> PointElement:
        """The element that applies `other` first, then `self`."""
        return PointElement(
            tuple(other.permutation[axis] for axis in self.permutation),
            tuple(sign * other.signs[axis] for sign, axis in zip(self.signs, self.permutation, strict=True)),
        )

    @property
    def determinant(self) -> int:
        """+1 for a rotation, -1 for an improper one."""
        inversions = sum(a > b for a, b in itertools.combinations(self.permutation, 2))
        result = -1 if inversions % 2 else 1
        for sign in self.signs:
            result *= sign
        return result

    def keeps(self, lattice: Lattice) -> bool:
        """Whether it maps the lattice to itself (it only permutes equal sides)."""
        return len(self.permutation) == lattice.dim and all(
            lattice.shape[axis] == side for axis, side in zip(self.permutation, lattice.shape, strict=True)
        )

    def __str__(self) -> str:
        images = ["xyzt"[axis] if len(self.signs) <= 4 else f"x{axis}" for axis in self.permutation]
        return "(" + ", ".join("-" * (s < 0) + i for s, i in zip(self.signs, images, strict=True)) + ")"


@dataclass(frozen=True)
class Transformation:
    """One group element acting on fields: `(g phi)(x) = sign * phi(R^-1 (x - shift))`."""

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
        """Average `(..., *lattice)` over each orbit: `(..., orbit)`."""
        flat = self.index.flatten().to(values.device)
        inside = (flat >= 0).nonzero().flatten()
        flat_values = values.flatten(-self.index.dim()).index_select(-1, inside)
        total = values.new_zeros(*flat_values.shape[:-1], len(self))
        return total.index_add_(-1, flat[inside], flat_values) / self.multiplicity.to(values.device)


def hyperoctahedral(dim: int) -> tuple[PointElement, ...]:
    """All `2^d d!` signed permutations of d axes (D4 for d=2, O_h for d=3)."""
    return tuple(
        PointElement(permutation, signs)
        for permutation in itertools.permutations(range(dim))
        for signs in itertools.product((1, -1), repeat=dim)
    )


_SELECTIONS = {
    "full": lambda element: True,
    "rotations": lambda element: element.determinant == 1,
    "reflections": lambda element: element.permutation == tuple(sorted(element.permutation)),
    "inversion": lambda element: (
        element.permutation == tuple(sorted(element.permutation)) and len(set(element.signs)) == 1
    ),
    "trivial": lambda element: (
        element.permutation == tuple(sorted(element.permutation)) and min(element.signs) == 1
    ),
}
_SCHOENFLIES = {
    2: {
        "D4": ("full", 8),
        "C4": ("rotations", 4),
        "D2": ("reflections", 4),
        "C2": ("inversion", 2),
    },
    3: {"Oh": ("full", 48), "O": ("rotations", 24), "D2h": ("reflections", 8)},
}


def point_group(lattice: Lattice, name: str = "full") -> tuple[PointElement, ...]:
    """Elements of a point group that maps the lattice to itself.

    Args:
        lattice: sides that differ are never exchanged: `"full"` is D4 on a square, D2 on a rectangle.
        name: `"full"`, `"rotations"` (determinant +1), `"reflections"` (sign flips of the axes),
            `"inversion"` (x -> -x), `"trivial"`; in 2D also `"D4", "C4", "D2", "C2"`, in 3D
            `"Oh", "O", "D2h"`, which must exist on the lattice in full.

    Raises:
        ValueError: if the name is unknown or the lattice does not have that symmetry.
    """
    selection, order = _SCHOENFLIES.get(lattice.dim, {}).get(name, (name, None))
    if selection not in _SELECTIONS:
        known = [*_SELECTIONS, *_SCHOENFLIES.get(lattice.dim, {})]
        raise ValueError(
            f"Unknown point group {name!r} in {lattice.dim}D; expected one of {', '.join(known)}."
        )
    elements = _select(lattice, selection)
    if order is not None and len(elements) != order:
        raise ValueError(
            f"A lattice of shape {lattice.shape} does not have the point group {name}. "
            "Use 'full' for the largest group that its sides allow."
        )
    return elements


def _select(lattice: Lattice, selection: str) -> tuple[PointElement, ...]:
    keep = _SELECTIONS[selection]
    return tuple(e for e in hyperoctahedral(lattice.dim) if e.keeps(lattice) and keep(e))


@dataclass(frozen=True)
class SymmetryGroup(Group):
    """Translations x point group x (optionally) Z2, acting on a scalar field.

    Args:
        lattice: where the field lives.
        point: name of the point group, see `point_group`.
        z2: whether phi -> -phi belongs to the group.

    >>> str(SymmetryGroup(Lattice((4, 4))))
    'translations x D4 x Z2'
    """

    lattice: Lattice
    point: str = "full"
    z2: bool = True

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        check_type(self.point, str, "The name of a point group")
        check_type(self.z2, bool, "z2")
        point_group(self.lattice, self.point)

    @property
    def space(self) -> Lattice:
        """The lattice."""
        return self.lattice

    @cached_property
    def point_elements(self) -> tuple[PointElement, ...]:
        """The point group, identity included."""
        return point_group(self.lattice, self.point)

    @property
    def has_inversion(self) -> bool:
        """Whether x -> -x belongs to the group, which makes the kernels' Fourier modes real."""
        return self._inversion in self.point_elements

    @property
    def identity(self) -> Transformation:
        """The element that changes nothing."""
        return Transformation(self._identity, (0,) * self.lattice.dim)

    @property
    def _identity(self) -> PointElement:
        return PointElement(tuple(range(self.lattice.dim)), (1,) * self.lattice.dim)

    @property
    def _inversion(self) -> PointElement:
        return PointElement(tuple(range(self.lattice.dim)), (-1,) * self.lattice.dim)

    def on(self, space: Space) -> SymmetryGroup:
        """The group of the same name on another lattice."""
        return SymmetryGroup(lattice_of(space), self.point, self.z2)

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point, "z2": self.z2}

    def __le__(self, other: object) -> bool:
        """Whether another group on the same lattice has all of its elements."""
        return (
            isinstance(other, SymmetryGroup)
            and self.lattice == other.lattice
            and set(self.point_elements) <= set(other.point_elements)
            and self.z2 <= other.z2
        )

    def elements(self) -> Iterable[Transformation]:
        """All elements at the origin, without translations: point group x Z2."""
        still = (0,) * self.lattice.dim
        for point in self.point_elements:
            for sign in (1, -1) if self.z2 else (1,):
                yield Transformation(point, still, sign)

    def generators(self) -> dict[str, Element]:
        """Named elements that generate the group: one shift per axis, the point group, Z2."""
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
        """A uniformly drawn element, translation included."""

        def draw(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        point = self.point_elements[draw(len(self.point_elements))]
        shift = tuple(draw(side) for side in self.lattice.shape)
        return Transformation(point, shift, 1 - 2 * draw(2) if self.z2 else 1)

    def offset_orbits(self, kernel_size: int | tuple[int, ...] | None = None) -> OffsetOrbits:
        """Orbits of kernel offsets modulo the lattice.

        Args:
            kernel_size: offsets per axis, `None` for the whole lattice. The offsets
                `-((n-1)//2) ... n//2` are closed under the group, so that an even kernel smaller than
                the lattice grows by the mirror image of its last offset instead of breaking D4.

        Raises:
            ValueError: if the kernel is smaller than 1 or larger than the lattice.
        """
        inside = self._support(kernel_size)
        label = torch.arange(self.lattice.volume).reshape(self.lattice.shape)
        images = torch.stack([element(label) for element in self.point_elements])
        inside = torch.stack([element(inside) for element in self.point_elements]).any(0)
        smallest = torch.where(inside, images.amin(0), -1)
        labels, index = smallest.unique(return_inverse=True)
        index = index - int(labels[0] == -1)
        return OffsetOrbits(index, index[index >= 0].bincount())

    def momentum_orbits(self) -> OffsetOrbits:
        """Orbits of the integer momenta under the point group and k -> -k.

        Signed permutations are orthogonal, so momenta transform as offsets do; a real field ties k
        to -k whatever the group.
        """
        orbits = self.offset_orbits().index
        tied = torch.minimum(orbits, self._inversion(orbits))
        index = tied.unique(return_inverse=True)[1]
        return OffsetOrbits(index, index.flatten().bincount())

    def _support(self, kernel_size: int | tuple[int, ...] | None) -> Tensor:
        shape = self.lattice.shape
        sizes = shape if kernel_size is None else kernel_size
        sizes = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,) * self.lattice.dim
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in sizes):
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
        names = _SCHOENFLIES.get(self.lattice.dim, {})
        order = len(self.point_elements)
        point = next(
            (
                short
                for short, (selection, size) in names.items()
                if size == order and set(_select(self.lattice, selection)) == set(self.point_elements)
            ),
            f"{self.point} point group ({order} elements)",
        )
        parts = ["translations"] + ([point] if order > 1 else []) + (["Z2"] if self.z2 else [])
        return " x ".join(parts)


group_of.register(Lattice, SymmetryGroup)


def symmetry_on(lattice: Lattice, group: Group | None, what: str) -> SymmetryGroup:
    """`group_on` for what takes a scalar field on a lattice only.

    Raises:
        TypeError: if it is no `SymmetryGroup`.
        ValueError: if it acts on another space.
    """
    check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
    group = group_on(lattice, group, what)
    check_type(group, SymmetryGroup, "group")
    assert isinstance(group, SymmetryGroup)
    return group


def spatial_part(group: Group) -> SymmetryGroup:
    """What a group does to the sites of a lattice.

    Raises:
        TypeError: if it acts on no lattice.
    """
    spatial = group if isinstance(group, SymmetryGroup) else getattr(group, "spatial", None)
    if not isinstance(spatial, SymmetryGroup):
        raise TypeError(f"{group} acts on no lattice; expected a SymmetryGroup or a MultipletGroup.")
    return spatial
