"""The field of angles: its laws, and planted mistakes that they see."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow import AngleField, AngleGroup, Angles, Lattice, XYModel
from equiflow.testing import assert_periodic, check_vector_field, randomise, winding_error
from tests.support.angles import SQUARE, random_field
from tests.support.planted import Planted
from tests.support.strategies import POINT_GROUPS, angle_fields, configurations, lattices, seeds


@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_the_field_obeys_every_law_in_both_precisions(convolution):
    field = random_field(convolution=convolution, n_harmonics=3)
    for dtype in (torch.float64, torch.float32):
        report = check_vector_field(field.to(dtype))
        assert report.ok, str(report)


@settings(max_examples=15)
@given(angle_fields(), seeds, st.floats(0, 1))
def test_the_velocity_is_the_gradient_of_the_potential(field, seed, t):
    randomise(field.double(), seed=seed)
    theta = configurations(field.space, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(field.potential(theta, t).sum(), theta)
    torch.testing.assert_close(field.velocity(theta.detach(), t), expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=10)
@given(lattices(max_volume=12), st.sampled_from(POINT_GROUPS), seeds)
def test_pairs_alone_are_a_sum_of_sines(lattice, point, seed):
    """Without ridges the field is, term by term, `v_x = sum_n sum_y K_n(x - y) sin n(theta_y - theta_x)`."""
    angles = Angles(lattice)
    field = AngleField(angles, group=AngleGroup(angles, point), n_harmonics=3, n_ridges=1, n_time_modes=1)
    randomise(field.double(), seed=seed)
    torch.nn.init.zeros_(field.amplitude)
    theta = configurations(angles, seed=seed)
    kernels = field.harmonics.values()[0].flatten(1)[:, lattice.differences()].mT  # (harmonic, x, y)
    flat = theta.flatten(1)
    n = torch.arange(1, 4).view(-1, 1, 1, 1)
    apart = n * (flat[:, None, :] - flat[:, :, None])
    velocity, divergence = field.velocity_and_divergence(theta, 0.0)
    torch.testing.assert_close(velocity.flatten(1), (kernels[:, None] * apart.sin()).sum((0, 3)))
    off = kernels * (1 - torch.eye(lattice.volume))
    torch.testing.assert_close(divergence, -(n * off[:, None] * apart.cos()).sum((0, 2, 3)))


def test_the_gradient_flow_of_the_action_is_contained():
    angles = Angles(Lattice((3, 4)))
    field, action = AngleField(angles, n_time_modes=1).double(), XYModel(angles, beta=0.7)
    kernel = torch.zeros(1, 2, 3, 4)
    for axis in (2, 3):
        for step in (1, -1):
            index = [0, 0, 0, 0]
            index[axis] = step
            kernel[tuple(index)] += 0.7
    field.harmonics.set_values(kernel)
    theta = configurations(angles)
    torch.testing.assert_close(field.velocity(theta, 0.2), -action.grad(theta))


def test_the_field_starts_at_zero_and_moves():
    field, theta = AngleField(SQUARE), configurations(SQUARE)
    velocity, divergence = field.velocity_and_divergence(theta, 0.3)
    assert not velocity.any()
    assert not divergence.any()
    velocity[0, 0, 0].backward()
    assert bool(field.amplitude.grad.any())
    assert bool(field.harmonics.weight.grad.any())


def test_ridges_go_beyond_pairs():
    """With pairs alone, the effect of turning one neighbour does not depend on the angle of another one."""
    theta = torch.zeros(4, 3, 3, dtype=torch.float64)
    theta[1:3, 0, 1] = 1.0
    theta[2:4, 1, 0] = 1.0
    velocity = random_field().velocity(theta, 0.0)[:, 0, 0].detach()
    assert abs(float(velocity[0] - velocity[1] + velocity[2] - velocity[3])) > 1e-3


class Unwinds(Planted):
    """Springs between neighbours: symmetric, but not periodic."""

    def mistake(self, phi):
        pull = sum(phi.roll(1, mu) + phi.roll(-1, mu) - 2 * phi for mu in self.lattice.axes)
        return pull, -2.0 * self.lattice.dim * phi[0].numel()


class HalfInteger(Planted):
    """`sin((theta_y - theta_x) / 2)`, periodic after two turns only."""

    def mistake(self, phi):
        near = [(phi.roll(s, mu) - phi) / 2 for mu in self.lattice.axes for s in (1, -1)]
        return sum(a.sin() for a in near), -0.5 * sum(a.cos() for a in near).sum(self.lattice.axes)


class PointsUp(Planted):
    """An external field: periodic, but not the same for all directions."""

    def mistake(self, phi):
        return -phi.sin(), -phi.cos().sum(self.lattice.axes)


class Chiral(Planted):
    """`1 - cos`, which is even and should be odd."""

    def mistake(self, phi):
        near = [phi.roll(s, mu) - phi for mu in self.lattice.axes for s in (1, -1)]
        return sum(1 - a.cos() for a in near), -sum(a.sin() for a in near).sum(self.lattice.axes)


class ForgetsTheCurvature(AngleField):
    """A trace without the term of the turning tangent, `-Re[conj(u) q]`."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        now, u = self._coefficients(t), torch.stack([phi.cos(), phi.sin()], 1).unsqueeze(2)
        pulled = self._smeared(self._encode(u), now.harmonics[:1])
        return velocity, divergence + (u * pulled).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (Unwinds, "periodicity winding"),
        (HalfInteger, "periodicity winding"),
        (PointsUp, r"equivariance O\(2\) theta -> theta \+ 1"),
        (Chiral, r"equivariance O\(2\) theta -> -theta"),
    ],
)
def test_the_harness_sees_a_planted_mistake_and_names_it(mistake, law):
    report = check_vector_field(mistake(random_field()))
    assert any(re.search(law, f"{check.law} {check.case}") for check in report.violations), str(report)
    kinds = {check.law for check in report.violations}
    assert kinds == {law.split()[0]}, str(report)


def test_the_harness_sees_a_forgotten_curvature():
    field = ForgetsTheCurvature(SQUARE, n_ridges=3, n_time_modes=2).double()
    randomise(field)
    broken = [check.law for check in check_vector_field(field).violations]
    assert broken == ["divergence = dense trace"]


def test_periodicity_is_demanded_by_name():
    with pytest.raises(AssertionError, match="winding of site"):
        assert_periodic(Unwinds(random_field()))
    assert_periodic(random_field())
    assert max(winding_error(random_field()).values()) < 1e-13
