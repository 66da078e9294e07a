"""The field of particles: its laws, and planted mistakes that they see."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings

from equiflow import ParticleField, Particles
from equiflow.nn.irreps.e3nn_kernels import harmonic_ladder
from equiflow.nn.particles import GatedVectors
from equiflow.testing import assert_vector_field, check_vector_field, divergence_error, equivariance_error
from equiflow.vector_fields import VectorField
from tests.support.particles import PLANE, random_field
from tests.support.strategies import configurations, needs, particle_fields


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
    """A correct field plus a planted mistake."""

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
    """A divergence of `(1 - 1/N)` of the trace, as if subtracting the mean had a divergence."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        return velocity, (1 - 1 / phi.shape[1]) * divergence


class ForgetsTheGates(GatedVectors):
    """A trace as if the gates of a particle did not depend on its position."""

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
    """With pair forces alone, the effect of moving one neighbour does not depend on another neighbour."""
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
