"""Parts of a saved flow, and how they are named in files: vector fields, priors, spaces, dtypes.

`descriptions.describe` turns a part into plain values, and `rebuild` makes a fresh one. `check_space` and
`check_groups` say whether parts fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_of, kinds
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField, default_field


class UnknownPartError(ValueError):
    """A file names a part of a class that the library does not know, and `load` was not given an instance.

    Args:
        name: of the class in the file.
        example: how an instance is given to `load`, with `{}` for the name of the class.
    """

    def __init__(self, name: str, example: str) -> None:
        call = example.format(name.rpartition(".")[2])
        super().__init__(
            f"{name} is no class that equiflow can build here. If it is one of your own, of which a file "
            f"holds the weights and no code, build one and pass it to load, as in load(path, {call})."
        )


class Part(Protocol):
    """A part of a flow that can be rebuilt: a vector field or a prior."""

    group: Group

    def config(self) -> dict[str, object]:
        """Return the keyword arguments that rebuild the part from its space and group."""


def field_with(space: Space, group: Group | None, vector_field: VectorField | None) -> VectorField:
    """Return the vector field of a flow: the one that is given, or the default one with a given group.

    Args:
        space: of the flow's configurations.
        group: symmetry that the field must have; None for that of the field, by default the largest one.
        vector_field: the field; None for the default one.

    Returns:
        The field on `space`.

    Raises:
        TypeError: if an argument has the wrong type, or the default field cannot have such a group.
        ValueError: if the field or the group belongs to another space, or the field has another group.
    """
    if vector_field is None:
        return default_field(space, group)
    check_type(
        vector_field, VectorField, "vector_field", "Give an instance, such as PotentialField(lattice)."
    )
    check_space(vector_field, space)
    if group is not None and group != vector_field.group:
        raise ValueError(
            f"The vector field has the group {vector_field.group}, got group={group}. Leave one of them out, "
            f"or build the field with group=..., as in {type(vector_field).__name__}(space, group=group)."
        )
    return vector_field


def check_space(vector_field: VectorField, space: Space) -> None:
    """Raise unless a vector field lives on the space of a flow.

    Args:
        vector_field: the field.
        space: of the flow's configurations.

    Raises:
        ValueError: if it lives on another space.
    """
    if vector_field.space != space:
        raise ValueError(
            f"The vector field lives on {vector_field.space.kind} {vector_field.space.shape}, the flow "
            f"on {space.shape}. Build both from the same {type(space).__name__}."
        )


def check_groups(vector_field: Part, prior: Part) -> None:
    """Raise unless one of the groups of two parts contains the other.

    Args:
        vector_field: one part of a flow.
        prior: the other part.

    Raises:
        ValueError: if neither contains the other.
    """
    one, other = vector_field.group, prior.group
    if type(one) is type(other) and not (one <= other or other <= one):
        raise ValueError(
            f"The field respects {one}, the prior {other}, and neither contains the other. Build one of "
            "them with a group that the other has."
        )


def rebuild(
    recipe: dict[str, Any],
    known: Mapping[str, Any],
    space: Space,
    given: Any = None,
    *,
    option: str = "vector_field",
) -> Any:
    """Return the part that a recipe describes, with fresh weights.

    Args:
        recipe: what `describe` returned.
        known: classes by name.
        space: of the configurations.
        given: what the caller of `load` gave instead; None if nothing.
        option: of `load` by which it is given.

    Returns:
        What was given, or an instance of the class that the recipe names.

    Raises:
        UnknownPartError: if the name is not among the `known` ones.
    """
    if given is not None:
        return given
    if recipe["name"] not in known:
        raise UnknownPartError(recipe["name"], f"{option}={{}}({space.kind})")
    group = group_of(space, **recipe["group"])
    return known[recipe["name"]](space, group=group, **recipe["config"])


def space_of(content: Mapping[str, Any]) -> Space:
    """Return the space that a saved flow names by its kind and shape, such as `{"lattice": [8, 8]}`.

    Raises:
        ValueError: if the content names no space, or several.
    """
    known = {kind.name: kind.space for kind in kinds()}
    named = [name for name in known if name in content]
    if len(named) != 1:
        raise ValueError(f"expected the shape of one of {', '.join(known)}, got {named or 'none'}")
    return known[named[0]].of_shape(tuple(content[named[0]]))


def pretrained_file(name: str) -> Path:
    """Return the path of a flow that comes with the package.

    Raises:
        ValueError: if there is no flow of this name.
    """
    folder = Path(__file__).parents[1] / "pretrained"
    known = sorted(path.stem for path in folder.glob("*.pt"))
    if name not in known:
        raise ValueError(f"There is no pretrained flow {name!r}; expected one of {', '.join(known)}.")
    return folder / f"{name}.pt"


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in files, such as `"float32"`."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Return the floating-point type of a saved flow, from `"float32"` or `"float64"`.

    Raises:
        ValueError: for another name.
    """
    known = {dtype_name(dtype): dtype for dtype in FIELD_DTYPES}
    if name not in known:
        raise ValueError(f"dtype is {name!r}; expected one of {', '.join(known)}")
    return known[name]
