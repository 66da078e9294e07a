"""The registry of theories: one `Kind` for each class of spaces.

`equiflow/theories/kinds.py` lists the kinds of the library. `register` adds one of your own, and flows and
files then treat it like one of the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar, overload

from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.space import Space

G = TypeVar("G", bound=Group)
#: an observable as a `Kind` lists it
Listed = Callable[[Tensor], Tensor] | tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Kind:
    """One kind of configurations, and everything that belongs to it.

    Attributes:
        space: class of the configurations; its `kind` is the name of this kind in files.
        group: class of the symmetry groups. `group(space)` is the largest one; options, such as
            `z2=False`, make smaller ones.
        priors: classes of priors that a saved flow can name. A flow starts from the first one by default.
        vector_fields: classes of vector fields that a saved flow can name, or their full names, such as
            `"equiflow.vector_fields.angles.AngleField"`. A flow has the first one by default.
        actions: classes of actions, by the name that `kind` in the section [action] of a config gives them.
        observables: what `equiflow.analysis.measure_standard` measures on a space, by name: functions of a
            batch of configurations with one value for each. A pair `(average, derived)` stands for a function
            of averages, see `equiflow.analysis.Observable`. Real fields on a lattice have `measure`.
    """

    space: type[Space]
    group: Callable[..., Group]
    priors: tuple[type[Any], ...]
    vector_fields: tuple[type[Any] | str, ...]
    actions: Mapping[str, type[Any]] = field(default_factory=lambda: MappingProxyType({}))
    observables: Callable[[Any], Mapping[str, Listed]] = lambda space: {}

    @property
    def name(self) -> str:
        """Name of the kind in files, see `Space.kind`."""
        return self.space.kind


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind of configurations known to flows, files and reports.

    Raises:
        TypeError: if it is not a `Kind`.
        ValueError: if another kind has the same name or class of spaces.
    """
    check_type(kind, Kind, "kind")
    for known in kinds():
        if known.name == kind.name or known.space is kind.space:
            raise ValueError(
                f"{kind.space.__name__} as {kind.name!r} clashes with {known.space.__name__}, known as "
                f"{known.name!r}. Derive a space of its own, and set its `kind` to another name."
            )
    _KINDS[kind.name] = kind


@contextmanager
def registered(kind: Kind) -> Iterator[Kind]:
    """Make a kind of configurations known inside a `with` block, for instance in a test. See `register`."""
    register(kind)
    try:
        yield kind
    finally:
        del _KINDS[kind.name]


def kinds() -> tuple[Kind, ...]:
    """Return all known kinds, in the order of their registration."""
    return tuple(_KINDS.values())


def kind_of(space: Space) -> Kind:
    """Return the kind of a space: by its class, or by the nearest parent class that has one.

    Raises:
        TypeError: if there is none.
    """
    by_class = {kind.space: kind for kind in kinds()}
    for cls in type(space).__mro__:
        if cls in by_class:
            return by_class[cls]
    raise TypeError(
        f"No kind of configurations is registered for {type(space).__name__}; expected one of "
        f"{', '.join(kind.space.__name__ for kind in kinds())}. Give group, prior and field yourself, or "
        "register a Kind once: equiflow.theories.register(Kind(space=MySpace, group=MyGroup, "
        "priors=(MyPrior,), vector_fields=(MyField,)))."
    )


def kind_named(name: str) -> Kind:
    """Return the kind with this name in files.

    Raises:
        ValueError: if there is none.
    """
    if name not in _KINDS:
        raise ValueError(f"{name!r} is no kind of configurations; expected one of {', '.join(_KINDS)}.")
    return _KINDS[name]


def group_of(space: Space, **options: Any) -> Group:
    """Return the largest symmetry group of a space, or a smaller one.

    Args:
        space: on which the group acts.
        options: of the group's class, such as `z2=False`.

    Returns:
        The group.

    Raises:
        TypeError: if the kind of the space is not registered.

    >>> from equiflow import Lattice
    >>> str(group_of(Lattice((4, 4)), z2=False))
    'translations x D4'
    """
    return kind_of(space).group(space, **options)


@overload
def group_on(space: Space, group: Group | None, owner: str) -> Group: ...


@overload
def group_on(space: Space, group: Group | None, owner: str, expected: type[G]) -> G: ...


def group_on(space: Space, group: Group | None, owner: str, expected: type[Group] = Group) -> Group:
    """Return the group that a caller gave for something on a space, by default the largest one.

    Args:
        space: on which the group must act.
        group: what the caller gave; None for the default, see `group_of`.
        owner: what the group is for, as messages call it.
        expected: class of groups that the owner can use.

    Returns:
        The group.

    Raises:
        TypeError: if it is not a group of the expected class.
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
    check_type(group, expected, "group")
    return group
