"""The symmetry group of a field of several components: lattice symmetries x O(N)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_flag, check_type
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.rotations import generators_of_rotations, random_rotation
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation
from equiflow.theories.multiplets.space import Multiplet


@dataclass(frozen=True)
class MultipletGroup(Group):
    """Translations x point group x (optionally) O(N), acting on a field of N components.

    `(g phi)_a(x) = sum_b R_ab phi_b(g^-1 x)` with an orthogonal matrix R. For N = 1 it is the group of a
    scalar field, with O(1) = Z2.

    Args:
        multiplet: where the field lives.
        point: name of the point group, see `point_group`.
        rotations: whether O(N) belongs to the group.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the lattice does not have the point group.

    >>> from equiflow import Lattice
    >>> str(MultipletGroup(Multiplet(Lattice((4, 4)), 3)))
    'translations x D4 x O(3)'
    """

    multiplet: Multiplet
    point: str = "full"
    rotations: bool = True

    def __post_init__(self) -> None:
        check_type(self.multiplet, Multiplet, "multiplet", "Write Multiplet(Lattice((16, 16)), 3).")
        object.__setattr__(self, "rotations", check_flag(self.rotations, "rotations"))
        SymmetryGroup(self.multiplet.lattice, self.point)  # raises if the lattice lacks the point group

    @property
    def space(self) -> Multiplet:
        """The multiplet."""
        return self.multiplet

    @property
    def spatial(self) -> SymmetryGroup:
        """The part that moves sites and leaves the components alone."""
        return SymmetryGroup(self.multiplet.lattice, self.point, z2=False)

    def generators(self) -> dict[str, Element]:
        """Return the generators of the lattice symmetries, a mirror and rotations of the components."""
        named = self.spatial.generators()
        if not self.rotations:
            return named
        for name, matrix in generators_of_rotations(self.multiplet.n_components).items():
            named[f"O(N) {name}"] = InternalRotation(self.spatial.identity, matrix)
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """Draw an element uniformly, rotations by the Haar measure."""
        moved = self.spatial.random_element(generator)
        n = self.multiplet.n_components
        return InternalRotation(moved, random_rotation(n, generator)) if self.rotations else moved

    def subgroups(self) -> Sequence[MultipletGroup]:
        """See `Group.subgroups`; those with rotations come first."""
        choices = (True, False) if self.rotations else (False,)
        points = [spatial.point for spatial in self.spatial.subgroups()]
        return [MultipletGroup(self.multiplet, point, rotations) for rotations in choices for point in points]

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point, "rotations": self.rotations}

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same multiplet contains all elements of this one."""
        return (
            isinstance(other, MultipletGroup)
            and self.multiplet == other.multiplet
            and self.spatial <= other.spatial
            and self.rotations <= other.rotations
        )

    def __str__(self) -> str:
        internal = f" x O({self.multiplet.n_components})" if self.rotations else ""
        return f"{self.spatial}{internal}"


@dataclass(frozen=True)
class InternalRotation:
    """A transformation of the sites, then an orthogonal matrix R on the components.

    Args:
        spatial: the transformation of the sites.
        matrix: R, `(N, N)` in float64.
    """

    spatial: Transformation
    matrix: Tensor

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform `phi` of shape `(batch, component, *lattice)`."""
        return torch.einsum("ab,nb...->na...", self.matrix.to(phi), self.spatial(phi))

    def __str__(self) -> str:
        return f"{self.spatial}, components turned"
