"""Numbers, flags and shapes of numpy are as good as Python's in every public constructor and function."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiflow as eq
from equiflow.analysis import explain_weights, samples_to_explain
from equiflow.samplers import LatentAction
from equiflow.testing import probes
from tests.support.strategies import is_there

SQUARE = eq.Lattice((4, 4))
CUBE = eq.Lattice((2, 2, 2))
ACTION = eq.Phi4(SQUARE, m2=1.0, lam=1.0)
PAIR = eq.Multiplet(SQUARE, 2)
ANGLES = eq.Angles(SQUARE)
LINKS = eq.Links(SQUARE, "U(1)")
GAS = eq.Particles(3, 2)
ELECTRONS = eq.TrappedElectrons(GAS, Z=0.5)
SHORT = {"steps": 2, "batch_size": 8, "learning_rate": 0.0078125, "warmup": 1, "clip_norm": 1.0, "seed": 3}
KERNEL = {"kernel_size": (3, 3), "n_time_modes": 2, "max_frequency": 2.0}
RANGES = {"lam": (1.0, 2.0)}
FAMILY = eq.ActionFamily(eq.Phi4, SQUARE, m2=1.0, lam=(1.0, 2.0))


def flow() -> eq.EquivariantCNF:
    """Return a flow on the square that is cheap to solve."""
    field = eq.OrbitConvField(SQUARE, n_frequencies=2)
    return eq.EquivariantCNF(SQUARE, vector_field=field, solver=eq.Solver("rk4", steps=2))


def trained(**options: Any) -> list[Tensor]:
    """Return the weights after two steps of `fit`."""
    one = flow()
    eq.fit(one, ACTION, progress=False, **options)
    return [p.detach() for p in one.parameters()]


def climbed(**options: Any) -> list[Tensor]:
    """Return the weights after two rungs of `fit_ladder`."""
    rungs = eq.fit_ladder(
        [ACTION, eq.Phi4(eq.Lattice((6, 6)), m2=1.0, lam=1.0)],
        flow=flow(),
        objective=eq.ReverseKL(),
        **{"warmup": 1, "progress": False, "learning_rate": 0.0078125} | options,
    )
    return [p.detach() for p in rungs[-1].flow.parameters()]


def fermions(beta: float = 2.0) -> eq.ThermalState:
    """Return a density matrix that is cheap to carry."""
    return eq.ThermalState(eq.SlaterStates(GAS), beta=beta, solver=eq.Solver("rk4", steps=1))


def heated(**options: Any) -> list[Tensor]:
    """Return the parameters after two steps of `fit_thermal_state`."""
    rho = fermions()
    eq.fit_thermal_state(rho, ELECTRONS, progress=False, solver=rho.solver, **options)
    return [p.detach() for p in rho.parameters()]


def along_path(**options: Any) -> eq.StochasticFlow:
    """Return a path of two actions with one layer."""
    prior = eq.FreeField(SQUARE)
    path, layers = eq.geometric_path(prior, ACTION, 2), [None, flow()]
    kernel = lambda action: eq.HMC(action, step_size=0.25, trajectory_length=0.5)  # noqa: E731
    return eq.StochasticFlow(prior, path, layers=layers, kernel=kernel, **options)


def by_segments(**options: Any) -> list[Tensor]:
    """Return the weights after two steps of `fit_segments`."""
    path = along_path()
    eq.fit_segments(path, **{"steps": 2, "batch_size": 8, "warmup": 1, "progress": False} | options)
    return [p.detach() for p in path.layers[0].vector_field.parameters()]


def natural(**options: Any) -> list[Tensor]:
    """Return the weights after two natural steps."""
    one = flow()
    options = {"rows": 8, **options}
    made = eq.NaturalGradient.of(one, **options)
    eq.fit(one, ACTION, steps=2, batch_size=8, warmup=0, progress=False, optimiser=made)
    return [p.detach() for p in one.parameters()]


def by_continuity(**options: Any) -> list[Tensor]:
    """Return the weights after a sweep or two of `fit_by_continuity`."""
    prior = eq.FreeField(SQUARE, learnable=False)
    one = eq.EquivariantCNF(SQUARE, vector_field=eq.OrbitConvField(SQUARE), prior=prior)
    eq.fit_by_continuity(
        one, ACTION, **{"sweeps": 1, "n_samples": 8, "n_times": 2, "progress": False} | options
    )
    return [p.detach() for p in one.parameters()]


def learned(**options: Any) -> list[Tensor]:
    """Return the weights after two steps of `fit_trajectories`."""
    lattice = eq.Lattice((3,))
    one = eq.CanonicalFlow(lattice, [eq.LinearPointLayer(lattice)])
    states = torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(0))
    eq.fit_trajectories(one, states, progress=False, **options)
    return [p.detach() for p in one.parameters()]


def target_samples() -> Tensor:
    return torch.randn(16, 4, 4, generator=torch.Generator().manual_seed(0))


def chain(kernel: eq.Kernel, **options: Any) -> Tensor:
    options = {"n_samples": 2, "n_chains": 2, "n_thermalisation": 2, "certify": 0} | options
    return kernel.sample(generator=rng(), **options).samples


def chain_of(action: eq.Action) -> eq.Chain:
    return eq.HMC(action, step_size=0.1, trajectory_length=0.5).sample(
        8, n_chains=8, n_thermalisation=2, generator=rng()
    )


def drawn() -> eq.Ensemble:
    return eq.importance_sample(flow(), eq.FreeScalar(SQUARE, m2=1.0), 256, certify=0, generator=rng())


def of_one_site() -> eq.Ensemble:
    """Return as many samples as `explain_weights` takes."""
    site = eq.Lattice((1,))
    phi = torch.randn(samples_to_explain(site, z2=True), 1, generator=rng())
    return eq.Ensemble(phi, phi[:, 0], phi[:, 0].cos(), space=site)


def randomised(**options: Any) -> list[Tensor]:
    linear = nn.Linear(2, 2)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    probes.randomise(linear, **options)
    return [p.detach() for p in linear.parameters()]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


#: public name -> (what is called, its numbers in Python). What it returns is compared.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Lattice": (eq.Lattice, {"shape": (4, 6)}),
    "Multiplet": (lambda **o: eq.Multiplet(SQUARE, **o), {"n_components": 2}),
    "Particles": (eq.Particles, {"number": 3, "dim": 2}),
    "SymmetryGroup": (lambda **o: eq.SymmetryGroup(SQUARE, **o), {"z2": False}),
    "MultipletGroup": (lambda **o: eq.MultipletGroup(PAIR, **o), {"rotations": False}),
    "GaugeGroup": (lambda **o: eq.GaugeGroup(LINKS, **o), {"conjugation": False}),
    "EuclideanGroup": (lambda **o: eq.EuclideanGroup(GAS, **o), {"translations": True}),
    "Solver": (eq.Solver, {"rtol": 0.25, "atol": 0.5, "max_steps": 9, "adjoint": True}),
    "Solver, equal": (
        lambda **o: eq.Solver("rk4", **o),
        {"steps": 2, "checkpoint": True, "adjoint": False},
    ),
    "Phi4": (lambda **o: eq.Phi4(SQUARE, **o), {"m2": -0.5, "lam": 2}),
    "FreeScalar": (lambda **o: eq.FreeScalar(SQUARE, **o), {"m2": 0.5}),
    "ONModel": (lambda **o: eq.ONModel(PAIR, **o), {"m2": -1, "lam": 0.5}),
    "ContinuousIsing": (lambda **o: eq.ContinuousIsing(SQUARE, **o), {"T": 2.5}),
    "ContinuousIsing, integer": (lambda **o: eq.ContinuousIsing(SQUARE, **o), {"T": 3}),
    "XYModel": (lambda **o: eq.XYModel(ANGLES, **o), {"beta": 0.5}),
    "WilsonAction": (
        lambda **o: eq.WilsonAction(LINKS, **o),
        {"beta": 2, "rectangle": -0.25, "imaginary_theta": 0.5},
    ),
    "CoulombGas": (lambda **o: eq.CoulombGas(GAS, **o), {"beta": 0.5}),
    "ExternalField": (lambda **o: eq.ExternalField(ACTION, **o), {"h": 0.5}),
    "ExternalField, multiplet": (
        lambda **o: eq.ExternalField(eq.ONModel(PAIR, m2=1.0, lam=1.0), **o),
        {"h": (0.5, 0.25)},
    ),
    "ActionFamily": (lambda **o: eq.ActionFamily(eq.Phi4, SQUARE, **o), {"m2": 1, "lam": (1.0, 2)}),
    "FreeField": (lambda **o: eq.FreeField(SQUARE, **o), {"m2": 0.5, "learnable": False}),
    "SmoothFreeField": (lambda **o: eq.SmoothFreeField(SQUARE, **o), {"m2": 0.5, "learnable": False}),
    "TrappedGaussian": (lambda **o: eq.TrappedGaussian(GAS, **o), {"beta": 0.5, "width": 2.0}),
    "OrbitConvField": (lambda **o: eq.OrbitConvField(SQUARE, **o), KERNEL | {"n_frequencies": 2}),
    "PotentialField": (lambda **o: eq.PotentialField(SQUARE, **o), KERNEL | {"n_channels": 2, "n_ridges": 3}),
    "FactorisedConvField": (
        lambda **o: eq.FactorisedConvField(SQUARE, **o),
        {"kernel_size": 3, "n_frequencies": 2, "n_feature_bonds": 2, "n_harmonics": 1, "n_time_bonds": 2}
        | {"max_frequency": 2.0},
    ),
    "AttentionField": (
        lambda **o: eq.AttentionField(SQUARE, **o),
        KERNEL | {"n_heads": 1, "n_score": 1, "n_frequencies": 1, "seed": 5},
    ),
    "DeepAttentionField": (
        lambda **o: eq.DeepAttentionField(SQUARE, **o),
        KERNEL
        | {"n_heads": 1, "n_score": 1, "n_frequencies": 1, "seed": 5}
        | {"n_channels": 2, "n_layers": 2, "n_probes": 1},
    ),
    "SteerableField": (lambda **o: eq.SteerableField(SQUARE, **o), KERNEL | {"multiplicity": 1, "seed": 5}),
    "DeepSteerableField": (
        lambda **o: eq.DeepSteerableField(SQUARE, **o),
        KERNEL | {"multiplicity": 1, "seed": 5, "n_layers": 2, "n_probes": 1},
    ),
    "O3Field": (
        lambda **o: eq.O3Field(CUBE, irreps="1x0e", **o),
        {"kernel_size": (2, 2, 2), "n_radial": 2, "n_time_modes": 2, "max_frequency": 2.0},
    ),
    "MultipletField": (
        lambda **o: eq.MultipletField(PAIR, **o),
        {"n_frequencies": 2, "n_time_modes": 2, "max_frequency": 2.0},
    ),
    "AngleField": (
        lambda **o: eq.AngleField(ANGLES, **o),
        KERNEL | {"n_harmonics": 2, "n_channels": 2, "n_ridges": 2},
    ),
    "U1Field": (
        lambda **o: eq.U1Field(eq.Links(SQUARE, "U(1)"), **o),
        {"n_local": 2, "n_mixed": 1, "n_frequencies": 1, "max_frequency": 2.0, "charge_ranges": (2.0,)}
        | {"n_harmonics": 2, "kernel_size": 2, "n_time_modes": 2},
    ),
    "SUNField": (
        lambda **o: eq.SUNField(eq.Links(SQUARE, "SU(2)"), **o),
        {"degree": 2, "reach": 1, "strips": 2, "n_time_modes": 2},
    ),
    "ParticleField": (
        lambda **o: eq.ParticleField(GAS, **o),
        {"l_max": 1, "n_radial": 2, "n_hidden": 2, "n_time_modes": 2, "widths": (0.5, 2.0)},
    ),
    "BackflowField": (
        lambda **o: eq.BackflowField(GAS, **o),
        {"n_radial": 2, "n_time_modes": 2, "reach": 2.0},
    ),
    "SlaterStates": (lambda **o: eq.SlaterStates(GAS, **o).energies, {"cutoff": 7.0}),
    "TrappedElectrons": (lambda **o: eq.TrappedElectrons(GAS, **o), {"Z": 0.5}),
    "ThermalState": (lambda **o: fermions(**o), {"beta": 2.0}),
    "fit_thermal_state": (heated, SHORT),
    "thermal_averages": (
        lambda **o: str(eq.thermal_averages(fermions(), ELECTRONS, generator=rng(), **o)),
        {"n_samples": 4, "batch_size": 3, "n_bins": 2, "reach": 2.0},
    ),
    "EquivariantCNF": (lambda **o: eq.EquivariantCNF(SQUARE, **o), {"compile": False}),
    "CouplingFlow": (
        lambda **o: eq.CouplingFlow(SQUARE, **o),
        {"z2": True, "n_layers": 2, "hidden_channels": (4, 4), "kernel_size": 3},
    ),
    "MultiscaleFlow": (lambda **o: eq.MultiscaleFlow(SQUARE, **o), {"z2": True, "n_levels": 2}),
    "SymplecticFlow": (
        lambda **o: eq.SymplecticFlow(SQUARE, **o),
        {"n_steps": 2, "angle": 1.0, "n_channels": 2, "n_frequencies": 2, "max_frequency": 2.0},
    ),
    "AugmentedFlow": (
        lambda **o: eq.AugmentedFlow(SQUARE, **o),
        {"n_steps": 2, "angle": 1.0, "n_channels": 2, "n_frequencies": 2, "max_frequency": 2.0},
    ),
    "ConditionalFlow": (lambda **o: eq.ConditionalFlow(flow(), **o), {"ranges": RANGES, "degree": 2}),
    "SplineMap": (eq.SplineMap, {"n_bins": 4, "bound": 2.0}),
    "PathGradient": (eq.PathGradient, {"kinetic_penalty": 0.5}),
    "FlowMatching": (
        lambda **o: eq.FlowMatching(target_samples(), **o),
        {"sigma": 0.5, "fit_prior": False, "n_times": 2},
    ),
    "Mixture": (
        lambda **o: eq.Mixture((eq.ReverseKL(), o["parts"]), (eq.PathGradient(), 0.5)),
        {"parts": 0.5},
    ),
    "OverCouplings": (
        lambda **o: eq.OverCouplings(eq.training.AdaptivePathGradient(), **o),
        {"n_couplings": 2, "focus": 0.5},
    ),
    "HMC": (
        lambda **o: chain(eq.HMC(ACTION, **o)),
        {"step_size": 0.25, "trajectory_length": 0.5, "target_acceptance": 0.5, "first_step": 0.25},
    ),
    "MCLMC": (
        lambda **o: chain(eq.MCLMC(ACTION, **o)),
        {"step_size": 0.25, "decoherence_length": 0.5, "energy_variance": 0.5, "first_step": 0.25},
    ),
    "AdjustedMCLMC": (
        lambda **o: chain(eq.AdjustedMCLMC(ACTION, **o)),
        {"step_size": 0.25, "trajectory_length": 0.5, "target_acceptance": 0.5, "first_step": 0.25},
    ),
    "LatentHMC": (
        lambda **o: chain(eq.LatentHMC(flow(), ACTION, **o)),
        {"step_size": 0.25, "trajectory_length": 0.5, "target_acceptance": 0.5},
    ),
    "LocalMetropolis": (
        lambda **o: chain(eq.LocalMetropolis(ACTION, **o)),
        {"width": 0.5, "target_acceptance": 0.5},
    ),
    "LatentAction": (
        lambda **o: LatentAction(flow(), ACTION, **o)(target_samples()),
        {"beta": 0.5},
    ),
    "IndependenceStep": (
        lambda **o: chain(eq.IndependenceStep(flow(), ACTION, **o)),
        {"n_proposals": 2},
    ),
    "Kernel.sample": (
        lambda **o: chain(eq.HMC(ACTION), **o),
        {"n_samples": 2, "n_chains": 2, "n_thermalisation": 2, "thin": 2, "certify": 0},
    ),
    "IndependenceMetropolis.sample": (
        lambda **o: eq.IndependenceMetropolis(flow(), ACTION).sample(generator=rng(), **o).samples,
        {"n_samples": 4, "n_chains": 2, "batch_size": 3, "certify": 2},
    ),
    "importance_sample": (
        lambda **o: eq.importance_sample(flow(), ACTION, generator=rng(), **o).phi,
        {"n_samples": 4, "batch_size": 3, "certify": 2, "levels": 2},
    ),
    "annealed_importance_sample": (
        lambda **o: eq.annealed_importance_sample(flow(), ACTION, generator=rng(), **o).phi,
        {"n_samples": 4, "betas": 2, "resample": 0.5, "batch_size": 3, "certify": 2},
    ),
    "Bridge": (lambda **o: eq.Bridge(eq.FreeField(SQUARE), ACTION, **o)(target_samples()), {"beta": 0.5}),
    "geometric_path": (lambda **o: eq.geometric_path(eq.FreeField(SQUARE), ACTION, **o), {"betas": 2}),
    "StochasticFlow": (
        lambda **o: along_path(**o).travel(4, generator=rng()).log_weight,
        {"n_updates": (2, 1)},
    ),
    "stochastic_importance_sample": (
        lambda **o: eq.stochastic_importance_sample(along_path(), generator=rng(), **o).phi,
        {"n_samples": 4, "resample": 0.5, "batch_size": 3, "certify": 2},
    ),
    "fit_segments": (
        lambda **o: by_segments(**o),
        {"n_samples": 8, "n_tuning": 2, "seed": 3},
    ),
    "fit_by_continuity": (
        lambda **o: by_continuity(**o),
        {"sweeps": 2, "n_samples": 16, "n_times": 3, "local": 0.125, "ridge": 0.0009765625, "seed": 3},
    ),
    "log_weights": (lambda **o: eq.log_weights(flow(), ACTION, target_samples(), **o), {"batch_size": 3}),
    "effective_sample_size": (
        lambda **o: eq.effective_sample_size(target_samples().flatten(), **o),
        {"n_blocks": 8},
    ),
    "forward_effective_sample_size": (
        lambda **o: eq.forward_effective_sample_size(target_samples().flatten(), **o),
        {"n_blocks": 8},
    ),
    "diagnose": (
        lambda **o: eq.diagnose(flow(), ACTION, drawn(), chain_of(ACTION), **o),
        {"threshold": 0.5, "explain": False},
    ),
    "explain_weights": (lambda **o: explain_weights(of_one_site(), **o), {"z2": True}),
    "samples_to_explain": (lambda **o: samples_to_explain(SQUARE, **o), {"z2": True}),
    "measure": (
        lambda **o: eq.measure(drawn(), **o),
        {"t_min": 1, "z2": False},
    ),
    "log_z_along": (
        lambda **o: eq.log_z_along(lambda **c: chain_of(eq.Phi4(SQUARE, m2=1.0, **c)), FAMILY, **o),
        {"start": {"lam": 1.0}, "end": {"lam": 2.0}, "n_points": 3},
    ),
    "ActionFamily.at": (FAMILY.at, {"lam": 1.5}),
    "ConditionalFlow.at": (lambda **o: eq.ConditionalFlow(flow(), RANGES).at(**o).about, {"lam": 1.5}),
    "fit": (trained, SHORT | {"checkpoint_every": 2, "n_fresh": 4, "target_ess": 0.984375}),
    "fit_ladder": (climbed, {"steps": (2, 1), "batch_size": [8, 6], "learning_rate": 0.0078125, "seed": 3}),
    "NaturalGradient": (
        natural,
        {"rows": 8, "refresh": 2, "window": 2, "damping": 0.25, "momentum": 0.5, "radius": 0.5, "seed": 3},
    ),
    "Flow.certificate": (lambda **o: flow().certificate(generator=rng(), **o).log_z_shift, {"n_samples": 4}),
    "Flow.sample": (lambda **o: flow().sample(generator=rng(), **o), {"n_samples": 4}),
    "EquivariantCNF.tune_solver": (
        lambda **o: flow().tune_solver(generator=rng(), **o),
        {"target": 0.125, "n_samples": 4},
    ),
    "EquivariantCNF.solve": (lambda **o: flow().solve(target_samples(), **o).nfe, {"t0": 0.0, "t1": 0.5}),
    "testing.randomise": (randomised, {"scale": 0.5, "seed": 3}),
    "testing.log_density_error": (
        lambda **o: eq.testing.log_density_error(flow(), **o),
        {"n_samples": 2, "seed": 3},
    ),
    "CouplingPointLayer": (lambda **o: eq.CouplingPointLayer(SQUARE, **o), {"parity": 1, "n_features": 3}),
    "FieldTransformation": (
        lambda **o: eq.FieldTransformation(SQUARE, eq.PotentialField(SQUARE, n_ridges=2), **o),
        {"n_steps": 2},
    ),
    "HamiltonianLayer": (lambda **o: eq.HamiltonianLayer(SQUARE, **o), {"n_features": 3, "n_steps": 2}),
    "Hamiltonian": (lambda **o: eq.Hamiltonian(ACTION, **o), {"beta": 2}),
    "HarmonicChain": (lambda **o: eq.HarmonicChain(eq.Lattice((4,)), **o), {"pinning": 0.25}),
    "RingPotential": (lambda **o: eq.RingPotential(eq.Lattice((2,)), **o), {"radius": 2, "width": 0.5}),
    "Oscillators": (
        lambda **o: eq.Oscillators(SQUARE, **o),
        {"beta": 2, "slowest": 0.25, "fastest": 4},
    ),
    "fit_trajectories": (
        lambda **o: learned(**o),
        {"steps": 2, "batch_size": 8, "learning_rate": 0.0078125, "seed": 3},
    ),
    "testing.equivariance_error": (
        lambda **o: eq.testing.equivariance_error(flow().vector_field, **o),
        {"times": (0.0, 0.5), "n_random": 2},
    ),
}

#: numbers of public callables that are results or differences of types, not what a caller chooses
NOT_CHOSEN = {"Certificate", "Chain", "Ensemble", "Estimate", "EstimatedField", "ExtendedFlow"}

NUMPY = {"wide": (np.int64, np.float64), "narrow": (np.int16, np.float32)}


def as_numpy(value: Any, integer: Any, number: Any) -> Any:
    """Return a value with every number, flag and shape in it replaced by numpy's."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return {key: as_numpy(item, integer, number) for key, item in value.items()}
    if isinstance(value, tuple) and all(type(item) is int for item in value):
        return np.array(value, dtype=integer)
    if isinstance(value, (tuple, list)):
        return type(value)(as_numpy(item, integer, number) for item in value)
    return value


