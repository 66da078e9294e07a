"""Every key of a config file: its type, its default and what it means. The only import of pydantic."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Section(BaseModel):
    """Keys that are known, of the right type, and never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _key(default: Any, text: str, **bounds: Any) -> Any:
    return Field(default, description=text, **bounds)


def _required(example: Any, text: str, **bounds: Any) -> Any:
    """A key without default: the physics is never chosen for the user."""
    return Field(description=text, examples=[example], **bounds)


def _kind(default: str) -> Discriminator:
    """Which member of a union a table means by its key `kind`."""
    return Discriminator(
        lambda table: table.get("kind", default) if isinstance(table, dict) else getattr(table, "kind", None)
    )


class LatticeSection(Section):
    """Where the field lives."""

    shape: list[int] = _required([8, 8], "sides of the periodic lattice, any dimension", min_length=1)


class Phi4Section(Section):
    """`S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2 + lam phi^4]`."""

    kind: Literal["phi4"] = _key("phi4", "phi4 or free")
    m2: float = _required(-4.0, "bare mass squared (S has no factor 1/2)")
    lam: float = _required(6.008, "quartic coupling")


class FreeSection(Section):
    """`S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2]`."""

    kind: Literal["free"] = _key("free", "phi4 or free")
    m2: float = _required(1.0, "mass squared, > 0")


class SymmetrySection(Section):
    """What the flow respects exactly, besides translations."""

    point: str = _key("full", "point group: full, rotations, reflections, inversion, trivial, D4, Oh, ...")
    z2: bool = _key(True, "whether phi -> -phi is a symmetry")


class OrbitSection(Section):
    """`OrbitConvField`: sitewise features mixed by kernels tied on orbits; any dimension."""

    kind: Literal["orbit"] = _key("orbit", "vector field: orbit, o3 (3D, needs e3nn), steerable (2D, escnn)")
    kernel_size: int | None = _key(None, "offsets per axis; the whole lattice unless given")
    n_frequencies: int = _key(8, "sine features", ge=1)
    n_time_modes: int = _key(4, "cosine modes of the kernels' time dependence", ge=1)
    max_frequency: float = _key(8.0, "largest initial frequency of the features, in 1/phi", gt=0)


class O3Section(Section):
    """`O3Field`: channels are irreps of O(3); three dimensions."""

    kind: Literal["o3"] = _key("o3", "vector field: orbit, o3, steerable")
    kernel_size: int = _key(3, "offsets per axis", ge=1)
    irreps: str = _key("8x0e + 4x1o + 2x2e", "hidden channels, in e3nn's notation")
    n_time_modes: int = _key(4, "cosine modes of the kernels' time dependence", ge=1)
    max_frequency: float = _key(8.0, "largest initial frequency of the scalars, in 1/phi", gt=0)


class SteerableSection(Section):
    """`SteerableField`: channels in any representation of D4 and its subgroups; two dimensions."""

    kind: Literal["steerable"] = _key("steerable", "vector field: orbit, o3, steerable")
    kernel_size: int | None = _key(None, "offsets per axis; 5, or what fits the lattice, unless given")
    representation: str = _key("regular", "of the channels: trivial, regular, vector, or an irrep")
    multiplicity: int = _key(4, "how many copies of it", ge=1)
    n_time_modes: int = _key(4, "cosine modes of the kernels' time dependence", ge=1)
    max_frequency: float = _key(8.0, "largest initial frequency, in 1/phi", gt=0)


class FreePriorSection(Section):
    """`FreeField`: a free field with one variance per momentum orbit."""

    kind: Literal["free"] = _key("free", "prior: free or normal")
    m2: float = _key(1.0, "mass squared of the initial spectrum", gt=0)
    learnable: bool = _key(True, "whether the spectrum is trained")


class NormalPriorSection(Section):
    """`StandardNormal`: white noise."""

    kind: Literal["normal"] = _key("normal", "prior: free or normal")


class SolverSection(Section):
    """How the trained flow is integrated; `run.accuracy` may choose another at the end."""

    method: str = _key("dopri5", "rk4, rk5, ... with steps; dopri5, dopri8, ... with rtol and atol")
    steps: int | None = _key(None, "number of equal steps, for fixed-step methods", ge=1)
    rtol: float = _key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = _key(1e-5, "absolute tolerance, for adaptive methods", gt=0)


class PathSection(Section):
    """`PathGradient`: reverse divergence by its path gradient."""

    kind: Literal["path"] = _key("path", "objective: path or reverse")
    kinetic_penalty: float = _key(1e-3, "weight of the kinetic energy of the trajectories", ge=0)
    method: str = _key("rk5", "solver while training")
    steps: int | None = _key(None, "its equal steps, 5 unless given; none for an adaptive method", ge=1)
    rtol: float = _key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = _key(1e-5, "absolute tolerance, for adaptive methods", gt=0)
    checkpoint: bool = _key(False, "recompute steps in the backward pass: less memory, more time")
    adjoint: bool = _key(False, "integrate the backward pass: less memory, more time")


