"""From a config to the objects of the library: action, flow, objective and optimiser of a run.

What the library refuses is reported as a `ConfigError` that names the section.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equiflow import Action, EquivariantCNF, Group, Lattice, Mixture, NaturalGradient, Solver
from equiflow.cli.config.derived import DerivedSection
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.fields import families_of
from equiflow.cli.config.objectives import MixtureSection, SolvedSection
from equiflow.cli.config.schema import AdamSection, Config, GradientSection, LeastSquaresSection
from equiflow.cli.config.theories import priors_of
from equiflow.flows.tangents import trained_parameters
from equiflow.interop import describe_samples, load_chain
from equiflow.ode.solver import FIXED_STEP_ORDER
from equiflow.runtime.capacity import check_samples
from equiflow.runtime.devices import check_device
from equiflow.runtime.options import options_of
from equiflow.runtime.precision import default_dtype
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.lattice import lattice_of
from equiflow.theories.base.space import Space
from equiflow.training.objectives.base import Objective
from equiflow.training.trainer import adam


@contextmanager
def section(name: str) -> Iterator[None]:
    """Raise what the library refuses inside the `with` block as a `ConfigError` that names a section."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, FileNotFoundError) as error:
        raise ConfigError(f"[{name}]: {error}") from error


def check_memory_for(config: Config, flow: EquivariantCNF) -> None:
    """Refuse batches and evaluations that the memory cannot hold.

    Args:
        config: of one lattice.
        flow: on that lattice.

    Raises:
        ConfigError: if the samples of a batch, or of an evaluation, do not fit.
    """
    counts = {
        "training": {"batch_size": config.training.batch_size},
        "run": {"evaluation_samples": config.run.evaluation_samples},
    }
    for name, keys in counts.items():
        for key, n_samples in keys.items():
            with section(name):
                remedy = f"Lower {key}."
                check_samples(n_samples, flow.space.shape, flow.dtype, remedy, device=flow.device)


def build_space(config: Config) -> Space:
    """Return the space of the configurations: the lattice of a config, or fields of several numbers on it."""
    with section("lattice"):
        lattice = Lattice(tuple(config.lattice.shape))
    with section("action"):
        return config.action.space(lattice)


def build_action(config: Config) -> Action:
    """Return the target of a config."""
    space = build_space(config)
    with section("action"):
        action = config.action.action(space)
        if getattr(config.action, "h", None) and config.symmetry.z2 and config.start.flow is None:
            raise ValueError("h breaks phi -> -phi, and O(N) with it: set z2 = false in [symmetry].")
        if getattr(config.action, "imaginary_theta", 0.0) and config.start.flow is None:
            _check_symmetry(action, _group(config, space))
        return action


def build_flow(config: Config, *, start: EquivariantCNF | None = None) -> EquivariantCNF:
    """Return the untrained flow of a config.

    Args:
        config: what to build.
        start: the flow to start from instead of a new one; it is resized to the lattice of the config.

    Returns:
        The flow, on the device and in the dtype of the config.

    Raises:
        ConfigError: if the library refuses a section.
    """
    space = build_space(config)
    with section("solver"):
        solver = Solver(**config.solver.model_dump())
    with section("compute"):
        device = check_device(config.compute.device)
    dtype = getattr(torch, config.compute.dtype)
    if start is None:
        # Constants are built in the dtype of the run, whatever the default of the process is.
        with default_dtype(dtype):
            return _new_flow(config, space, solver).to(device, dtype)
    with section("ladder" if config.start.flow is None else "start"):
        # A field that does not carry over to other lattices can still go on on its own one.
        flow = copy.deepcopy(start) if start.space == space else start.resized(lattice_of(space))
        if flow.space != space:
            raise ValueError(f"the flow is one on {flow.space}, the action on {space}.")
        flow.solver, flow.compiled, flow.about = solver, config.compute.compile, {}
    return flow.to(device, dtype)


