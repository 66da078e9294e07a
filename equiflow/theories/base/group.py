"""What a symmetry group is, whatever it acts on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from equiflow.theories.base.space import Space


class Element(Protocol):
    """One element of a group; `str` says which.

    An affine one, which moves the origin, has a method `linear` for what it does to velocities.
    """

    def __call__(self, phi: Tensor, /) -> Tensor:
        """Transform configurations `(batch, *shape)`."""


def on_velocities(element: Element) -> Callable[[Tensor], Tensor]:
    """What an element of a group does to velocities and gradients."""
    return getattr(element, "linear", element)


class Group(ABC):
    """A group acting on configurations; frozen dataclasses, whose fields besides the space are plain."""

    @property
    @abstractmethod
    def space(self) -> Space:
        """What it acts on."""

    @abstractmethod
    def generators(self) -> dict[str, Element]:
        """Named elements that generate the group, or that do up to closure if it is continuous."""

    @abstractmethod
    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """A uniformly drawn element."""

    @abstractmethod
    def __str__(self) -> str:
        """Its name, such as `translations x D4 x Z2`."""

    def __le__(self, other: object) -> bool:
        """Whether it is known to be a subgroup of another."""
        return self == other

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments that rebuild the group on its space, plain types only."""
        raise TypeError(f"{type(self).__name__} does not say how it is rebuilt; override `config`.")

    def on(self, space: Space) -> Group:
        """The same symmetry on another space of its kind."""
        make: Any = type(self)
        group: Group = make(space, **self.config())
        return group