def told(result: Any) -> str:
    """Return everything that can be seen of a result, as text."""
    if isinstance(result, (list, tuple)):
        return "; ".join(map(told, result))
    if isinstance(result, Tensor):
        return repr((result.dtype, result.tolist()))
    if isinstance(result, nn.Module):
        config = result.config() if hasattr(result, "config") else {}
        json.dumps(config)  # plain enough for a file
        return f"{result!r} {config} {told(list(result.state_dict().values()))}"
    return repr(result)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", NUMPY)
def test_numbers_of_numpy_do_what_python_s_do(name, kind):
    if name in ("SteerableField", "DeepSteerableField") and not is_there("escnn"):
        pytest.skip("needs escnn")
    if name in ("O3Field",) and not is_there("e3nn"):
        pytest.skip("needs e3nn")
    if name == "SplineMap" and not is_there("zuko"):
        pytest.skip("needs zuko")
    call, numbers = CALLS[name]
    torch.manual_seed(0)  # the networks of a CouplingFlow start from global randomness
    found = told(call(**as_numpy(numbers, *NUMPY[kind])))
    torch.manual_seed(0)
    assert found == told(call(**numbers))
    assert "np." not in found


def numbers_of(public: Any) -> set[str]:
    """Return the parameters of a public callable that are numbers, flags or shapes by their annotation."""
    kinds = ("int", "float", "bool")
    parameters = inspect.signature(public).parameters.values()
    return {
        p.name
        for p in parameters
        if any(word in str(p.annotation).replace("Pointwise", "") for word in kinds)
    }


