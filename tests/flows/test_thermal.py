"""Density matrices: local energies by finite differences, symmetry, zero variance, and planted mistakes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import (
    BackflowField,
    CheckpointError,
    EquivariantCNF,
    EuclideanGroup,
    ParticleField,
    Particles,
    SlaterStates,
    Solver,
    ThermalState,
    TrappedElectrons,
)
from equiflow.oracles import ideal_fermions
from equiflow.vector_fields.curvature import CurvatureRates
from tests.support.fermions import thermal_state

PLANE = Particles(3, 2)


def finite_difference_energy(
    rho: ThermalState, electrons: TrappedElectrons, x: Tensor, state: Tensor
) -> Tensor:
    """`H Psi / Psi` from values of `log |Psi|^2` alone, by central differences of fourth order."""
    n, size = len(x), x[0].numel()
    h = 1e-2
    shifts = h * torch.eye(size, dtype=x.dtype).view(size, *x.shape[1:])
    stencil = [x[:, None] + k * shifts for k in (-2, -1, 1, 2)]
    points = torch.cat([x, *(part.flatten(0, 1) for part in stencil)])
    labels = torch.cat([state, state.repeat_interleave(size).repeat(4)])
    with torch.no_grad():
        values = rho.log_density(points, labels)
    here, (b, a, c, d) = values[:n, None], values[n:].view(4, n, size)
    slope = (8 * (c - a) - (d - b)) / (12 * h)
    bend = (16 * (c + a) - (d + b) - 30 * here) / (12 * h**2)
    return electrons.potential(x) - 0.25 * bend.sum(1) - 0.125 * slope.square().sum(1)


def away_from_nodes(rho: ThermalState, n: int) -> tuple[Tensor, Tensor]:
    """Positions of determinants at which the density is not small, so that finite differences converge."""
    state, z = rho.draw(20 * n, generator=torch.Generator().manual_seed(0))
    kept = rho.states.jet(z, state).score.flatten(1).norm(dim=1).argsort()[:n]
    return state[kept], z[kept]


def energy_error(rho: ThermalState) -> float:
    """Largest difference of the local energy from that by finite differences."""
    electrons = TrappedElectrons(rho.states.particles, Z=0.5)
    state, z = away_from_nodes(rho, 4)
    with torch.no_grad():
        sample = rho.carry(z, state)
    expected = finite_difference_energy(rho, electrons, sample.x, state)
    return float((sample.local_energy(electrons) - expected).abs().max())


@pytest.mark.parametrize(
    ("family", "particles"),
    [
        (BackflowField, Particles(2, 1)),
        (BackflowField, PLANE),
        (BackflowField, Particles(2, 3)),
        (ParticleField, Particles(2, 2)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_local_energies_are_those_of_finite_differences(family, particles):
    assert energy_error(thermal_state(particles, family=family)) < 1e-5


def test_planted_mistakes_in_the_local_energy_are_seen(monkeypatch):
    rho = thermal_state(PLANE)
    exact = CurvatureRates.hessian_rate
    for wrong in (
        lambda rates, h: exact(rates, h) + 2 * rates.bending,  # the sign of K
        lambda rates, h: exact(rates, h) + rates.jacobian.mT @ h,  # one J instead of both
        lambda rates, h: 0.99 * exact(rates, h),
    ):
        monkeypatch.setattr(CurvatureRates, "hessian_rate", wrong)
        assert energy_error(rho) > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(
        TrappedElectrons,
        "local_energy",
        lambda h, x, s, lap: h.potential(x) - 0.25 * lap - 0.25 * s.square().sum((1, 2)),
    )
    assert energy_error(rho) > 1e-3


def test_densities_of_samples_are_those_of_the_inverse_flow():
    rho = thermal_state(PLANE, steps=8)
    sample = rho.sample(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rho.log_density(sample.x, sample.state), sample.log_density, rtol=0, atol=1e-6)
    leaf = sample.x.clone().requires_grad_()
    (score,) = torch.autograd.grad(rho.log_density(leaf, sample.state).sum(), leaf)
    scale = float(score.abs().max())
    torch.testing.assert_close(sample.score, score, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("family", [BackflowField, ParticleField])
def test_gradients_of_log_densities_are_those_at_fixed_positions(family):
    """Along the trajectory, without a second solve, against backpropagation through the inverse flow."""
    rho = thermal_state(PLANE, family=family, steps=5)
    state, z = away_from_nodes(rho, 3)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    sample = rho.carry(z, state)
    parameters = list(rho.vector_field.parameters())
    ours = torch.autograd.grad((weight * sample.log_density).sum(), parameters)
    expected = torch.autograd.grad((weight * rho.log_density(sample.x, state)).sum(), parameters)
    largest = max(float(g.abs().max()) for g in expected)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * largest)
    # Backpropagation at fixed z is another gradient.
    field = rho.vector_field
    along = torch.autograd.grad((weight * -field.velocity_and_divergence(z, 0.5)[1]).sum(), parameters)
    assert max(float((a - b).abs().max()) for a, b in zip(along, expected, strict=True)) > 1e-2 * largest


def test_a_new_state_is_that_of_ideal_fermions_without_variance():
    particles = PLANE
    states = SlaterStates(particles, cutoff=10.0)
    rho = ThermalState(states, beta=3.0)
    with torch.no_grad():
        sample = rho.sample(200, generator=torch.Generator().manual_seed(0))
        ideal = TrappedElectrons(particles, Z=0.0)
        terms = sample.local_energy(ideal) + sample.log_probability / rho.beta
        exact = ideal_fermions(particles, beta=3.0)
        assert float(terms.std()) < 1e-8
        # All determinants within the cutoff are there, so that F is above the exact one by very little.
        assert 0 < float(terms.mean()) - exact.free_energy < 1e-4
        assert abs(float(rho.entropy()) - exact.entropy) < 1e-2
        # Another probability, or an interaction, brings the variance back.
        rho.logits[0] += 0.5
        sample = rho.sample(200, generator=torch.Generator().manual_seed(0))
        terms = sample.local_energy(ideal) + sample.log_probability / rho.beta
        assert float(terms.std()) > 1e-2
        assert float(terms.mean()) > exact.free_energy + 1e-3
        assert float(sample.local_energy(TrappedElectrons(particles, Z=0.5)).std()) > 1e-2


@pytest.mark.parametrize("family", [BackflowField, ParticleField])
def test_the_density_matrix_has_the_symmetry_of_the_trap(family):
    rho = thermal_state(PLANE, family=family, steps=4)
    generator = torch.Generator().manual_seed(0)
    _, z = rho.draw(4, generator=generator)
    with torch.no_grad():
        rho.logits += 0.3 * (rho.states.energies - 5.0)  # still one probability for each shell
    elements = [*EuclideanGroup(PLANE).generators().values(), EuclideanGroup(PLANE).random_element(generator)]

    def violation() -> float:
        here = rho.log_diagonal(z)
        return max(float((rho.log_diagonal(g(z)) - here).abs().max()) for g in elements)

    assert violation() < 1e-9
    with torch.no_grad():
        rho.logits[-1] += 1.0  # one determinant of an open shell
    assert violation() > 1e-3
    elements = elements[:2]  # permutations
    assert violation() < 1e-9


def test_the_flow_leaves_the_norm_of_each_state():
    """`int |Psi_n|^2 = 1` of two particles in one dimension, on a grid."""
    rho = thermal_state(Particles(2, 1))
    line = torch.linspace(-7, 7, 71, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)[..., None]
    with torch.no_grad():
        for n in range(len(rho.states)):
            total = float(rho.log_density(x, torch.full((len(x),), n)).exp().sum()) * 0.2**2
            assert abs(total - 1) < 1e-5


def test_zero_temperature_has_the_lowest_determinants_only():
    states = SlaterStates(Particles(2, 2))
    rho = ThermalState(states, beta=math.inf)
    assert rho.log_probabilities.exp().tolist() == [0.5, 0.5]
    assert abs(float(rho.entropy().detach()) - math.log(2)) < 1e-15
    with pytest.raises(ValueError, match="leave out the cutoff"):
        ThermalState(SlaterStates(Particles(2, 2), cutoff=4.0), beta=math.inf)


def test_a_state_is_saved_and_loaded(tmp_path):
    rho = thermal_state(PLANE)
    rho.about = {"Z": 0.5}
    with torch.no_grad():
        rho.logits += 0.1 * torch.arange(len(rho.states))
    rho.save(tmp_path / "rho.pt")
    loaded = ThermalState.load(tmp_path / "rho.pt")
    assert loaded.about == {"Z": 0.5}
    assert repr(loaded) == repr(rho)
    here, there = (one.sample(4, generator=torch.Generator().manual_seed(0)) for one in (rho, loaded))
    assert torch.equal(here.x, there.x)
    assert torch.equal(here.log_probability, there.log_probability)
    with pytest.raises(CheckpointError, match="flow"):
        EquivariantCNF.load(tmp_path / "rho.pt")


def test_what_does_not_fit_is_refused():
    states = SlaterStates(Particles(2, 2))
    with pytest.raises(ValueError, match="Build both from the same Particles"):
        ThermalState(states, beta=1.0, vector_field=BackflowField(PLANE))
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta must be positive"):
            ThermalState(states, beta=beta)
    adjoint = Solver("rk4", steps=2, adjoint=True)
    with pytest.raises(ValueError, match="Leave adjoint out"):
        ThermalState(states, beta=1.0, solver=adjoint).sample(2)
    with pytest.raises(TypeError, match="SlaterStates"):
        ThermalState(Particles(2, 2), beta=1.0)
