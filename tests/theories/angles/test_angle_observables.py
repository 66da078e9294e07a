"""Observables of angles against quadrature, characters and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import AngleGroup, Angles, Lattice, UniformAngles, XYModel
from equiflow.theories.angles.observables import (
    abs_magnetisation,
    energy,
    helicity_modulus,
    magnetisation_squared,
    two_point,
    vortex_density,
    vorticity,
)
from tests.support.angles import TURN, spaces
from tests.support.strategies import configurations, seeds
from tests.support.xy_oracle import ExactXY, ring, ring_two_point, strip


def quadrature(angles: Angles, beta: float) -> tuple[Tensor, Tensor, float]:
    """Return all angles on a grid with one at zero, their weights, and log Z; exponentially exact."""
    points, volume = 24, angles.lattice.volume
    line = TURN * torch.arange(points, dtype=torch.float64) / points
    rest = torch.cartesian_prod(*[line] * (volume - 1)).reshape(points ** (volume - 1), -1)
    theta = torch.cat([torch.zeros(len(rest), 1), rest], 1).reshape(-1, *angles.shape)
    log_weight = -XYModel(angles, beta=beta)(theta)
    log_z = float(log_weight.logsumexp(0)) + (volume - 1) * math.log(TURN / points) + math.log(TURN)
    return theta, torch.softmax(log_weight, 0), log_z


@pytest.mark.parametrize(
    ("shape", "exact"), [((2, 2), strip(0.8, 2, 2)), ((4,), ring(0.8, 4)), ((3,), ring(0.8, 3))]
)
def test_quadrature_and_characters_agree_on_action_and_observables(shape: tuple[int, ...], exact: ExactXY):
    theta, weight, log_z = quadrature(Angles(Lattice(shape)), 0.8)
    assert log_z == pytest.approx(exact.log_z, abs=1e-7)
    assert float(weight @ energy(theta)) == pytest.approx(exact.energy, abs=1e-7)
    assert float(weight @ helicity_modulus(0.8)(theta)) == pytest.approx(exact.helicity_modulus, abs=1e-7)
    if len(shape) == 1:
        assert float(weight @ helicity_modulus(0.9)(theta)) != pytest.approx(exact.helicity_modulus, abs=1e-3)
        correlator = weight @ two_point(theta)
        assert correlator.tolist() == pytest.approx(ring_two_point(0.8, shape[0]), abs=1e-10)
        assert float(weight @ magnetisation_squared(theta)) == pytest.approx(float(correlator.mean()))


def test_characters_agree_with_the_closed_form_of_a_ring():
    one, two = strip(0.8, 1, 5), ring(0.8, 5)  # in the strip a site is linked to itself, too
    assert one.log_z == pytest.approx(two.log_z + 5 * 0.8)
    assert one.energy == pytest.approx(two.energy - 1)
    assert one.helicity_modulus == pytest.approx(two.helicity_modulus)


def test_a_vortex_and_its_antivortex():
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    pair = torch.atan2(y - 3.5, x - 1.5) - torch.atan2(y - 3.5, x - 5.5)
    found = vorticity(pair[None])[0]
    assert found[1, 3] == 1
    assert found[5, 3] == -1
    assert float(found.abs().sum()) == 2
    assert float(vortex_density(pair[None])) == pytest.approx(2 / 64)
    assert not vorticity(0.3 * x[None] * 0).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vortices_are_counted_in_every_plane(axis):
    # A vortex and its antivortex in one plane, alike in all planes parallel to it: 2 of 64 plaquettes there.
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    pair = torch.atan2(y - 3.5, x - 1.5) - torch.atan2(y - 3.5, x - 5.5)
    stacked = torch.stack([pair] * 3, axis)[None]
    assert float(vortex_density(stacked)) == pytest.approx(2 / 64 / 3)
    plane = tuple(mu for mu in range(3) if mu != axis)
    assert float(vorticity(stacked, plane).abs().mean()) == pytest.approx(2 / 64)


def test_a_third_of_all_plaquettes_of_independent_angles_has_a_vortex():
    """The sum of three uniform angles in [-pi, pi) lies outside [-pi, pi) with probability 1/3."""
    theta = UniformAngles(Angles(Lattice((16, 16)))).rsample(400, torch.Generator().manual_seed(0))
    density = vortex_density(theta)
    assert abs(float(density.mean()) - 1 / 3) < 4 * float(density.std()) / 20 < 0.01
    assert float(vorticity(theta).sum((1, 2)).abs().max()) == 0
    with pytest.raises(ValueError, match="two dimensions"):
        vortex_density(theta[:, 0])


@given(spaces, seeds)
def test_observables_do_not_notice_full_turns(space, seed):
    theta = configurations(space, seed=seed)
    element = AngleGroup(space).random_element(torch.Generator().manual_seed(seed))
    for observable in (abs_magnetisation, magnetisation_squared, energy, helicity_modulus(0.7)):
        for image in (space.nearest(theta), *(wind(theta) for wind in space.windings().values())):
            torch.testing.assert_close(observable(image), observable(theta), rtol=1e-9, atol=1e-9)
        if len(set(space.shape)) == 1:
            torch.testing.assert_close(observable(element(theta)), observable(theta), rtol=1e-9, atol=1e-9)
