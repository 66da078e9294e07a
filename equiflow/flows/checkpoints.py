"""How a saved flow names its parts, and how they are built again without running anybody's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_of, kinds
from equiflow.theories.base.space import Space


class Part(Protocol):
    """A part of a flow that can be rebuilt: a vector field, a prior."""

    group: Group

    def config(self) -> dict[str, object]:
        """Keyword arguments that rebuild the part from its space and group."""


def describe(part: Part) -> dict[str, Any]:
    """Name, group and options of a part, as plain values."""
    return {
        "name": type(part).__name__,
        "group": part.group.config(),
        "config": part.config(),
    }


def rebuild(recipe: dict[str, Any], known: Mapping[str, Any], space: Space) -> Any:
    """The part that a recipe describes, with fresh weights.

    Raises:
        ValueError: if its name is not among the `known` ones.
    """
    if recipe["name"] not in known:
        raise ValueError(
            f"{recipe['name']} is not part of equiflow; build it yourself and pass the instance "
            "to load, as in EquivariantCNF.load(path, vector_field=MyField(lattice))."
        )
    group = group_of(space, **recipe["group"])
    return known[recipe["name"]](space, group=group, **recipe["config"])


def space_of(content: Mapping[str, Any]) -> Space:
    """The space that a saved flow names by its kind and shape, such as `{"lattice": [8, 8]}`."""
    known = {kind.name: kind.space for kind in kinds()}
    named = [name for name in known if name in content]
    if len(named) != 1:
        raise ValueError(f"expected the shape of one of {', '.join(known)}, got {named or 'none'}")
    return known[named[0]].of_shape(tuple(content[named[0]]))


def pretrained_file(name: str) -> Path:
    """Where the flow of that name lies.

    Raises:
        ValueError: if there is none.
    """
    folder = Path(__file__).parents[1] / "pretrained"
    known = sorted(path.stem for path in folder.glob("*.pt"))
    if name not in known:
        raise ValueError(f"There is no pretrained flow {name!r}; expected one of {', '.join(known)}.")
    return folder / f"{name}.pt"


def dtype_named(name: str) -> torch.dtype:
    """The floating-point type of a saved flow: `"float32"` or `"float64"`."""
    known = {str(dtype).removeprefix("torch."): dtype for dtype in FIELD_DTYPES}
    if name not in known:
        raise ValueError(f"dtype is {name!r}; expected one of {', '.join(known)}")
    return known[name]


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict`, but weights of another dtype are refused instead of rounded."""
    own = module.state_dict()
    for name, weight in state.items():
        if name in own and isinstance(weight, Tensor) and weight.dtype != own[name].dtype:
            raise ValueError(f"{name} has dtype {weight.dtype}; expected {own[name].dtype}")
    module.load_state_dict(state)
