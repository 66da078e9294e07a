"""Identical particles: the Coulomb gas, its prior, its field, and flows of all three."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.integrate import quad
from torch.distributions import MultivariateNormal

from equiflow import (
    HMC,
    ActionFamily,
    CoulombGas,
    EquivariantCNF,
    ParticleField,
    Particles,
    PathGradient,
    Solver,
    StandardNormal,
    TrappedGaussian,
    fit,
    importance_sample,
)
from equiflow.nn.irreps.e3nn_kernels import harmonic_ladder
from equiflow.nn.particles import GatedVectors
from equiflow.testing import (
    assert_vector_field,
    check_flow,
    check_vector_field,
    divergence_error,
    equivariance_error,
    randomise,
)
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.vector_fields import VectorField
from tests.support.strategies import (
    configurations,
    needs,
    particle_fields,
    particle_flows,
    particle_spaces,
    seeds,
)

PLANE = Particles(3, 2)


def random_field(space: Particles = PLANE, **options: object) -> ParticleField:
    field = ParticleField(space, n_radial=2, n_hidden=3, n_time_modes=2, **options).double()
    randomise(field, scale=0.5)
    return field


def covariance(prior: TrappedGaussian) -> torch.Tensor:
    """Of all coordinates: sigma^2 on differences, 1 / beta on the uniform mode, on each axis."""
    n, dim = prior.space.shape
    uniform = torch.full((n, n), 1 / n)
    each = (torch.eye(n) - uniform) * (2 * prior.log_sigma.detach()).exp() + uniform / prior.beta
    return torch.kron(each, torch.eye(dim))


# The action.


@given(particle_spaces(), seeds)
def test_force_of_the_gas_is_the_gradient_and_the_gas_is_symmetric(space, seed):
    gas, x = CoulombGas(space, beta=1.7), configurations(space, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(gas(x).sum(), x)
    torch.testing.assert_close(gas.grad(x.detach()), expected, rtol=1e-11, atol=1e-11)
    assert max(gas.asymmetry(EuclideanGroup(space)).values()) < 1e-12


def test_a_trap_breaks_translations_and_the_check_sees_it():
    asymmetry = CoulombGas(PLANE, beta=1.0).asymmetry(EuclideanGroup(PLANE, translations=True))
    assert {name for name, change in asymmetry.items() if change > 1e-3} == {
        "translation along axis 0",
        "translation along axis 1",
    }


def test_energy_of_the_gas_by_hand():
    triangle = torch.tensor([[[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]])
    expected = 3 / math.sqrt(3) + 1.5
    assert float(CoulombGas(PLANE, beta=2.0)(triangle)) == pytest.approx(2 * expected)
    assert float(CoulombGas(PLANE, beta=2.0).coupling_grad(triangle, "beta")) == pytest.approx(expected)
    family = ActionFamily(CoulombGas, PLANE, beta=(1.0, 3.0))
    assert float(family.at(beta=3.0)(triangle)) == pytest.approx(3 * expected)


def test_particles_that_meet_have_no_density():
    assert float(CoulombGas(PLANE, beta=1.0)(torch.zeros(1, 3, 2))) == math.inf


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_and_widths_must_be_positive_and_finite(beta):
    for build in (
        lambda: CoulombGas(PLANE, beta=beta),
        lambda: TrappedGaussian(PLANE, beta=beta),
        lambda: TrappedGaussian(PLANE, width=beta),
    ):
        with pytest.raises(ValueError, match="positive and finite"):
            build()


def test_what_is_no_particles_is_refused():
    for kind in (lambda s: CoulombGas(s, beta=1.0), TrappedGaussian, ParticleField):
        with pytest.raises(TypeError, match="Particles"):
            kind((3, 2))
    with pytest.raises(ValueError, match="coupling beta"):
        CoulombGas(PLANE, beta=1.0).coupling_grad(torch.randn(1, 3, 2), "g")


# The prior.


def density_mismatch(prior: TrappedGaussian, dense: torch.Tensor) -> float:
    z = configurations(prior.space)
    oracle = MultivariateNormal(torch.zeros(prior.space.size), dense)
    return float((prior.log_prob(z).detach() - oracle.log_prob(z.flatten(1))).abs().max())


@given(particle_flows())
def test_prior_is_the_dense_normal_with_its_score(flow):
    prior = flow.prior
    assert density_mismatch(prior, covariance(prior)) < 1e-9
    root = prior.colour(torch.eye(prior.space.size).reshape(-1, *prior.space.shape)).detach().flatten(1)
    torch.testing.assert_close(root.mT @ root, covariance(prior), rtol=1e-12, atol=1e-12)
    z = configurations(prior.space).requires_grad_()
    (expected,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
    torch.testing.assert_close(prior.score(z), expected, rtol=1e-10, atol=1e-10)
    by_autograd = super(TrappedGaussian, prior).parameter_score(z)
    torch.testing.assert_close(prior.parameter_score(z), by_autograd, rtol=1e-10, atol=1e-10)


def test_the_variance_of_the_centre_of_mass_matters():
    prior, other = (TrappedGaussian(PLANE, beta=beta) for beta in (2.0, 2.1))
    assert density_mismatch(prior, covariance(other)) > 1e-3


def test_a_group_with_translations_is_refused_by_the_prior():
    with pytest.raises(ValueError, match="without translations"):
        TrappedGaussian(PLANE, group=EuclideanGroup(PLANE, translations=True))


# The field.


@settings(max_examples=15)
@given(particle_fields())
def test_field_obeys_every_law(field):
    assert_vector_field(field)
    report = check_vector_field(field)
    assert report.ok, str(report)
    velocity = field.velocity(configurations(field.space), 0.3).detach()
    assert float(velocity.mean(1).abs().max()) < 1e-13 * float(velocity.abs().max())


def test_field_obeys_every_law_in_float32():
    assert check_vector_field(random_field().float()).ok


class Planted(VectorField):
    """A sound field with a mistake planted in it."""

    def __init__(self, inner: ParticleField) -> None:
        super().__init__(inner.group)
        self.inner = inner


class SinglesOut(Planted):
    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        push = torch.zeros_like(phi)
        push[:, 0] = 1e-9 * (phi[:, 1] - phi[:, 2])
        return velocity + push, divergence


class SeesTheOrigin(Planted):
    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        return velocity + 1e-9 * phi, divergence + 1e-9 * phi[0].numel()


class CountsTheMean(Planted):
    """Takes `(1 - 1/N)` of the trace, as if subtracting the mean had a divergence."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        return velocity, (1 - 1 / phi.shape[1]) * divergence


