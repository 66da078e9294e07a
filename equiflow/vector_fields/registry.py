"""The vector fields that a saved flow or a config can name, and the one that a flow has by default.

`equiflow/theories/kinds.py` lists them for each kind of configurations.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import Kind, group_on, kind_of, kinds
from equiflow.theories.base.space import Space
from equiflow.vector_fields.base import VectorField


def fields_of(kind: Kind) -> tuple[type[VectorField], ...]:
    """Return the classes of vector fields on one kind of configurations, the default one first."""
    return tuple(_class_of(field) for field in kind.vector_fields)


def known_fields() -> dict[str, type[VectorField]]:
    """Return the classes of vector fields that a saved flow can name, by their names."""
    return {field.__name__: field for kind in kinds() for field in fields_of(kind)}


def default_field(space: Space, group: Group | None = None) -> VectorField:
    """Return the vector field that a flow on `space` has unless told otherwise: the first that suits it.

    Args:
        space: of the configurations.
        group: symmetry to build in; by default the largest one.

    Returns:
        The field with fresh weights.

    Raises:
        TypeError: if the kind of the space is not registered, or the field cannot have such a group.
        ValueError: if the group acts on another space.
    """
    families = [field for field in fields_of(kind_of(space)) if field.suits(space)]
    if not families:
        raise TypeError(f"No vector field is registered for {space}; give the flow a vector_field.")
    make: Any = families[0]
    options = {} if group is None else {"group": group_on(space, group, "flow")}
    field: VectorField = make(space, **options)
    return field


def _class_of(field: type[VectorField] | str) -> type[VectorField]:
    """Return the class itself, or the class with this full name."""
    if not isinstance(field, str):
        return field
    module, _, name = field.rpartition(".")
    found: type[VectorField] = getattr(import_module(module), name)
    return found


#: the vector fields of the library, by name
VECTOR_FIELDS: dict[str, type[VectorField]] = dict(sorted(known_fields().items()))
