"""The keys of a config: documented, and with the defaults of the library."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from equiflow import FlowMatching, ForwardKL, NaturalGradient, PathGradient, Solver, fit
from equiflow.cli import building
from equiflow.cli.config.objectives import SolvedSection
from equiflow.cli.config.schema import FIELDS, KINDS, AdamSection, every_key
from equiflow.cli.config.section import Section
from equiflow.training import AdaptivePathGradient
from equiflow.training.recipe import Recipe
from equiflow.vector_fields import VECTOR_FIELDS, VectorField
from tests.support.cli_runs import parse


def kinds(section: str) -> dict[str, type[Section]]:
    return dict(KINDS[section])


def defaults(model: type[Section]) -> dict[str, object]:
    return {
        key: None if f.is_required() else f.default for key, f in model.model_fields.items() if key != "kind"
    }


def options(build: Callable[..., object], *but: str) -> dict[str, object]:
    """Options with their defaults; None for those without."""
    signature = inspect.signature(build).parameters.items()
    given = {k: None if p.default is p.empty else p.default for k, p in signature if k not in but}
    return {k: list(value) if isinstance(value, tuple) else value for k, value in given.items()}


def test_every_key_is_documented():
    for section, _, key, described in every_key():
        assert described.description, f"{section}.{key}"
        assert described.is_required() == bool(described.examples), f"{section}.{key}"


def test_defaults_are_those_of_the_library():
    config = parse("")
    options = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    assert config.training.seed == options["seed"]
    # A config file means what it meant in version 0.1.
    recipe = Recipe.of_version_0_1(building.build_flow(config))
    assert (config.training.steps, config.training.batch_size) == (recipe.steps, recipe.batch_size)
    for name in ("learning_rate", "warmup", "clip_norm"):
        assert getattr(config.optimiser, name) == options[name]
    assert config.run.checkpoint_every == options["checkpoint_every"]
    assert building.build_objective(config) == PathGradient(solver=VectorField.training_solver)
    stiff = building.build_objective(parse("", "field.kind=factorised"))
    assert stiff == PathGradient(solver=Solver("rk5", steps=10))
    given = building.build_objective(parse("", "field.kind=factorised", "objective.steps=4"))
    assert given == PathGradient(solver=Solver("rk5", steps=4))
    assert building.build_flow(config).solver == Solver()


@pytest.mark.parametrize("kind", kinds("field"))
def test_the_keys_of_a_field_are_the_options_of_its_class_with_their_defaults(kind):
    expected = options(FIELDS[kind].stands_for, "lattice", "multiplet", "angles", "links", "group")
    assert defaults(kinds("field")[kind]) == expected


def test_every_family_of_fields_of_a_lattice_has_a_kind():
    elsewhere = {"BackflowField", "ParticleField"}  # built in Python alone
    assert {section.stands_for.__name__ for section in FIELDS.values()} == set(VECTOR_FIELDS) - elsewhere
    assert set(FIELDS) == set(kinds("field"))


def test_the_keys_of_objectives_and_optimisers_are_options_with_their_defaults():
    def own(kind: str) -> dict[str, object]:
        found = defaults(kinds("objective")[kind])
        return {key: found[key] for key in found.keys() - SolvedSection.model_fields.keys()}

    assert own("path") == options(PathGradient, "solver")
    assert own("forward") == options(ForwardKL, "solver")
    assert own("matching") == options(FlowMatching)
    assert own("adaptive") == options(AdaptivePathGradient, "solver")
    adaptive = building.build_objective(parse("", "objective.kind=adaptive", "objective.tolerance=0.2"))
    assert adaptive == AdaptivePathGradient(tolerance=0.2)
    natural = defaults(kinds("optimiser")["natural"])
    shared = AdamSection.model_fields.keys()
    expected = options(NaturalGradient, "flow", "parameters", "lr", "seed")
    assert {key: natural[key] for key in natural.keys() - shared} == expected
