"""Every key of a config file: its type, its default and what it means."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Tag, model_validator

from equiflow.cli.config.fields import FIELD_KINDS, FieldSection, PotentialSection
from equiflow.cli.config.objectives import OBJECTIVE_KINDS, PART_KINDS, ObjectiveSection, PathSection
from equiflow.cli.config.section import Section, key, kind, required
from equiflow.training.ladder import FINE_TUNING

#: what both optimisers say about ladders
OF_FINE_TUNING = "factor on learning_rate on the rungs of a ladder after the first"


class LatticeSection(Section):
    """Where the field lives."""

    shape: list[int] = required(
        [8, 8], "sides of the periodic lattice, any dimension; of a ladder the last", min_length=1
    )


class Phi4Section(Section):
    """`S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2 + lam phi^4 - h phi]`."""

    kind: Literal["phi4"] = key("phi4", "phi4, on (the O(N) model) or free")
    m2: float = required(-4.0, "bare mass squared (S has no factor 1/2)")
    lam: float = required(6.008, "quartic coupling")
    h: float = key(0.0, "uniform external field; other than 0 it needs symmetry.z2 = false")


class ONSection(Section):
    """`S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam |phi|^4 - h . phi]`, N components."""

    kind: Literal["on"] = key("on", "phi4, on (the O(N) model) or free")
    n_components: int = required(2, "N", ge=1)
    m2: float = required(-4.0, "bare mass squared (S has no factor 1/2)")
    lam: float = required(8.0, "quartic coupling")
    h: list[float] = key([], "external field, N numbers; none unless given; it needs symmetry.z2 = false")


class FreeSection(Section):
    """`S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2]`."""

    kind: Literal["free"] = key("free", "phi4, on (the O(N) model) or free")
    m2: float = required(1.0, "mass squared, > 0")


class SymmetrySection(Section):
    """What the flow respects exactly, besides translations."""

    point: str = key("full", "point group: full, rotations, reflections, inversion, trivial, D4, Oh, ...")
    z2: bool = key(True, "whether phi -> -phi is a symmetry; with several components, whether O(N) is")


class FreePriorSection(Section):
    """`FreeField`: a free field with one variance per momentum orbit."""

    kind: Literal["free"] = key("free", "prior: free or normal")
    m2: float = key(1.0, "mass squared of the initial spectrum", gt=0)
    learnable: bool = key(True, "whether the spectrum is trained")


class NormalPriorSection(Section):
    """`StandardNormal`: white noise."""

    kind: Literal["normal"] = key("normal", "prior: free or normal")


class SolverSection(Section):
    """How the trained flow is integrated; `run.accuracy` may choose another at the end."""

    method: str = key("dopri5", "rk4, rk5, ... with steps; dopri5, dopri8, ... with rtol and atol")
    steps: int | None = key(None, "number of equal steps, for fixed-step methods", ge=1)
    rtol: float = key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = key(1e-5, "absolute tolerance, for adaptive methods", gt=0)


class AdamSection(Section):
    """Adam with a short memory of the squared gradient."""

    kind: Literal["adam"] = key("adam", "optimiser: adam or natural")
    learning_rate: float | None = key(
        None, "at the top of the schedule; what suits the field and the lattice unless given", gt=0
    )
    warmup: int = key(30, "steps of the linear warm-up", ge=0)
    clip_norm: float = key(10.0, "gradients with a larger norm are scaled down to it", gt=0)
    fine_tuning: float = key(FINE_TUNING, OF_FINE_TUNING, gt=0)


class NaturalSection(Section):
    """`NaturalGradient`: steps along the inverse Fisher matrix times the gradient."""

    kind: Literal["natural"] = key("natural", "optimiser: adam or natural")
    learning_rate: float = key(1.0, "1 is the full step", gt=0)
    warmup: int = key(5, "steps of the linear warm-up", ge=0)
    clip_norm: float = key(math.inf, "gradients with a larger norm are scaled down to it", gt=0)
    fine_tuning: float = key(1.0, OF_FINE_TUNING, gt=0)
    rows: int = key(128, "tangents per batch", ge=1)
    refresh: int = key(2, "steps between batches of tangents", ge=1)
    window: int = key(4, "batches of tangents that stand for the Fisher matrix", ge=1)
    damping: float = key(1e-2, "of the Fisher matrix, relative to its largest eigenvalue, at first", gt=0)
    momentum: float = key(0.5, "of the direction", ge=0, lt=1)
    radius: float = key(0.5, "longest step, in KL divergence", gt=0)


class TrainingSection(Section):
    """How long, and on what."""

    steps: int = key(600, "optimiser steps; of a ladder those of the last lattice", ge=1)
    batch_size: int = key(128, "model samples per step", ge=1)
    seed: int = key(0, "of everything that is random in the run", ge=0)


class RungSection(Section):
    """A lattice to be trained on before the last one, which starts from what this one has learned."""

    shape: list[int] = required([4, 4], "sides of the lattice", min_length=1)
    m2: float | None = key(None, "that of [action] unless given")
    lam: float | None = key(None, "that of [action] unless given")
    h: float | list[float] | None = key(None, "that of [action] unless given")
    steps: int | None = key(None, "that of [training] unless given", ge=1)
    batch_size: int | None = key(None, "that of [training] unless given", ge=1)
    learning_rate: float | None = key(
        None, "that of [optimiser], times fine_tuning after the first rung, unless given", gt=0
    )


class StartSection(Section):
    """A trained flow to go on from, instead of [field], [prior] and [symmetry]."""

    flow: str | None = key(None, "run folder, .pt file or name of a pretrained flow; resized to the lattice")


class ComputeSection(Section):
    """Where and how precisely."""

    device: str = key("cpu", "cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "float64"] = key("float32", "float32 or float64")
    threads: int = key(1, "CPU threads; more than one pays from L = 32 on", ge=1)
    compile: bool = key(False, "whether torch.compile compiles the vector field")


class RunSection(Section):
    """What is written into the run folder, and how often."""

    checkpoint_every: int = key(50, "steps between checkpoints: what an interruption loses at most", ge=1)
    keep: int = key(2, "earlier checkpoints that are kept besides the latest", ge=0)
    evaluate_every: int = key(100, "steps between evaluations on fresh samples", ge=1)
    evaluation_samples: int = key(2048, "fresh samples of an evaluation", ge=16)
    accuracy: float = key(1e-3, "largest solver error of log Z at the end; 0 keeps [solver]", ge=0)
    tensorboard: bool = key(False, "also log for TensorBoard (pip install '.[tensorboard]')")


ActionSection = Annotated[
    Annotated[Phi4Section, Tag("phi4")]
    | Annotated[ONSection, Tag("on")]
    | Annotated[FreeSection, Tag("free")],
    kind("phi4"),
]
PriorSection = Annotated[
    Annotated[FreePriorSection, Tag("free")] | Annotated[NormalPriorSection, Tag("normal")], kind("free")
]
OptimiserSection = Annotated[
    Annotated[AdamSection, Tag("adam")] | Annotated[NaturalSection, Tag("natural")], kind("adam")
]

#: tables that come in several kinds, the default one first
KINDS: dict[str, tuple[type[Section], ...]] = {
    "action": (Phi4Section, ONSection, FreeSection),
    "field": FIELD_KINDS,
    "prior": (FreePriorSection, NormalPriorSection),
    "objective": OBJECTIVE_KINDS,
    "parts": PART_KINDS,
    "optimiser": (AdamSection, NaturalSection),
}
#: keys that hold several tables, [[ladder]] and [[objective.parts]]: what each can be
LISTS: dict[str, tuple[type[Section], ...]] = {"ladder": (RungSection,), "parts": PART_KINDS}


class Config(Section):
    """A whole run. What has no default must be given: lattice and action."""

    lattice: LatticeSection
    action: ActionSection
    symmetry: SymmetrySection = SymmetrySection()
    field: FieldSection = PotentialSection()
    prior: PriorSection = FreePriorSection()
    start: StartSection = StartSection()
    solver: SolverSection = SolverSection()
    objective: ObjectiveSection = PathSection()
    optimiser: OptimiserSection = AdamSection()
    training: TrainingSection = TrainingSection()
    ladder: list[RungSection] = key([], "the lattices before the last, from the smallest on")
    compute: ComputeSection = ComputeSection()
    run: RunSection = RunSection()

    @model_validator(mode="before")
    @classmethod
    def _field_of_the_action(cls, content: Any) -> Any:
        """The O(N) model has one family of fields, which need not be named."""
        if not isinstance(content, dict):
            return content
        action, field = content.get("action"), content.get("field", {})
        if not (isinstance(action, dict) and action.get("kind") == "on" and isinstance(field, dict)):
            return content
        start = content.get("start", {})
        if "field" not in content and isinstance(start, dict) and start.get("flow") is not None:
            return content
        return {**content, "field": {"kind": "multiplet", **field}}
