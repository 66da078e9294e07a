"""From a config to the objects of the library. What they refuse is reported under its section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from equiflow import (
    Action,
    EquivariantCNF,
    FreeField,
    FreeScalar,
    Lattice,
    NaturalGradient,
    O3Field,
    OrbitConvField,
    PathGradient,
    Phi4,
    Prior,
    ReverseKL,
    Solver,
    StandardNormal,
    SteerableField,
    SymmetryGroup,
    VectorField,
)
from equiflow.cli.config import Config, FreeSection, PathSection
from equiflow.cli.config_file import ConfigError
from equiflow.precision import default_dtype
from equiflow.solvers import FIXED_STEP_ORDER
from equiflow.training.objectives import Objective
from equiflow.training.trainer import adam

FIELDS: dict[str, Callable[..., VectorField]] = {
    "orbit": OrbitConvField,
    "o3": O3Field,
    "steerable": SteerableField,
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


def build_action(config: Config) -> Action:
    """The target of a config."""
    with section("lattice"):
        lattice = Lattice(tuple(config.lattice.shape))
    with section("action"):
        if isinstance(config.action, FreeSection):
            return FreeScalar(lattice, m2=config.action.m2)
        return Phi4(lattice, m2=config.action.m2, lam=config.action.lam)


def build_flow(config: Config, *, start: EquivariantCNF | None = None) -> EquivariantCNF:
    """The untrained flow of a config.

    Args:
        config: what to build.
        start: the flow to start from instead of a new one.
    """
    with section("lattice"):
        lattice = Lattice(tuple(config.lattice.shape))
    with section("solver"):
        solver = Solver(**config.solver.model_dump())
    with section("compute"):
        device = torch.device(config.compute.device)
        torch.empty((), device=device)
    dtype = getattr(torch, config.compute.dtype)
    if start is not None:
        with section("start"):
            flow = start.resized(lattice)
            flow.solver, flow.compiled = solver, config.compute.compile
        return flow.to(device, dtype)
    # Constants are built in the dtype of the run, whatever the surroundings' default.
    with default_dtype(dtype):
        return _new_flow(config, lattice, solver).to(device, dtype)


def _new_flow(config: Config, lattice: Lattice, solver: Solver) -> EquivariantCNF:
    with section("symmetry"):
        group = SymmetryGroup(lattice, **config.symmetry.model_dump())
    # Fields may start from global randomness: here from the run's seed, and the user's stays as it was.
    with section("field"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        field = FIELDS[config.field.kind](lattice, group=group, **_options(config.field))
    with section("prior"):
        prior = PRIORS[config.prior.kind](lattice, group=group, **_options(config.prior))
    return EquivariantCNF(
        lattice, vector_field=field, prior=prior, solver=solver, compile=config.compute.compile
    )


def build_objective(config: Config) -> Objective:
    """What training minimises."""
    if not isinstance(config.objective, PathSection):
        return ReverseKL()
    options = _options(config.objective)
    penalty = options.pop("kinetic_penalty")
    if options["steps"] is None and options["method"] in FIXED_STEP_ORDER:
        options["steps"] = 5
    with section("objective"):
        return PathGradient(kinetic_penalty=penalty, solver=Solver(**options))


def build_optimiser(config: Config, flow: EquivariantCNF) -> Callable[[list[nn.Parameter], float], Optimizer]:
    """What `fit` makes its optimiser with."""
    return NaturalGradient.of(flow) if config.optimiser.kind == "natural" else adam


def stream(seed: int, purpose: str, step: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Randomness of its own for every purpose and step of a run, whatever was drawn before."""
    words = np.random.SeedSequence([seed, step, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> np.uint64(1)))


def _options(part: Any) -> dict[str, Any]:
    return {key: value for key, value in part.model_dump().items() if key != "kind"}