def _new_flow(config: Config, space: Space, solver: Solver) -> EquivariantCNF:
    """Build a flow with field, prior and symmetry of a config, and random weights from its seed."""
    with section("symmetry"):
        group = _group(config, space)
    theory = config.action.theory
    _check_suits(config, "field", families_of(theory), families_of(theory, space))
    _check_suits(config, "prior", priors_of(theory), priors_of(theory))
    # Fields may start from global randomness: it is seeded here for them, and left as it was for the user.
    with section("field"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        field = config.field.stands_for(space, group=group, **config.field.options())
    with section("prior"):
        prior = config.prior.stands_for(space, group=group, **config.prior.options())
    return EquivariantCNF(
        space, vector_field=field, prior=prior, solver=solver, compile=config.compute.compile
    )


def _group(config: Config, space: Space) -> Group:
    """Return the group of [symmetry]; its key z2 stands for the internal symmetry of any theory."""
    build: Any = config.action.theory.group
    internal = [option.name for option in options_of(build) if option.annotation is bool]
    if not (internal or config.symmetry.z2):
        raise ValueError(f"z2 = false is not for action.kind = {config.action.kind!r}; leave it out.")
    group: Group = build(space, point=config.symmetry.point, **dict.fromkeys(internal, config.symmetry.z2))
    return group


def _check_symmetry(action: Action, group: Group) -> None:
    """Raise if an imaginary theta breaks a symmetry that the flow is to have."""
    phi = action.space.probes(4, seeded(0))
    value = action(phi)
    for name, element in group.generators().items():
        if not torch.allclose(action(element(phi)), value):
            raise ValueError(
                f"imaginary_theta breaks the symmetry {name!r} of the flow: set z2 = false and "
                'point = "rotations" in [symmetry].'
            )


def _check_suits(config: Config, name: str, of_theory: dict[str, Any], suitable: dict[str, Any]) -> None:
    """Refuse a field or prior that is made for the configurations of another theory, or of another space."""
    kind = getattr(config, name).kind
    if kind not in suitable:
        what = f"action.kind = {config.action.kind!r}" if kind not in of_theory else "this space"
        raise ConfigError(f"[{name}]: kind = {kind!r} is not for {what}; {next(iter(suitable))!r} is.")


def with_exact_trace(flow: EquivariantCNF) -> EquivariantCNF:
    """Return the flow with its exact divergence, which results need, and the same weights."""
    return flow if flow.vector_field.trace_is_exact else flow.with_trace("dense")


def build_objective(config: Config) -> Objective:
    """Return what training minimises."""
    chosen = config.objective
    with section("objective"):
        if isinstance(chosen, MixtureSection):
            if len(chosen.weights) != len(chosen.parts):
                raise ValueError(f"there are {len(chosen.parts)} parts and {len(chosen.weights)} weights.")
            parts = [_objective(config, part) for part in chosen.parts]
            return Mixture(*zip(parts, chosen.weights, strict=True))
        assert isinstance(chosen, DerivedSection)
        return _objective(config, chosen)


def _objective(config: Config, chosen: DerivedSection) -> Objective:
    options = chosen.options()
    if isinstance(chosen, SolvedSection):
        options["solver"] = _solver(config, chosen)
    if "samples" in options:
        options["samples"] = _samples(config, options["samples"])
    objective: Objective = chosen.stands_for(**options)
    return objective


def _solver(config: Config, chosen: SolvedSection) -> Solver:
    """Return the solver of an objective, by default in as many steps as suit the field."""
    options = {name: getattr(chosen, name) for name in SolvedSection.model_fields if name != "kind"}
    if options["steps"] is None and options["method"] in FIXED_STEP_ORDER:
        options["steps"] = config.field.stands_for.training_solver.steps
    return Solver(**options)


def _samples(config: Config, path: str) -> Tensor:
    """Return the configurations of a chain in a file, which must be of the run's action."""
    action, about = build_action(config), describe_samples(path)
    if tuple(about["shape"]) != action.space.shape:
        raise ValueError(f"{path} holds configurations {about['shape']}, the run {list(action.space.shape)}.")
    if about["action"] is not None and about["action"]["text"] != repr(action):
        raise ValueError(f"{path} holds samples of {about['action']['text']}, the run is for {action!r}.")
    return load_chain(path).configurations


def check_training(config: Config, flow: EquivariantCNF) -> None:
    """Refuse objectives and optimisers that cannot train a flow.

    Args:
        config: of the run.
        flow: to be trained.

    Raises:
        ConfigError: if something does not belong together.
    """
    if not isinstance(config.optimiser, LeastSquaresSection):
        build_optimiser(config, flow)
        build_objective(config)
    elif not flow.vector_field.linear_parameters:
        raise ConfigError(
            '[optimiser]: kind = "least_squares" needs a field with linear weights, such as u1 or orbit; '
            f"{config.field.kind!r} has none."
        )


def build_optimiser(config: Config, flow: EquivariantCNF) -> Callable[[list[nn.Parameter], float], Optimizer]:
    """Return what `fit` makes its optimiser with.

    Args:
        config: of the run.
        flow: to be trained.

    Returns:
        A function of the parameters and of the learning rate, which returns the optimiser.

    Raises:
        ConfigError: if the optimiser cannot train this flow.
    """
    if isinstance(config.optimiser, AdamSection):
        return adam
    assert isinstance(config.optimiser, GradientSection)
    if not flow.vector_field.trace_is_exact:
        raise ConfigError('[optimiser]: kind = "natural" needs field.trace = "dense"; "adam" takes any.')
    make = NaturalGradient.of(flow, seed=config.training.seed, **config.optimiser.options())
    with section("optimiser"):
        make(trained_parameters(flow), config.optimiser.learning_rate or 1.0)  # checks its options
    return make
