"""Point groups: signed permutations of the axes that map a lattice to itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from equiflow.theories.base.lattice import Lattice


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


def schoenflies(lattice: Lattice, elements: Iterable[PointElement]) -> str | None:
    """The name of a point group, such as `"D4"`; None if it has none of the known ones."""
    wanted = set(elements)
    for name, (selection, order) in _SCHOENFLIES.get(lattice.dim, {}).items():
        if order == len(wanted) and set(_select(lattice, selection)) == wanted:
            return name
    return None
