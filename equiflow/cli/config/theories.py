"""The sections [action] and [prior], from the theories that `equiflow.theories.kinds` registers.

A theory is offered if its configurations live on a lattice: the config names the lattice, and the action
brings the rest of the space, such as the number of components or the group of links.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from equiflow import (
    Action,
    ExternalField,
    FreeField,
    Lattice,
    Links,
    Multiplet,
    SmoothFreeField,
    StandardNormal,
)
from equiflow.cli.config.derived import DerivedSection, keys_of, section_of
from equiflow.cli.config.section import key, required
from equiflow.theories.base.kind import Kind, kinds
from equiflow.theories.base.space import Space

#: values of couplings that stand in the printed defaults, by the name of the action
EXAMPLES: dict[str, dict[str, object]] = {
    "phi4": {"m2": -4.0, "lam": 6.008},
    "ising": {"T": 2.269185314213022},
    "on": {"m2": -4.0, "lam": 8.0},
    "xy": {"beta": 0.5},
    "wilson": {"beta": 2.0},
}
#: keys of spaces that are no options of theirs: elsewhere `group` means a symmetry group
SPACE_KEYS: dict[type[Space], dict[str, tuple[Any, Any]]] = {
    Links: {"group": (str, required("U(1)", 'group of the links, such as "U(1)", "SU(2)" or "SU(3)"'))},
}
#: the key h of actions that can be put into an external field, by the space of the field
EXTERNAL_FIELD: dict[type[Space], tuple[Any, Any]] = {
    Lattice: (float, key(0.0, "uniform external field; other than 0 it needs symmetry.z2 = false")),
    Multiplet: (
        list[float],
        key([], "external field, one number for each component; it needs symmetry.z2 = false"),
    ),
}
#: names of the priors that several theories share; any other prior has the name of its theory
SHARED_PRIORS: dict[type, str] = {FreeField: "free", StandardNormal: "normal", SmoothFreeField: "smooth"}


class ActionSection(DerivedSection):
    """An action with its couplings, and what its space needs besides the lattice."""

    #: the entry of the theory in the registry
    theory: ClassVar[Kind]
    #: keys that are options of the space
    space_names: ClassVar[tuple[str, ...]]

    def space(self, lattice: Lattice) -> Space:
        """Return the space of the configurations on a lattice."""
        if self.theory.space is Lattice:
            return lattice
        build: Any = self.theory.space
        space: Space = build(lattice, **{name: getattr(self, name) for name in self.space_names})
        return space

    def action(self, space: Space) -> Action:
        """Return the action on its space, in an external field if there is one."""
        action: Action = self.stands_for(space, **self.options())
        h = getattr(self, "h", None)
        if not h:
            return action
        return ExternalField(action, h=h if isinstance(h, float) else tuple(h))


def theories_on_a_lattice() -> tuple[Kind, ...]:
    """Return the registered theories with vector fields whose spaces are made of a lattice and of keys."""
    return tuple(theory for theory in kinds() if theory.vector_fields and _is_made_of_keys(theory.space))


def _is_made_of_keys(space: type[Space]) -> bool:
    """Return whether a space needs nothing but a lattice and its options."""
    if space is Lattice:
        return True
    taken = set(inspect.signature(space).parameters)
    return "lattice" in taken and taken <= {"lattice", *_keys_of_space(space)}


def _keys_of_space(space: type[Space]) -> dict[str, tuple[Any, Any]]:
    """Return what a space needs besides the lattice, as keys by name."""
    return keys_of(space) | SPACE_KEYS.get(space, {})


def action_sections(theories: tuple[Kind, ...]) -> dict[str, type[ActionSection]]:
    """Return the section of every action of some theories, by name."""
    about = f"action: {', '.join(name for theory in theories for name in theory.actions)}"
    return {name: _action_section(theory, name, about) for theory in theories for name in theory.actions}


def _action_section(theory: Kind, name: str, about: str) -> type[ActionSection]:
    of_space = {} if theory.space is Lattice else _keys_of_space(theory.space)
    external = {"h": EXTERNAL_FIELD[theory.space]} if theory.space in EXTERNAL_FIELD else {}
    section = section_of(
        theory.actions[name],
        name,
        ActionSection,
        about=about,
        examples=EXAMPLES.get(name),
        more=of_space | external,
    )
    section.theory, section.space_names = theory, tuple(of_space)
    return section


def priors_of(theory: Kind) -> dict[str, type]:
    """Return the priors of a theory by name, the default first."""
    return {SHARED_PRIORS.get(prior, theory.name): prior for prior in theory.priors}


def prior_sections(theories: tuple[Kind, ...]) -> dict[str, type[DerivedSection]]:
    """Return the section of every prior of some theories, by name."""
    priors = {name: prior for theory in theories for name, prior in priors_of(theory).items()}
    about = f"prior: {', '.join(priors)}"
    return {name: section_of(prior, name, DerivedSection, about=about) for name, prior in priors.items()}
