"""Point groups: signed permutations of the axes that map a lattice to itself.

`point_group` returns the elements of a group by its name; `PointElement` is one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from equiflow.theories.base.lattice import Lattice


@dataclass(frozen=True)
class PointElement:
    """A signed permutation of the axes, `(R x)_mu = signs[mu] * x[permutation[mu]]`.

    Args:
        permutation: the axis that each axis is taken from.
        signs: 1, or -1 where the axis is reversed.
    """

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
        """Return the element that applies `other` first, then `self`."""
        return PointElement(
            tuple(other.permutation[axis] for axis in self.permutation),
            tuple(sign * other.signs[axis] for sign, axis in zip(self.signs, self.permutation, strict=True)),
        )

    @property
    def determinant(self) -> int:
        """The determinant of R: 1 for a rotation, -1 for an improper one."""
        inversions = sum(a > b for a, b in itertools.combinations(self.permutation, 2))
        result = -1 if inversions % 2 else 1
        for sign in self.signs:
            result *= sign
        return result

    def keeps(self, lattice: Lattice) -> bool:
        """Return whether it maps the lattice to itself: it may only exchange equal sides."""
        return len(self.permutation) == lattice.dim and all(
            lattice.shape[axis] == side for axis, side in zip(self.permutation, lattice.shape, strict=True)
        )

    def __str__(self) -> str:
        images = ["xyzt"[axis] if len(self.signs) <= 4 else f"x{axis}" for axis in self.permutation]
        return "(" + ", ".join("-" * (s < 0) + i for s, i in zip(self.signs, images, strict=True)) + ")"


def hyperoctahedral(dim: int) -> tuple[PointElement, ...]:
    """Return all `2^d d!` signed permutations of d axes: D4 for d = 2, Oh for d = 3."""
    return tuple(
        PointElement(permutation, signs)
        for permutation in itertools.permutations(range(dim))
        for signs in itertools.product((1, -1), repeat=dim)
    )


def _permutes_nothing(element: PointElement) -> bool:
    """Return whether an element leaves every axis in its place, up to signs."""
    return element.permutation == tuple(sorted(element.permutation))


#: which signed permutations belong to a group, by its name in any dimension
_SELECTIONS: dict[str, Callable[[PointElement], bool]] = {
    "full": lambda element: True,
    "rotations": lambda element: element.determinant == 1,
    "reflections": _permutes_nothing,
    "inversion": lambda element: _permutes_nothing(element) and len(set(element.signs)) == 1,
    "trivial": lambda element: _permutes_nothing(element) and min(element.signs) == 1,
}
#: names of point groups that every lattice has
POINT_GROUPS = tuple(_SELECTIONS)
#: Schoenflies symbols by dimension: the name in any dimension, and the number of elements
_SCHOENFLIES: dict[int, dict[str, tuple[str, int]]] = {
    2: {
        "D4": ("full", 8),
        "C4": ("rotations", 4),
        "D2": ("reflections", 4),
        "C2": ("inversion", 2),
    },
    3: {"Oh": ("full", 48), "O": ("rotations", 24), "D2h": ("reflections", 8)},
}


def point_group(lattice: Lattice, name: str = "full") -> tuple[PointElement, ...]:
    """Return the elements of a point group that maps the lattice to itself.

    Args:
        lattice: sides that differ are never exchanged: `"full"` is D4 on a square, D2 on a rectangle.
        name: `"full"`, `"rotations"` (determinant 1), `"reflections"` (sign flips of the axes),
            `"inversion"` (x -> -x), `"trivial"`; in 2D also `"D4", "C4", "D2", "C2"`, in 3D
            `"Oh", "O", "D2h"`, which must exist on the lattice in full.

    Returns:
        The elements, identity included.

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
    """Return the elements of a selection that map the lattice to itself."""
    keep = _SELECTIONS[selection]
    return tuple(e for e in hyperoctahedral(lattice.dim) if e.keeps(lattice) and keep(e))


def schoenflies(lattice: Lattice, elements: Iterable[PointElement]) -> str | None:
    """Return the Schoenflies symbol of a point group, such as `"D4"`.

    Args:
        lattice: on which the group acts.
        elements: all elements of the group.

    Returns:
        The symbol; None if the group is not a known one.
    """
    wanted = set(elements)
    for name, (selection, order) in _SCHOENFLIES.get(lattice.dim, {}).items():
        if order == len(wanted) and set(_select(lattice, selection)) == wanted:
            return name
    return None
