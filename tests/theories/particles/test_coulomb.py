"""The Coulomb gas: energy, force, symmetry."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from equiflow import ActionFamily, CoulombGas, ParticleField, TrappedGaussian
from equiflow.theories.particles.group import EuclideanGroup
from tests.support.particles import PLANE
from tests.support.strategies import configurations, particle_spaces, seeds


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
