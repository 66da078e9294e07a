"""The abstract symmetry group and its elements, whatever they act on.

A theory of your own derives its group from `Group`. `equiflow.testing` tries the group's elements on fields
and flows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from equiflow.theories.base.space import Space


class Element(Protocol):
    """One element of a group; `str` says which.

    An affine element, which moves the origin, also has a method `linear` that transforms velocities. An
    element of a curved space has a method `push(velocity, phi)`, which transforms velocities at phi.
    """

    def __call__(self, phi: Tensor, /) -> Tensor:
        """Transform configurations `(batch, *shape)`."""


def on_velocities(element: Element, phi: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the action of a group element on velocities and gradients at a configuration.

    It is the linear part of the element, or its `push`.

    Args:
        element: of the group.
        phi: configurations, `(batch, *shape)`, at which the velocities are.

    Returns:
        A function of velocities, `(batch, *tangent_shape)`.
    """
    push = getattr(element, "push", None)
    return getattr(element, "linear", element) if push is None else lambda velocity: push(velocity, phi)


class Group(ABC):
    """A group that acts on configurations.

    Subclasses are frozen dataclasses. Their first field is the space, the others are plain values.
    """

    @property
    @abstractmethod
    def space(self) -> Space:
        """The space on which the group acts."""

    @property
    def spatial(self) -> Group | None:
        """The part that moves the sites of a lattice only; None without one. See `spatial_part`."""
        return None

    @abstractmethod
    def generators(self) -> dict[str, Element]:
        """Return named elements that generate the group, up to closure if it is continuous.

        The first word of a name says which kind of element it is; reports group them by it.
        """

    @abstractmethod
    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """Draw an element uniformly."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the name of the group, such as `translations x D4 x Z2`."""

    def __le__(self, other: object) -> bool:
        """Return whether the group is known to be a subgroup of another; here only if they are equal."""
        return self == other

    def subgroups(self) -> Sequence[Group]:
        """Return groups of this class that the group contains: itself first, then from large to small.

        The default knows the group itself only.
        """
        return (self,)

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments that rebuild the group on its space, plain types only."""
        raise TypeError(f"{type(self).__name__} does not say how it is rebuilt; override `config`.")

    def on(self, space: Space) -> Group:
        """Return the same symmetry on another space of the same kind."""
        make: Any = type(self)
        group: Group = make(space, **self.config())
        return group