def test_every_number_of_the_public_api_is_tried():
    tried: dict[str, set[str]] = {}
    for name, (_, numbers) in CALLS.items():
        tried.setdefault(name.split(",")[0], set()).update(numbers)
    missing = {}
    for name in eq.__all__:
        public = getattr(eq, name)
        if (not inspect.isclass(public) and not inspect.isfunction(public)) or inspect.isabstract(public):
            continue
        if name in NOT_CHOSEN or (inspect.isclass(public) and issubclass(public, Exception)):
            continue
        left = numbers_of(public) - tried.get(name, set()) - {"couplings", "progress", "optimiser", "lr"}
        if left:
            missing[name] = left
    assert not missing


#: what takes a seed, and how
SEEDED: dict[str, Callable[[Any], object]] = {
    "fit": lambda seed: trained(**SHORT | {"seed": seed}),
    "fit_ladder": lambda seed: climbed(steps=[1, 1], batch_size=8, seed=seed),
    "NaturalGradient": lambda seed: natural(seed=seed),
    "fit_by_continuity": lambda seed: by_continuity(seed=seed),
    "fit_segments": lambda seed: by_segments(n_samples=8, n_tuning=1, seed=seed),
    "AttentionField": lambda seed: eq.AttentionField(SQUARE, seed=seed),
    "DeepAttentionField": lambda seed: eq.DeepAttentionField(SQUARE, n_layers=2, seed=seed),
    "randomise": lambda seed: randomised(seed=seed),
    "configurations": lambda seed: probes.configurations(flow(), SQUARE, seed=seed),
    "prior_samples": lambda seed: probes.prior_samples(flow(), 3, seed),
    "stream": lambda seed: importlib.import_module("equiflow.runtime.randomness").stream(seed, "a"),
}
if is_there("escnn"):
    SEEDED["SteerableField"] = lambda seed: eq.SteerableField(SQUARE, seed=seed)
    SEEDED["DeepSteerableField"] = lambda seed: eq.DeepSteerableField(SQUARE, seed=seed)


