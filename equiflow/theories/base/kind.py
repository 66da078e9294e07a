"""What the library knows about each kind of configurations: one `Kind` for each class of spaces.

`theories/kinds.py` lists those of the library; `register` adds one of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from equiflow.runtime.checks import check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.space import Space

G = TypeVar("G", bound=Group)


@dataclass(frozen=True)
class Kind:
    """One kind of configurations, and what belongs to it.

    Attributes:
        name: of the space in saved flows; files depend on it, so it never changes.
        space: class of the configurations.
        group: makes the largest symmetry group of a space, or a smaller one by its options.
        priors: classes of priors that a saved flow can name; a flow starts from the first one by default.
        vector_field: of a flow by default, a class or its name in `equiflow.vector_fields`.
        actions: classes of actions by the name that `kind` in the section [action] of a config gives them.
    """

    name: str
    space: type[Space]
    group: Callable[..., Group]
    priors: tuple[type[Any], ...]
    vector_field: type[Any] | str
    actions: Mapping[str, type[Any]] = field(default_factory=lambda: MappingProxyType({}))


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind of configurations known to flows, files and configs.

    Args:
        kind: what belongs to a class of spaces.

    Raises:
        ValueError: if the name or the class of spaces is taken.
    """
    check_type(kind, Kind, "kind")
    taken = [known for known in _KINDS.values() if known.name == kind.name or known.space is kind.space]
    if taken:
        raise ValueError(
            f"{kind.space.__name__} as {kind.name!r} clashes with {taken[0].space.__name__}, known as "
            f"{taken[0].name!r}. Give another name, or another class of spaces."
        )
    _KINDS[kind.name] = kind


def kinds() -> tuple[Kind, ...]:
    """Return all kinds that are known, in the order of their registration."""
    return tuple(_KINDS.values())


def kind_of(space: Space) -> Kind:
    """Return the kind of a space: that of its class, else of the nearest class that it derives from.

    Raises:
        TypeError: if none is registered.
    """
    by_class = {kind.space: kind for kind in kinds()}
    for cls in type(space).__mro__:
        if cls in by_class:
            return by_class[cls]
    raise TypeError(
        f"Nothing is known about {space!r}; expected one of "
        f"{', '.join(kind.space.__name__ for kind in kinds())}. Give group, prior and field yourself, or "
        "register a Kind (equiflow.theories.base.kind)."
    )


def kind_named(name: str) -> Kind:
    """Return the kind whose spaces have this name in files.

    Raises:
        ValueError: if there is none.
    """
    if name not in _KINDS:
        raise ValueError(f"{name!r} is no kind of configurations; expected one of {', '.join(_KINDS)}.")
    return _KINDS[name]


def group_of(space: Space, **options: Any) -> Group:
    """Return the largest symmetry group of a space, or the smaller one that the options ask for.

    Args:
        space: on which the group acts.
        options: of the group's class, such as `z2=False`.

    Raises:
        TypeError: if nothing is known about the space.

    >>> from equiflow import Lattice
    >>> str(group_of(Lattice((4, 4)), z2=False))
    'translations x D4'
    """
    return kind_of(space).group(space, **options)


def group_on(space: Space, group: Group | None, owner: str) -> Group:
    """Return the group given for something on a space, by default the largest one.

    Args:
        space: on which the group must act.
        group: what was given.
        owner: what the group is for, as messages call it.

    Raises:
        TypeError: if it is no group.
        ValueError: if it acts on another space.
    """
    group = group_of(space) if group is None else group
    if not isinstance(group, Group):
        check_type(group, Group, "group", f"Give an instance, such as a {type(group_of(space)).__name__}.")
    if group.space != space:
        raise ValueError(
            f"The group acts on {group.space.kind} {group.space.shape}, the {owner} lives on {space.shape}. "
            "Build both on the same one, or take group.on(space)."
        )
    return group
