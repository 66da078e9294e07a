"""Flows of particles: their laws, files and physics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.integrate import quad

from equiflow import (
    HMC,
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
from equiflow.testing import check_flow, check_vector_field, randomise
from tests.support.particles import PLANE, random_field
from tests.support.strategies import configurations, needs, particle_flows


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
    """The two agree sample by sample, so the centre of mass is Gaussian with variance 1 / (beta N)."""
    flow = EquivariantCNF(PLANE, vector_field=random_field(), prior=TrappedGaussian(PLANE, beta=5.0).double())
    z = flow.prior.rsample(500, torch.Generator().manual_seed(0)).detach()
    x = flow.transform_and_log_det(z)[0].detach()
    assert float((x - z).abs().max()) > 0.01
    torch.testing.assert_close(x.mean(1), z.mean(1), rtol=0, atol=1e-12)
    variance = x.mean(1).square().mean()
    assert float(variance) == pytest.approx(1 / 15, abs=4 * (1 / 15) * (2 / 1000) ** 0.5)


def log_z_of_two(dim: int, beta: float) -> float:
    """Return log Z by an integral over the distance r; `H = 1/r + r^2/4 + X^2`, with X in closed form."""
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
    # The integral at another temperature is told apart.
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