class ForgetsTheGates(GatedVectors):
    """The trace as if the gates of a particle did not depend on where it is."""

    def forward(self, vectors, invariants, time_values):
        value, slope = invariants
        return super().forward(vectors, (value, torch.zeros_like(slope)), time_values)


def test_planted_mistakes_are_seen():
    assert max(equivariance_error(SinglesOut(random_field())).values()) > 1e-12
    broken = {name for name, e in equivariance_error(SeesTheOrigin(random_field())).items() if e > 1e-12}
    assert "translation along axis 0" in broken
    assert divergence_error(CountsTheMean(random_field())) > 1e-3
    field = random_field()
    field.gates.__class__ = ForgetsTheGates
    assert divergence_error(field) > 1e-3


def test_the_field_starts_at_zero_and_moves():
    field, x = ParticleField(PLANE), torch.randn(2, 3, 2)
    velocity, divergence = field.velocity_and_divergence(x, 0.3)
    assert not velocity.any()
    assert not divergence.any()
    velocity[0, 0, 0].backward()
    assert bool(field.gates.outer.grad.any())


def test_the_field_goes_beyond_pair_forces():
    """Of pair forces, the change by moving one neighbour does not depend on where another one is."""
    near, far = torch.tensor([[0.5, 1.0], [0.5, 1.5]]), torch.tensor([[1.0, 0.0], [1.2, -0.3]])
    x = torch.stack([torch.stack([torch.zeros(2), a, b]) for a in near for b in far])
    velocity = random_field().velocity(x, 0.0)[:, 0].detach()
    assert float((velocity[0] - velocity[1] - velocity[2] + velocity[3]).norm()) > 1e-3


