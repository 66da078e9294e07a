"""Every key of a config file: its type, its default and what it means.

`Config` is a whole run. Sections that stand for a class of the library are derived from it, see
`equiflow.cli.config.derived`; the others are written down here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union

from pydantic import ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from equiflow import Lattice, NaturalGradient
from equiflow.cli.config import MOST_THREADS
from equiflow.cli.config.derived import DerivedSection, section_of
from equiflow.cli.config.fields import families_of, field_sections
from equiflow.cli.config.objectives import OBJECTIVES, PARTS
from equiflow.cli.config.section import KindSection, OneOf, Section, key, required
from equiflow.cli.config.theories import (
    ActionSection,
    action_sections,
    prior_sections,
    priors_of,
    theories_on_a_lattice,
)
from equiflow.theories.base.space import Space
from equiflow.training.ladder import FINE_TUNING

THEORIES = theories_on_a_lattice()
ACTIONS = action_sections(THEORIES)
FIELDS = field_sections(THEORIES)
PRIORS = prior_sections(THEORIES)

ABOUT_OPTIMISER = "optimiser: adam, natural or least_squares, which suits gauge theories"
ABOUT_FINE_TUNING = "factor on learning_rate on the rungs of a ladder after the first"


class LatticeSection(Section):
    """The lattice of the configurations."""

    shape: list[int] = required(
        [8, 8],
        "sides of the periodic lattice, in any dimension; with a ladder, of the last lattice",
        min_length=1,
    )


class SymmetrySection(Section):
    """The symmetries that the flow has exactly, besides translations."""

    point: str = key("full", "point group: full, rotations, reflections, inversion, trivial, D4, Oh, ...")
    z2: bool = key(
        True, "whether phi -> -phi is a symmetry; of several components O(N), of links charge conjugation"
    )


class SolverSection(Section):
    """How the trained flow is integrated; `run.accuracy` may choose another at the end."""

    method: str = key("dopri5", "rk4, rk5, ... with steps; dopri5, dopri8, ... with rtol and atol")
    steps: int | None = key(None, "number of equal steps, for fixed-step methods", ge=1)
    rtol: float = key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = key(1e-5, "absolute tolerance, for adaptive methods", gt=0)


class OptimiserSection(DerivedSection):
    """What trains the flow."""


class GradientSection(OptimiserSection):
    """The keys of all optimisers that follow gradients of an objective."""

    learning_rate: float | None = key(
        None, "at the top of the schedule; what suits the field and the lattice unless given", gt=0
    )
    warmup: int = key(30, "steps of the linear warm-up", ge=0)
    clip_norm: float = key(10.0, "gradients with a larger norm are scaled down to it", gt=0)
    fine_tuning: float = key(FINE_TUNING, ABOUT_FINE_TUNING, gt=0)


class AdamSection(GradientSection):
    """Adam with a short memory of the squared gradient."""

    kind: Literal["adam"] = key("adam", ABOUT_OPTIMISER)


class LeastSquaresSection(OptimiserSection):
    """`fit_by_continuity`: least squares for the continuity equation, without an objective."""

    kind: Literal["least_squares"] = key("least_squares", ABOUT_OPTIMISER)
    n_times: int = key(20, "times in a sweep through flow time", ge=2)
    ridge: float = key(1e-6, "weight of the squared changes of the weights, relative to their effect", gt=0)


#: what [training] and [run] hold for least squares unless they say otherwise
OF_LEAST_SQUARES = {"training": {"steps": 3, "batch_size": 1024}, "run": {"checkpoint_every": 1}}


class _NaturalBase(GradientSection):
    learning_rate: float = key(1.0, "1 is the full step", gt=0)
    warmup: int = key(5, "steps of the linear warm-up", ge=0)
    clip_norm: float = key(math.inf, "gradients with a larger norm are scaled down to it", gt=0)
    fine_tuning: float = key(1.0, ABOUT_FINE_TUNING, gt=0)


#: all optimisers, the default first
OPTIMISERS: dict[str, type[OptimiserSection]] = {
    "adam": AdamSection,
    "natural": section_of(
        NaturalGradient,
        "natural",
        _NaturalBase,
        about=ABOUT_OPTIMISER,
        without=("parameters", "lr", "seed"),
    ),
    "least_squares": LeastSquaresSection,
}


class TrainingSection(Section):
    """Length of the training, and its samples."""

    steps: int = key(
        600, "optimiser steps, or sweeps of least squares; with a ladder, on the last lattice", ge=1
    )
    batch_size: int = key(128, "model samples per step, or per sweep", ge=1)
    seed: int = key(0, "seed of everything that is random in the run", ge=0, le=2**64 - 1)


def _couplings(actions: dict[str, type[ActionSection]]) -> dict[str, Any]:
    """Return the couplings of all actions as optional keys, which a rung can give anew."""
    types: dict[str, list[Any]] = {}
    for action in actions.values():
        for name in [*action.option_names, *({"h"} & action.model_fields.keys())]:
            types.setdefault(name, []).append(action.model_fields[name].annotation)
    text = "as in [action] unless given"
    return {name: (Union[(*found, None)], key(None, text)) for name, found in types.items()}


#: the keys of a rung that change the action
COUPLINGS = _couplings(ACTIONS)
_CouplingsBase: Any = create_model("_CouplingsBase", __base__=Section, **COUPLINGS)


class RungSection(_CouplingsBase):
    """A lattice to train on before the last one; the next lattice starts from what it has learned."""

    shape: list[int] = required([4, 4], "sides of the lattice", min_length=1)
    steps: int | None = key(None, "as in [training] unless given", ge=1)
    batch_size: int | None = key(None, "as in [training] unless given", ge=1)
    learning_rate: float | None = key(
        None, "as in [optimiser], times fine_tuning after the first rung, unless given", gt=0
    )


class StartSection(Section):
    """A trained flow to start from, instead of [field], [prior] and [symmetry]."""

    flow: str | None = key(None, "run folder, .pt file or name of a pretrained flow; resized to the lattice")


class ComputeSection(Section):
    """Device, precision and threads."""

    device: str = key("cpu", "cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "float64"] = key("float32", "float32 or float64")
    threads: int = key(1, "CPU threads; more than one pays from L = 32 on", ge=1, le=MOST_THREADS)
    compile: bool = key(False, "whether torch.compile compiles the vector field")


class RunSection(Section):
    """How often checkpoints and evaluations are written into the run folder."""

    checkpoint_every: int = key(50, "steps between checkpoints: what an interruption loses at most", ge=1)
    keep: int = key(2, "earlier checkpoints that are kept besides the latest", ge=0)
    evaluate_every: int = key(100, "steps between evaluations on fresh samples", ge=1)
    evaluation_samples: int = key(2048, "fresh samples of an evaluation", ge=16)
    accuracy: float = key(1e-3, "largest solver error of log Z at the end; 0 keeps [solver]", ge=0)
    tensorboard: bool = key(False, "also log for TensorBoard (pip install '.[tensorboard]')")


class Config(Section):
    """A whole run. What has no default must be given: lattice and action."""

    lattice: LatticeSection
    action: Annotated[ActionSection, OneOf(ACTIONS)]
    symmetry: SymmetrySection = SymmetrySection()
    field: Annotated[DerivedSection, OneOf(FIELDS)] = FIELDS["potential"]()
    prior: Annotated[DerivedSection, OneOf(PRIORS)] = PRIORS["free"]()
    start: StartSection = StartSection()
    solver: SolverSection = SolverSection()
    objective: Annotated[KindSection, OneOf(OBJECTIVES)] = OBJECTIVES["path"]()
    optimiser: Annotated[OptimiserSection, OneOf(OPTIMISERS)] = AdamSection()
    training: TrainingSection = TrainingSection()
    ladder: list[RungSection] = key([], "the lattices before the last, from the smallest on")
    compute: ComputeSection = ComputeSection()
    run: RunSection = RunSection()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, content: Any) -> Any:
        """Let the theory choose field and prior where the config does not."""
        return with_kinds(content) if isinstance(content, dict) else content

    def __reduce__(self) -> tuple[Any, ...]:
        """Reduce to plain values: pickle cannot find derived sections by a name."""
        return Config.model_validate, (self.model_dump(exclude_unset=True),)


#: tables that come in several kinds: the section of each kind, the default first
KINDS: dict[str, dict[str, type[KindSection]]] = {
    "action": dict(ACTIONS),
    "field": dict(FIELDS),
    "prior": dict(PRIORS),
    "objective": OBJECTIVES,
    "parts": dict(PARTS),
    "optimiser": dict(OPTIMISERS),
}
#: keys that hold several tables, [[ladder]] and [[objective.parts]]
LISTS = ("ladder", "parts")


def with_kinds(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config file with the kinds of field and prior that suit its action.

    A theory with fields of its own, such as the O(N) model, need not name them.
    """
    action, start = content.get("action"), content.get("start")
    kind = action.get("kind", "phi4") if isinstance(action, dict) else None
    if not isinstance(kind, str) or kind not in ACTIONS:
        return content
    started = isinstance(start, dict) and start.get("flow") is not None
    theory, space = ACTIONS[kind].theory, _space_in(content, ACTIONS[kind])
    # Where no family suits the space, the field itself says why.
    families = families_of(theory, space) or families_of(theory)
    completed = dict(content)
    for section, suitable in (("field", families), ("prior", priors_of(theory))):
        default, table = next(iter(suitable)), content.get(section, {})
        missing = section not in content
        if isinstance(table, dict) and default != next(iter(KINDS[section])) and not (missing and started):
            completed[section] = {"kind": default, **table}
    wants = FIELDS[next(iter(families))].stands_for.wants_least_squares
    return _with_optimiser(completed, by_least_squares=wants and "objective" not in content)


