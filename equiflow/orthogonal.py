"""Orthogonal groups: O(N) that turns components, O(2) that turns angles, O(d) that turns particles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.group import Element, Group, group_of
from equiflow.lattice import Angles, Multiplet, Particles, check_type
from equiflow.symmetry import SymmetryGroup, Transformation


@dataclass(frozen=True)
class MultipletGroup(Group):
    """Translations x point group x (optionally) O(N), acting on a field of N components.

    `(g phi)_a(x) = sum_b R_ab phi_b(g^-1 x)` with an orthogonal matrix R. For N = 1 it is the group of a
    scalar field, with O(1) = Z2.

    Args:
        multiplet: where the field lives.
        point: name of the point group, see `point_group`.
        rotations: whether O(N) belongs to the group.

    >>> from equiflow import Lattice
    >>> str(MultipletGroup(Multiplet(Lattice((4, 4)), 3)))
    'translations x D4 x O(3)'
    """

    multiplet: Multiplet
    point: str = "full"
    rotations: bool = True

    def __post_init__(self) -> None:
        check_type(self.multiplet, Multiplet, "multiplet", "Write Multiplet(Lattice((16, 16)), 3).")
        check_type(self.rotations, bool, "rotations")
        assert self.spatial

    @property
    def space(self) -> Multiplet:
        """The multiplet."""
        return self.multiplet

    @property
    def spatial(self) -> SymmetryGroup:
        """What moves sites and leaves the components alone."""
        return SymmetryGroup(self.multiplet.lattice, self.point, z2=False)

    def generators(self) -> dict[str, Element]:
        """Those of the lattice, a mirror and rotations of the components."""
        named = self.spatial.generators()
        if not self.rotations:
            return named
        for name, matrix in generators_of_rotations(self.multiplet.n_components).items():
            named[f"O(N) {name}"] = InternalRotation(self.spatial.identity, matrix)
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """A uniformly drawn element; rotations by the Haar measure."""
        moved = self.spatial.random_element(generator)
        n = self.multiplet.n_components
        return InternalRotation(moved, random_rotation(n, generator)) if self.rotations else moved

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point, "rotations": self.rotations}

    def __le__(self, other: object) -> bool:
        """Whether another group on the same multiplet has all of its elements."""
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
    """A transformation of the sites, then an orthogonal matrix on the components."""

    spatial: Transformation
    matrix: Tensor

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform `phi` of shape `(batch, component, *lattice)`."""
        return torch.einsum("ab,nb...->na...", self.matrix.to(phi), self.spatial(phi))

    def __str__(self) -> str:
        return f"{self.spatial}, components turned"


def generators_of_rotations(n: int) -> dict[str, Tensor]:
    """A mirror and a rotation in each plane of neighbouring axes, n x n in float64."""
    mirror = torch.eye(n, dtype=torch.float64, device="cpu")
    mirror[0, 0] = -1
    named = {"mirror of axis 0": mirror}
    for a in range(n - 1):
        turn = torch.eye(n, dtype=torch.float64, device="cpu")
        # One radian is no rational part of a turn: its powers come close to every angle.
        turn[a, a] = turn[a + 1, a + 1] = math.cos(1.0)
        turn[a + 1, a] = math.sin(1.0)
        turn[a, a + 1] = -math.sin(1.0)
        named[f"rotation of axes {a} and {a + 1}"] = turn
    return named