def test_particles_that_meet_have_a_velocity():
    field = random_field()
    leaf = torch.zeros(1, 3, 2, requires_grad=True)
    velocity, divergence = field.velocity_and_divergence(leaf, 0.5)
    (gradient,) = torch.autograd.grad(divergence.sum() + velocity.square().sum(), leaf)
    assert bool(gradient.isfinite().all())


@needs("e3nn")
def test_harmonics_are_those_of_e3nn_and_their_ladder_gives_their_gradients():
    from e3nn import o3

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lower = torch.ones(5, 1)
    for degree, step in enumerate(harmonic_ladder(3, 3), 1):
        harmonic = torch.einsum("mna,bn,ba->bm", step, lower, x)
        expected = o3.spherical_harmonics(degree, x, False, "norm")
        sign = float(torch.sign((harmonic * expected).sum().detach()))
        torch.testing.assert_close(harmonic, sign * expected, rtol=1e-6, atol=1e-6)
        slope = degree * torch.einsum("mna,bn->bma", step, lower)
        for m in range(2 * degree + 1):
            (gradient,) = torch.autograd.grad(harmonic[:, m].sum(), x, retain_graph=True)
            torch.testing.assert_close(slope[:, m], gradient, rtol=1e-12, atol=1e-12)
        lower = harmonic


@needs("e3nn")
def test_casting_to_float32_and_back_keeps_the_symmetry():
    assert check_vector_field(random_field(Particles(3, 3), l_max=2).float().double()).ok


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_tensors_are_for_three_dimensions(dim):
    with pytest.raises(ValueError, match="needs 3 dimensions"):
        ParticleField(Particles(3, dim), l_max=2)


def test_without_e3nn_vectors_are_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    ParticleField(Particles(3, 3))
    with pytest.raises(ImportError, match=r"pip install '\.\[o3\]'"):
        ParticleField(Particles(3, 3), l_max=2)


@pytest.mark.parametrize("options", [{"l_max": 0}, {"n_radial": 0}, {"n_hidden": 0}, {"widths": (2.0, 1.0)}])
def test_sizes_must_make_sense(options):
    with pytest.raises(ValueError, match=r"expected|must be"):
        ParticleField(PLANE, **options)


# Flows.


@settings(max_examples=3)
@given(particle_flows())
def test_flow_obeys_every_law(flow):
    report = check_flow(flow, tolerance=1e-5)
    assert report.ok, str(report)


def test_a_flow_needs_nothing_but_its_particles():
    flow = EquivariantCNF(Particles(4, 2))
    assert isinstance(flow.vector_field, ParticleField)
    assert isinstance(flow.prior, TrappedGaussian)
    assert str(flow.group) == "S_4 x O(2)"