def _with_optimiser(content: dict[str, Any], *, by_least_squares: bool) -> dict[str, Any]:
    """Return content with least squares as the default if asked for, and with what suits least squares."""
    completed, optimiser = dict(content), content.get("optimiser", {})
    if not isinstance(optimiser, dict):
        return completed
    if by_least_squares:
        completed["optimiser"] = optimiser = {"kind": "least_squares", **optimiser}
    if optimiser.get("kind") == "least_squares":
        for section, defaults in OF_LEAST_SQUARES.items():
            table = content.get(section, {})
            completed[section] = {**defaults, **table} if isinstance(table, dict) else table
    return completed


def _space_in(content: dict[str, Any], action: type[ActionSection]) -> Space | None:
    """Return the space of the content of a config file; None if there is something wrong with it."""
    try:
        lattice = Lattice(tuple(content["lattice"]["shape"]))
        return action.model_validate(content["action"]).space(lattice)
    except (KeyError, TypeError, ValueError, ValidationError):  # the sections themselves say what is wrong
        return None


def sections_named(name: str) -> tuple[type[Section], ...]:
    """Return what a table can be, its default first.

    Args:
        name: of the table: a section of the config, or `parts`.
    """
    if name in KINDS:
        return tuple(KINDS[name].values())
    if name == "ladder":
        return (RungSection,)
    section = Config.model_fields[name].annotation
    assert isinstance(section, type)
    return (section,)


def every_key() -> Iterator[tuple[str, type[Section], str, FieldInfo]]:
    """Yield all keys that there are: name of the section, the section, the key and its description."""
    for name in Config.model_fields:
        for section in sections_named(name):
            for key_, described in section.model_fields.items():
                yield name, section, key_, described
