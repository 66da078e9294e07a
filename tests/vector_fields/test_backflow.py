"""The backflow of particles: its laws, its second derivatives, and planted mistakes that they see."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings

from equiflow import BackflowField, EquivariantCNF, ParticleField, Particles
from equiflow.testing import check_vector_field, divergence_error, equivariance_error, randomise
from equiflow.vector_fields import VectorField
from equiflow.vector_fields import backflow as module
from equiflow.vector_fields.curvature import CurvatureRates
from tests.support.particles import random_field
from tests.support.strategies import backflow_fields, configurations


def curvature_error(field: VectorField) -> float:
    """Largest relative difference between `curvature_rates` and nested automatic differentiation."""
    x, score = (configurations(field.space, seed=seed) for seed in (0, 1))
    ours, expected = field.curvature_rates(x, 0.37, score), VectorField.curvature_rates(field, x, 0.37, score)
    pairs = [(getattr(ours, f.name), getattr(expected, f.name)) for f in fields(CurvatureRates)]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def random_backflow() -> BackflowField:
    field = BackflowField(Particles(3, 2), n_radial=3, n_time_modes=2).double()
    randomise(field, scale=0.5)
    return field


@settings(max_examples=15)
@given(backflow_fields())
def test_field_obeys_every_law(field):
    report = check_vector_field(field)
    assert report.ok, str(report)
    velocity = field.velocity(configurations(field.space), 0.3).detach()
    assert float(velocity.mean(1).abs().max()) < 1e-13 * float(velocity.abs().max())


@settings(max_examples=15)
@given(backflow_fields())
def test_curvature_in_closed_form_is_that_of_nested_autograd(field):
    assert curvature_error(field) < 1e-11


def test_curvature_by_autograd_is_that_of_finite_differences():
    """For any field: the bending is the Hessian of `v . s + div v`, the Jacobian that of v."""
    field = random_field()
    x, score = (configurations(field.space, seed=seed)[:1] for seed in (0, 1))
    rates = field.curvature_rates(x, 0.37, score)

    def path(shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = field.path_rates(x + shift.view_as(x), 0.37, score)
        return found.velocity.detach().flatten(), found.score_rate.flatten()

    h = 1e-5
    for j, unit in enumerate(torch.eye(6, dtype=torch.float64)):
        (v, s), (w, r) = path(h * unit), path(-h * unit)
        torch.testing.assert_close(rates.jacobian[0, :, j], (v - w) / (2 * h), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(rates.bending[0, :, j], -(s - r) / (2 * h), rtol=1e-7, atol=1e-7)


def test_planted_mistakes_in_second_derivatives_are_seen(monkeypatch):
    field = random_backflow()
    assert curvature_error(field) < 1e-11
    exact = module._Rates.spread_slope
    for wrong in (
        lambda rates: exact.fget(rates) - rates.first,  # (dim eta)' for ((dim + 1) eta)'
        lambda rates: exact.fget(rates) + 1e-8 * rates.r,
    ):
        monkeypatch.setattr(module._Rates, "spread_slope", property(wrong))
        assert curvature_error(field) > 1e-10
    monkeypatch.undo()
    field.weight[:2] += 1e-9  # the share of a difference in the divergence
    assert divergence_error(field) > 1e-11


class OneWay(BackflowField):
    """A field in which the first particle flows around the others, and they not around it."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        push = torch.zeros_like(phi)
        push[:, 0] = 1e-9 * (phi[:, 1] - phi[:, 2])
        return velocity + push, divergence


def test_a_particle_that_is_singled_out_is_seen():
    field = random_backflow()
    assert max(equivariance_error(field).values()) < 1e-12
    field.__class__ = OneWay
    assert max(equivariance_error(field).values()) > 1e-12


def test_the_field_starts_at_zero_and_moves():
    field, x = BackflowField(Particles(3, 2)), torch.randn(2, 3, 2)
    velocity, divergence = field.velocity_and_divergence(x, 0.3)
    assert not velocity.any()
    assert not divergence.any()
    velocity[0, 0, 0].backward()
    assert bool(field.pairs.weight.grad.any())
    assert bool(field.singles.weight.grad.any())


def test_particles_that_meet_have_a_velocity():
    field = random_backflow().double()
    leaf = torch.zeros(1, 3, 2, requires_grad=True, dtype=torch.float64)
    velocity, divergence = field.velocity_and_divergence(leaf, 0.5)
    (gradient,) = torch.autograd.grad(divergence.sum() + velocity.square().sum(), leaf)
    assert bool(gradient.isfinite().all())


def test_a_flow_with_the_field_is_saved_and_loaded(tmp_path):
    flow = EquivariantCNF(Particles(3, 2), vector_field=random_backflow())
    flow.save(tmp_path / "flow.pt")
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    assert torch.equal(EquivariantCNF.load(tmp_path / "flow.pt").log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize("options", [{"n_radial": 0}, {"reach": 0.0}, {"n_time_modes": 0}])
def test_sizes_must_make_sense(options):
    with pytest.raises(ValueError, match=r"at least one|must be"):
        BackflowField(Particles(3, 2), **options)


def test_a_single_particle_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        BackflowField(Particles(1, 2))
    assert not BackflowField.suits(Particles(1, 2))
    assert ParticleField.suits(Particles(1, 2))
