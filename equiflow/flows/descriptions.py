"""Descriptions of the parts of a flow for files, and whether the parts could be rebuilt from them.

`describe` turns a part into plain values, `describe_space` a space. Both refuse what `load` could not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from equiflow.flows.parts import Part, UnknownPartError, rebuild, space_of
from equiflow.theories.base.kind import group_of
from equiflow.theories.base.space import Space

_HOW_TO_REBUILD = (
    "The constructor of a registered field or prior is called as MyField(space, group=group, **options) with "
    "the options that config() returns; a flow of your own is made by from_recipe(recipe())."
)


def describe(part: Part, known: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return the name, the group and the options of a part, as plain values.

    A part of a class that is not `known` is given to `load` as an instance. A part of a known class is
    rebuilt by `rebuild`, so this is tried now unless the class belongs to the library.

    Args:
        part: of a flow.
        known: classes by name.
        space: of the configurations.

    Returns:
        What `rebuild` needs.

    Raises:
        TypeError: if the part could not be rebuilt from its description.
    """
    name = name_in(known, type(part))
    recipe: dict[str, Any] = {"name": name, "group": part.group.config(), "config": part.config()}
    if name in known:
        group = group_of(space, **recipe["group"])
        if group != part.group:
            raise TypeError(
                f"{name} cannot be saved: its group is a {type(part.group).__name__}, and it would be loaded "
                f"with a {type(group).__name__}, {group}. Register a Kind with your group and a space of its "
                "own (equiflow.theories.register)."
            )
        check_rebuilds(part, recipe, lambda: rebuild(recipe, known, space))
    return recipe


def name_in(known: Mapping[str, Any], cls: type) -> str:
    """Return the name of a class in files: longer if the name alone belongs to another, `known` class."""
    is_another = known.get(cls.__name__, cls) is not cls
    return f"{cls.__module__}.{cls.__qualname__}" if is_another else cls.__name__


def check_rebuilds(part: Any, recipe: dict[str, Any], make: Callable[[], Any]) -> None:
    """Raise a TypeError unless a part can be rebuilt from its recipe, see `describe`.

    Args:
        part: of a flow, or a whole flow.
        recipe: its description.
        make: rebuilds it with fresh weights.

    Raises:
        TypeError: if that fails, or the result has other weights.
    """
    name = type(part).__name__
    hidden = [option for option, value in getattr(part, "_options", {}).items() if value is ...]
    lost = [option for option in hidden if option not in recipe.get("config", {})]
    if lost:
        raise TypeError(
            f"{name} cannot be saved: its option {', '.join(lost)} is no number, string, tuple or dict of "
            "these, so a file cannot hold it. Override config, with a plain value for each option."
        )
    if type(part).__module__.split(".")[0] == "equiflow":
        return  # tests rebuild these; here it would cost time
    try:
        with torch.random.fork_rng(devices=[]):
            state = make().state_dict()
    except UnknownPartError:
        return  # the caller of load gives it
    except Exception as error:  # a constructor of somebody may raise anything
        raise TypeError(
            f"{name} cannot be saved, since it could not be loaded again: {error}. {_HOW_TO_REBUILD}"
        ) from error
    own = {key: tuple(value.shape) for key, value in part.state_dict().items()}
    if own != {key: tuple(value.shape) for key, value in state.items()}:
        raise TypeError(
            f"{name} cannot be saved, since it would be loaded with other weights: {recipe} does not "
            f"determine them. {_HOW_TO_REBUILD}"
        )


def describe_space(space: Space) -> dict[str, Any]:
    """Return the entry of a file that names a space, see `space_of`.

    Raises:
        TypeError: if the file would name another space, as that of a space that is not registered.
    """
    entry: dict[str, Any] = {space.kind: list(space.shape)}
    try:
        found: object = space_of(entry)
    except Exception as error:  # `of_shape` of somebody may raise anything
        found = error
    if found != space:
        raise TypeError(
            f"A flow on {type(space).__name__} cannot be saved: its kind {space.kind!r} and shape "
            f"{space.shape} lead to {found}. Give the class a kind and of_shape of its own, and register a "
            "Kind with it (equiflow.theories.register)."
        )
    return entry