def random_rotation(n: int, generator: torch.Generator | None = None) -> Tensor:
    """An orthogonal n x n matrix drawn by the Haar measure, in float64."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu"))
    return q * r.diagonal().sign()  # without the signs the measure is not Haar's


group_of.register(Multiplet, MultipletGroup)


@dataclass(frozen=True)
class AngleGroup(Group):
    """Translations x point group x O(2), which turns or mirrors all angles together.

    `(g theta)(x) = s theta(g^-1 x) + alpha` with `s = 1` or -1; on velocities s alone acts.

    Args:
        angles: what it acts on.
        point: name of the point group, see `point_group`.

    >>> from equiflow import Lattice
    >>> str(AngleGroup(Angles(Lattice((4, 4)))))
    'translations x D4 x O(2)'
    """

    angles: Angles
    point: str = "full"

    def __post_init__(self) -> None:
        check_type(self.angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        assert self.spatial

    @property
    def space(self) -> Angles:
        """The angles."""
        return self.angles

    @property
    def spatial(self) -> SymmetryGroup:
        """What moves sites and leaves the angles alone."""
        return SymmetryGroup(self.angles.lattice, self.point, z2=False)

    def generators(self) -> dict[str, Element]:
        """Those of the lattice, a turn of all angles, their mirror image."""
        still = self.spatial.identity
        # One radian is no rational part of a turn: its powers come close to every angle.
        turns = {"O(2) theta -> theta + 1": Turn(still, 1.0), "O(2) theta -> -theta": Turn(still, 0.0, -1)}
        return self.spatial.generators() | turns

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """A uniformly drawn element."""
        moved = self.spatial.random_element(generator)
        alpha = 2 * math.pi * float(torch.rand((), generator=generator, dtype=torch.float64))
        return Turn(moved, alpha, 1 - 2 * int(torch.randint(2, (), generator=generator)))

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point}

    def __le__(self, other: object) -> bool:
        """Whether another group on the same angles has all of its elements."""
        return isinstance(other, AngleGroup) and self.angles == other.angles and self.spatial <= other.spatial

    def __str__(self) -> str:
        return f"{self.spatial} x O(2)"


@dataclass(frozen=True)
class Turn:
    """A transformation of the sites, a sign, then a turn of all angles by alpha."""

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


group_of.register(Angles, AngleGroup)


@dataclass(frozen=True)
class EuclideanGroup(Group):
    """Permutations of identical particles x O(d) x (optionally) translations of all together.

    `(g x)_i = R x_{pi(i)} + a`. A trap at the origin leaves O(d), a field of pair forces the whole E(d).

    Args:
        particles: what it acts on.
        translations: whether shifts of all particles belong to the group.

    >>> str(EuclideanGroup(Particles(6, 2), translations=True))
    'S_6 x E(2)'
    """

    particles: Particles
    translations: bool = False

    def __post_init__(self) -> None:
        check_type(self.particles, Particles, "particles", "Write Particles(6, dim=2).")
        check_type(self.translations, bool, "translations")

    @property
    def space(self) -> Particles:
        """The particles."""
        return self.particles

    def generators(self) -> dict[str, Element]:
        """Swaps of neighbouring labels, a mirror, rotations, shifts along the axes."""
        n, dim = self.particles.shape
        same, still = (
            torch.eye(dim, dtype=torch.float64, device="cpu"),
            torch.zeros(dim, dtype=torch.float64, device="cpu"),
        )
        named: dict[str, Element] = {}
        for i in range(n - 1):
            order = torch.arange(n)
            order[i], order[i + 1] = i + 1, i
            named[f"permutation of particles {i} and {i + 1}"] = RigidMotion(order, same, still)
        for name, matrix in generators_of_rotations(dim).items():
            named[name] = RigidMotion(torch.arange(n), matrix, still)
        for axis in range(dim if self.translations else 0):
            named[f"translation along axis {axis}"] = RigidMotion(torch.arange(n), same, same[axis])
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """A uniformly drawn element; shifts, which have no uniform measure, are normally distributed."""
        n, dim = self.particles.shape
        order = torch.randperm(n, generator=generator)
        matrix = random_rotation(dim, generator)
        shift = torch.randn(dim, generator=generator, dtype=torch.float64, device="cpu")
        return RigidMotion(order, matrix, shift * self.translations)

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"translations": self.translations}

    def __le__(self, other: object) -> bool:
        """Whether another group on the same particles has all of its elements."""
        return (
            isinstance(other, EuclideanGroup)
            and self.particles == other.particles
            and self.translations <= other.translations
        )

    def __str__(self) -> str:
        n, dim = self.particles.shape
        return f"S_{n} x {'E' if self.translations else 'O'}({dim})"


@dataclass(frozen=True)
class RigidMotion:
    """Particles exchanged, turned and shifted, `x_i -> R x_{order(i)} + a`; velocities are not shifted."""

    order: Tensor
    matrix: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Transform positions `(batch, particle, dim)`."""
        return self.linear(x) + self.shift.to(x)

    def linear(self, x: Tensor) -> Tensor:
        """Transform velocities or forces, shaped like positions."""
        return x[:, self.order.to(x.device)] @ self.matrix.to(x).mT

    def __str__(self) -> str:
        return f"particles {self.order.tolist()}, turned" + (", shifted" if bool(self.shift.any()) else "")


group_of.register(Particles, EuclideanGroup)
