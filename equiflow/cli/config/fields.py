"""The section [field]: one kind for each family of vector fields, its keys the options of the family.

The families of a theory are those of its entry in `equiflow.theories.kinds`.
"""

from __future__ import annotations

from equiflow import (
    AttentionField,
    DeepAttentionField,
    DeepSteerableField,
    FactorisedConvField,
    O3Field,
    OrbitConvField,
    PotentialField,
    SteerableField,
    SUNField,
    U1Field,
    VectorField,
)
from equiflow.cli.config.derived import DerivedSection, section_of
from equiflow.theories.base.kind import Kind
from equiflow.theories.base.space import Space
from equiflow.vector_fields.registry import fields_of

#: the names of families in configs; the default family of any other theory has the name of the theory
NAMES: dict[type[VectorField], str] = {
    PotentialField: "potential",
    OrbitConvField: "orbit",
    FactorisedConvField: "factorised",
    SteerableField: "steerable",
    DeepSteerableField: "deep-steerable",
    O3Field: "o3",
    AttentionField: "attention",
    DeepAttentionField: "deep-attention",
    U1Field: "u1",
    SUNField: "sun",
}


def families_of(theory: Kind, space: Space | None = None) -> dict[str, type[VectorField]]:
    """Return the families of a theory by their names in configs, the default first.

    Args:
        theory: an entry of the registry.
        space: leaves out families that are not for it; by default all are returned.

    Returns:
        The classes by name.
    """
    default, *further = fields_of(theory)
    named = {name: family for family, name in NAMES.items() if family in further}
    unnamed = {family.__name__: family for family in further if family not in NAMES}
    families = {NAMES.get(default, theory.name): default, **named, **unnamed}
    return {name: family for name, family in families.items() if space is None or family.suits(space)}


def field_sections(theories: tuple[Kind, ...]) -> dict[str, type[DerivedSection]]:
    """Return the section of every family of some theories, by name."""
    families = {name: family for theory in theories for name, family in families_of(theory).items()}
    # The list of all families is long: the default one shows it.
    about = {name: "vector field" for name in families} | {
        next(iter(families)): f"vector field: {', '.join(families)}"
    }
    return {
        name: section_of(family, name, DerivedSection, about=about[name]) for name, family in families.items()
    }