class ReverseSection(Section):
    """`ReverseKL`: reverse divergence by reparametrisation, with the flow's solver."""

    kind: Literal["reverse"] = _key("reverse", "objective: path or reverse")


class AdamSection(Section):
    """Adam with a short memory of the squared gradient."""

    kind: Literal["adam"] = _key("adam", "optimiser: adam or natural")
    learning_rate: float = _key(2e-2, "at the top of the schedule", gt=0)
    warmup: int = _key(30, "steps of the linear warm-up", ge=0)
    clip_norm: float = _key(10.0, "gradients with a larger norm are scaled down to it", gt=0)


class NaturalSection(Section):
    """`NaturalGradient`: steps along the inverse Fisher matrix times the gradient."""

    kind: Literal["natural"] = _key("natural", "optimiser: adam or natural")
    learning_rate: float = _key(1.0, "1 is the full step", gt=0)
    warmup: int = _key(5, "steps of the linear warm-up", ge=0)
    clip_norm: float = _key(math.inf, "gradients with a larger norm are scaled down to it", gt=0)


class TrainingSection(Section):
    """How long, and on what."""

    steps: int = _key(600, "optimiser steps in all", ge=1)
    batch_size: int = _key(128, "model samples per step", ge=1)
    seed: int = _key(0, "of everything that is random in the run", ge=0)


class StartSection(Section):
    """A trained flow to go on from, instead of [field], [prior] and [symmetry]."""

    flow: str | None = _key(None, "run folder, .pt file or name of a pretrained flow; resized to the lattice")


class ComputeSection(Section):
    """Where and how precisely."""

    device: str = _key("cpu", "cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "float64"] = _key("float32", "float32 or float64")
    threads: int = _key(1, "CPU threads; more than one pays from L = 32 on", ge=1)
    compile: bool = _key(False, "whether torch.compile compiles the vector field")


class RunSection(Section):
    """What is written into the run folder, and how often."""

    checkpoint_every: int = _key(50, "steps between checkpoints: what an interruption loses at most", ge=1)
    keep: int = _key(2, "earlier checkpoints that are kept besides the latest", ge=0)
    evaluate_every: int = _key(100, "steps between evaluations on fresh samples", ge=1)
    evaluation_samples: int = _key(2048, "fresh samples of an evaluation", ge=16)
    accuracy: float = _key(1e-3, "largest solver error of log Z at the end; 0 keeps [solver]", ge=0)
    tensorboard: bool = _key(False, "also log for TensorBoard (pip install 'equiflow[tensorboard]')")


ActionSection = Annotated[
    Annotated[Phi4Section, Tag("phi4")] | Annotated[FreeSection, Tag("free")], _kind("phi4")
]
FieldSection = Annotated[
    Annotated[OrbitSection, Tag("orbit")]
    | Annotated[O3Section, Tag("o3")]
    | Annotated[SteerableSection, Tag("steerable")],
    _kind("orbit"),
]
PriorSection = Annotated[
    Annotated[FreePriorSection, Tag("free")] | Annotated[NormalPriorSection, Tag("normal")], _kind("free")
]
ObjectiveSection = Annotated[
    Annotated[PathSection, Tag("path")] | Annotated[ReverseSection, Tag("reverse")], _kind("path")
]
OptimiserSection = Annotated[
    Annotated[AdamSection, Tag("adam")] | Annotated[NaturalSection, Tag("natural")], _kind("adam")
]

#: sections that come in several kinds, the default one first
KINDS: dict[str, tuple[type[Section], ...]] = {
    "action": (Phi4Section, FreeSection),
    "field": (OrbitSection, O3Section, SteerableSection),
    "prior": (FreePriorSection, NormalPriorSection),
    "objective": (PathSection, ReverseSection),
    "optimiser": (AdamSection, NaturalSection),
}


class Config(Section):
    """A whole run. What has no default must be given: lattice and action."""

    lattice: LatticeSection
    action: ActionSection
    symmetry: SymmetrySection = SymmetrySection()
    field: FieldSection = OrbitSection()
    prior: PriorSection = FreePriorSection()
    start: StartSection = StartSection()
    solver: SolverSection = SolverSection()
    objective: ObjectiveSection = PathSection()
    optimiser: OptimiserSection = AdamSection()
    training: TrainingSection = TrainingSection()
    compute: ComputeSection = ComputeSection()
    run: RunSection = RunSection()