@pytest.mark.parametrize("what", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-1)])
def test_a_seed_out_of_range_is_refused_with_the_range(what, seed):
    with pytest.raises(ValueError, match=r"^seed must be an integer from 0 to 2\^64 - 1, got -?\d+\.$"):
        SEEDED[what](seed)


@pytest.mark.parametrize("what", SEEDED)
@pytest.mark.parametrize("seed", [1.0, "1", True, np.float64(1.0)])
def test_what_is_no_seed_is_refused(what, seed):
    with pytest.raises(TypeError, match=r"^seed must be an integer from 0 to 2\^64 - 1, got"):
        SEEDED[what](seed)


@pytest.mark.parametrize("what", SEEDED)
def test_the_largest_seed_is_as_good_as_any(what):
    found = SEEDED[what](2**64 - 1)
    if what == "stream":
        found = found.initial_seed()
        assert found == SEEDED[what](np.uint64(2**64 - 1)).initial_seed() != SEEDED[what](0).initial_seed()
    else:
        assert told(found) == told(SEEDED[what](np.uint64(2**64 - 1))) != told(SEEDED[what](0))


def test_shards_take_seeds_of_numpy_and_refuse_others_before_a_file_is_made(tmp_path):
    options = {"n_shards": np.int64(2), "certify": np.int64(0), "batch_size": np.int64(3)}
    drawn = eq.interop.sample_shards(flow(), ACTION, np.int64(4), tmp_path / "a", seed=np.int64(3), **options)
    again = eq.interop.sample_shards(flow(), ACTION, 4, tmp_path / "a", seed=3, n_shards=2, certify=0)
    assert torch.equal(drawn, again)
    with pytest.raises(ValueError, match="from 0 to 2"):
        eq.interop.sample_shards(flow(), ACTION, 4, tmp_path / "b", seed=2**64)
    assert not (tmp_path / "b").exists()


def test_a_run_with_numbers_of_numpy_goes_on_with_python_s(tmp_path):
    half = SHORT | {"checkpoint": tmp_path / "run.pt", "objective": eq.PathGradient(np.float32(0.5))}
    whole = trained(**SHORT | {"steps": 4, "objective": eq.PathGradient(0.5)})

    def stop(history: Any) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt

    numbers = as_numpy(SHORT | {"steps": 4, "checkpoint_every": 2}, np.int64, np.float64)
    with pytest.raises(KeyboardInterrupt):
        trained(**numbers, **{key: half[key] for key in ("checkpoint", "objective")}, callback=stop)
    resumed = trained(**half | {"steps": 4, "objective": eq.PathGradient(0.5)})
    assert told(resumed) == told(whole)
