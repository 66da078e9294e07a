"""What a symmetry group is, whatever it acts on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import singledispatch
from typing import Any, Protocol

import torch
from torch import Tensor

from equiflow.space import Space, check_type


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
        """Keyword arguments with which `group_of` rebuilds it on its space (plain types only)."""
        raise TypeError(f"{type(self).__name__} does not say how it is rebuilt; override `config`.")

    def on(self, space: Space) -> Group:
        """The same symmetry on another space of its kind."""
        return group_of(space, **self.config())


@singledispatch
def group_of(space: Space, **options: Any) -> Group:
    """The symmetry group of a kind of space: the largest one, or as the options of its class say.

    >>> from equiflow import Lattice
    >>> str(group_of(Lattice((4, 4)), z2=False))
    'translations x D4'
    """
    raise TypeError(
        f"No symmetry group is known for {space!r}; give one, or register its class: "
        "group_of.register(MySpace, MyGroup)."
    )


def group_on(space: Space, group: Group | None, what: str) -> Group:
    """The group given for something on a space, or its largest one.

    Raises:
        TypeError: if it is no group.
        ValueError: if it acts on another space.
    """
    group = group_of(space) if group is None else group
    if not isinstance(group, Group):
        check_type(group, Group, "group", f"Give an instance, such as a {type(group_of(space)).__name__}.")
    if group.space != space:
        raise ValueError(
            f"The group acts on {group.space.kind} {group.space.shape}, the {what} lives on {space.shape}. "
            "Build both on the same one, or take group.on(space)."
        )
    return group