@pytest.mark.parametrize("space", [PLANE, pytest.param(Particles(2, 3), marks=needs("e3nn"))])
def test_a_saved_flow_is_the_same_flow(space, tmp_path):
    field = random_field(space, l_max=2 if space.dim == 3 else 1, widths=(0.4, 2.0))
    flow = EquivariantCNF(space, vector_field=field, prior=TrappedGaussian(space, beta=3.0, width=0.7))
    randomise(flow.double(), scale=0.1)
    flow.save(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    x = configurations(space)
    assert torch.equal(loaded.log_prob(x), flow.log_prob(x))
    assert loaded.vector_field.config() == field.config()
    assert (loaded.prior.beta, loaded.group) == (3.0, flow.group)


def test_the_centre_of_mass_of_samples_is_that_of_the_prior():
    """Sample by sample, so it is exactly Gaussian with variance 1 / (beta N)."""
    flow = EquivariantCNF(PLANE, vector_field=random_field(), prior=TrappedGaussian(PLANE, beta=5.0).double())
    z = flow.prior.rsample(500, torch.Generator().manual_seed(0)).detach()
    x = flow.transform_and_log_det(z)[0].detach()
    assert float((x - z).abs().max()) > 0.01
    torch.testing.assert_close(x.mean(1), z.mean(1), rtol=0, atol=1e-12)
    variance = x.mean(1).square().mean()
    assert float(variance) == pytest.approx(1 / 15, abs=4 * (1 / 15) * (2 / 1000) ** 0.5)


# Physics.


def log_z_of_two(dim: int, beta: float) -> float:
    """Centre of mass in closed form times the integral over the distance r: `H = 1/r + r^2/4 + X^2`."""
    sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    relative, _ = quad(lambda r: r ** (dim - 1) * np.exp(-beta * (1 / r + r**2 / 4)), 0, np.inf)
    return math.log(sphere * relative) + 0.5 * dim * math.log(math.pi / beta)


def test_one_particle_is_an_oscillator_and_needs_no_training():
    space = Particles(1, 3)
    flow = EquivariantCNF(space, prior=TrappedGaussian(space, beta=2.5)).double()
    ensemble = importance_sample(flow, CoulombGas(space, beta=2.5), 16, certify=0)
    exact = 1.5 * math.log(2 * math.pi / 2.5)
    torch.testing.assert_close(ensemble.log_weight, torch.full((16,), exact), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_log_z_of_two_particles_is_the_integral_over_their_distance(dim):
    space, beta = Particles(2, dim), 2.0
    gas = CoulombGas(space, beta=beta)
    field = ParticleField(space, n_radial=3, n_hidden=8, n_time_modes=1)
    flow = EquivariantCNF(
        space, vector_field=field, prior=TrappedGaussian(space, beta=beta), solver=Solver("rk4", steps=6)
    ).double()
    objective = PathGradient(solver=Solver("rk4", steps=2))
    fit(flow, gas, steps=30, batch_size=64, objective=objective, progress=False)
    assert check_vector_field(flow.vector_field).ok
    ensemble = importance_sample(flow, gas, 2000, generator=torch.Generator().manual_seed(1))
    assert ensemble.effective_sample_size().mean > 0.8
    assert abs(ensemble.log_z().sigmas_from(log_z_of_two(dim, beta))) < 3
    # Another temperature is another integral, and would be told apart.
    assert abs(ensemble.log_z().sigmas_from(log_z_of_two(dim, 1.03 * beta))) > 5
    # The variational free energy is an upper bound.
    assert float(-ensemble.log_weight.mean()) > -log_z_of_two(dim, beta)


def test_hmc_obeys_the_virial_theorem_and_the_centre_of_mass():
    """`<x . grad S> = N dim`, and X is Gaussian with variance `1 / (beta N)`."""
    gas = CoulombGas(PLANE, beta=2.0)
    generator = torch.Generator().manual_seed(0)
    pool = TrappedGaussian(PLANE).double().rsample(256, generator).detach()
    initial = pool[gas(pool).argsort()[:32]]
    chain = HMC(gas).sample(
        60, n_chains=32, n_thermalisation=100, thin=2, initial=initial, generator=generator
    )
    virial = chain.mean(lambda x: (x * gas.grad(x)).sum((1, 2)))
    assert abs(virial.sigmas_from(6.0)) < 3.5
    assert abs(chain.mean(lambda x: x.mean(1).square().sum(1)).sigmas_from(1 / 3)) < 3.5


def test_a_prior_that_is_not_trapped_is_corrected_by_the_weights():
    flow = EquivariantCNF(Particles(1, 2), prior=StandardNormal(Particles(1, 2))).double()
    gas = CoulombGas(Particles(1, 2), beta=1.5)
    log_z = importance_sample(flow, gas, 4000, certify=0, generator=torch.Generator().manual_seed(0)).log_z()
    assert abs(log_z.sigmas_from(math.log(2 * math.pi / 1.5))) < 3.5
