"""The symmetry group of identical particles: permutations x O(d), with or without translations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_flag, check_type
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.rotations import generators_of_rotations, random_rotation
from equiflow.theories.particles.space import Particles


@dataclass(frozen=True)
class EuclideanGroup(Group):
    """Permutations of identical particles x O(d) x (optionally) translations of all particles together.

    `(g x)_i = R x_{pi(i)} + a`. A trap at the origin leaves O(d). Pair forces without a trap leave E(d), with
    translations.

    Args:
        particles: where the group acts.
        translations: whether shifts of all particles together belong to the group.

    Raises:
        TypeError: if an argument has the wrong type.

    >>> str(EuclideanGroup(Particles(6, 2), translations=True))
    'S_6 x E(2)'
    """

    particles: Particles
    translations: bool = False

    def __post_init__(self) -> None:
        check_type(self.particles, Particles, "particles", "Write Particles(6, dim=2).")
        object.__setattr__(self, "translations", check_flag(self.translations, "translations"))

    @property
    def space(self) -> Particles:
        """The particles."""
        return self.particles

    def generators(self) -> dict[str, Element]:
        """Return exchanges of neighbouring labels, a mirror, rotations, and shifts along the axes."""
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
        """Draw an element uniformly; shifts, which have no uniform measure, are drawn normally."""
        check_draw(generator)
        n, dim = self.particles.shape
        order = torch.randperm(n, generator=generator)
        matrix = random_rotation(dim, generator)
        shift = torch.randn(dim, generator=generator, dtype=torch.float64, device="cpu")
        return RigidMotion(order, matrix, shift * self.translations)

    def subgroups(self) -> Sequence[EuclideanGroup]:
        """See `Group.subgroups`."""
        choices = (True, False) if self.translations else (False,)
        return [EuclideanGroup(self.particles, translations) for translations in choices]

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"translations": self.translations}

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same particles contains all elements of this one."""
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
    """A permutation, a rotation and a shift, `x_i -> R x_{order(i)} + a`; velocities are not shifted.

    Args:
        order: the particle that takes each place, `(particle,)` int64.
        matrix: R, `(dim, dim)` in float64.
        shift: a, `(dim,)` in float64.
    """

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
