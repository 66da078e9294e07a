"""From a config to the objects of the library. What they refuse is reported under its section."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equiflow import (
    Action,
    AttentionField,
    DeepAttentionField,
    DeepSteerableField,
    EquivariantCNF,
    ExternalField,
    FactorisedConvField,
    FlowMatching,
    ForwardKL,
    FreeField,
    FreeScalar,
    Lattice,
    Mixture,
    Multiplet,
    MultipletField,
    NaturalGradient,
    O3Field,
    ONModel,
    OrbitConvField,
    PathGradient,
    Phi4,
    PotentialField,
    Prior,
    ReverseKL,
    Solver,
    StandardNormal,
    SteerableField,
    VectorField,
)
from equiflow.cli.config.file import ConfigError
from equiflow.cli.config.objectives import (
    ForwardSection,
    MatchingSection,
    MixtureSection,
    PathSection,
    SolvedSection,
)
from equiflow.cli.config.schema import AdamSection, Config, FreeSection, NaturalSection, ONSection
from equiflow.cli.config.section import Section
from equiflow.interop import describe_samples, load_chain
from equiflow.ode.solver import FIXED_STEP_ORDER
from equiflow.runtime.precision import default_dtype
from equiflow.theories.base.kind import group_of
from equiflow.theories.base.lattice import lattice_of
from equiflow.training.objectives.base import Objective
from equiflow.training.trainer import adam

FIELDS: dict[str, type[VectorField]] = {
    "potential": PotentialField,
    "orbit": OrbitConvField,
    "factorised": FactorisedConvField,
    "steerable": SteerableField,
    "deep-steerable": DeepSteerableField,
    "o3": O3Field,
    "attention": AttentionField,
    "deep-attention": DeepAttentionField,
    "multiplet": MultipletField,
}
PRIORS: dict[str, Callable[..., Prior]] = {"free": FreeField, "normal": StandardNormal}


@contextmanager
def section(name: str) -> Iterator[None]:
    """What the library refuses while a section is built, as a ConfigError that names the section."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, FileNotFoundError) as error:
        raise ConfigError(f"[{name}]: {error}") from error


def build_space(config: Config) -> Lattice | Multiplet:
    """The lattice of a config, or the multiplet on it."""
    with section("lattice"):
        lattice = Lattice(tuple(config.lattice.shape))
    if not isinstance(config.action, ONSection):
        return lattice
    with section("action"):
        return Multiplet(lattice, config.action.n_components)


def build_action(config: Config) -> Action:
    """The target of a config."""
    space, chosen = build_space(config), config.action
    with section("action"):
        if isinstance(chosen, FreeSection):
            assert isinstance(space, Lattice)
            return FreeScalar(space, m2=chosen.m2)
        couplings = {"m2": chosen.m2, "lam": chosen.lam}
        action = ONModel(space, **couplings) if isinstance(space, Multiplet) else Phi4(space, **couplings)
        if not chosen.h:
            return action
        if config.symmetry.z2 and config.start.flow is None:
            raise ValueError("h breaks phi -> -phi, and O(N) with it: set z2 = false in [symmetry].")
        return ExternalField(action, h=chosen.h if isinstance(chosen.h, float) else tuple(chosen.h))


def build_flow(config: Config, *, start: EquivariantCNF | None = None) -> EquivariantCNF:
    """The untrained flow of a config.

    Args:
        config: what to build.
        start: the flow to start from instead of a new one.
    """
    space = build_space(config)
    with section("solver"):
        solver = Solver(**config.solver.model_dump())
    with section("compute"):
        device = torch.device(config.compute.device)
        torch.empty((), device=device)
    dtype = getattr(torch, config.compute.dtype)
    if start is not None:
        lattice = lattice_of(space)
        with section("ladder" if config.start.flow is None else "start"):
            # Fields that do not carry over to other lattices can go on on their own.
            flow = copy.deepcopy(start) if start.space == space else start.resized(lattice)
            if flow.space != space:
                raise ValueError(f"the flow is one on {flow.space}, the action on {space}.")
            flow.solver, flow.compiled, flow.about = solver, config.compute.compile, {}
        return flow.to(device, dtype)
    # Constants are built in the dtype of the run, whatever the surroundings' default.
    with default_dtype(dtype):
        return _new_flow(config, space, solver).to(device, dtype)


def _new_flow(config: Config, space: Lattice | Multiplet, solver: Solver) -> EquivariantCNF:
    chosen = config.field
    with section("symmetry"):
        internal = "rotations" if isinstance(space, Multiplet) else "z2"
        group = group_of(space, **{"point": config.symmetry.point, internal: config.symmetry.z2})
    # Fields may start from global randomness: here from the run's seed, and the user's stays as it was.
    with section("field"), torch.random.fork_rng(devices=[]):
        if isinstance(space, Multiplet) != (chosen.kind == "multiplet"):
            suits = "multiplet" if isinstance(space, Multiplet) else "potential"
            raise ValueError(
                f"kind = {chosen.kind!r} is not for action.kind = {config.action.kind!r}; {suits!r} is."
            )
        torch.manual_seed(config.training.seed)
        field_class: Any = FIELDS[chosen.kind]
        field = field_class(space, group=group, **_options(chosen))
    with section("prior"):
        prior = PRIORS[config.prior.kind](space, group=group, **_options(config.prior))
    return EquivariantCNF(
        space, vector_field=field, prior=prior, solver=solver, compile=config.compute.compile
    )


def exact(flow: EquivariantCNF) -> EquivariantCNF:
    """The flow with its exact divergence, which results need; the same weights."""
    return flow if flow.vector_field.trace_is_exact else flow.with_trace("dense")


def build_objective(config: Config) -> Objective:
    """What training minimises."""
    chosen = config.objective
    with section("objective"):
        if not isinstance(chosen, MixtureSection):
            return _objective(config, chosen)
        if len(chosen.weights) != len(chosen.parts):
            raise ValueError(f"there are {len(chosen.parts)} parts and {len(chosen.weights)} weights.")
        parts = [_objective(config, part) for part in chosen.parts]
        return Mixture(*zip(parts, chosen.weights, strict=True))


def _objective(config: Config, chosen: Section) -> Objective:
    if isinstance(chosen, ForwardSection):
        return ForwardKL(_samples(config, chosen.samples), solver=_solver(config, chosen))
    if isinstance(chosen, PathSection):
        return PathGradient(chosen.kinetic_penalty, _solver(config, chosen))
    if isinstance(chosen, MatchingSection):
        return FlowMatching(_samples(config, chosen.samples), **_options(chosen, but="samples"))
    return ReverseKL()


def _solver(config: Config, chosen: SolvedSection) -> Solver:
    options = {name: getattr(chosen, name) for name in SolvedSection.model_fields}
    if options["steps"] is None and options["method"] in FIXED_STEP_ORDER:
        options["steps"] = FIELDS[config.field.kind].training_solver.steps
    return Solver(**options)


def _samples(config: Config, path: str) -> Tensor:
    """The configurations of a chain in a file, which must be of the run's action."""
    action, about = build_action(config), describe_samples(path)
    if tuple(about["shape"]) != action.space.shape:
        raise ValueError(f"{path} holds configurations {about['shape']}, the run {list(action.space.shape)}.")
    if about["action"] is not None and about["action"]["text"] != repr(action):
        raise ValueError(f"{path} holds samples of {about['action']['text']}, the run is for {action!r}.")
    return load_chain(path).configurations


def build_optimiser(config: Config, flow: EquivariantCNF) -> Callable[[list[nn.Parameter], float], Optimizer]:
    """What `fit` makes its optimiser with."""
    chosen = config.optimiser
    if isinstance(chosen, AdamSection):
        return adam
    if not flow.vector_field.trace_is_exact:
        raise ConfigError('[optimiser]: kind = "natural" needs field.trace = "dense"; "adam" takes any.')
    own = set(NaturalSection.model_fields) - set(AdamSection.model_fields)
    options = {name: getattr(chosen, name) for name in sorted(own)}
    return NaturalGradient.of(flow, seed=config.training.seed, **options)


def _options(part: Section, *, but: str = "") -> dict[str, Any]:
    """The keys of a section that are options of what it stands for."""
    options = {key: value for key, value in part.model_dump().items() if key not in ("kind", but)}
    if isinstance(options.get("kernel_size"), list):
        options["kernel_size"] = tuple(options["kernel_size"])
    return options
