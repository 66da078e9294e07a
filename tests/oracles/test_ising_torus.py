"""Kaufman's partition function of the Ising model: against enumeration, derivatives and published numbers."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import ContinuousIsing, Lattice, Phi4
from equiflow.oracles import ising_torus
from equiflow.theories.scalar.ising import CRITICAL_TEMPERATURE
from tests.support.ising import couplings, enumerated

TEMPERATURES = (0.5, 1.7, CRITICAL_TEMPERATURE, 3.0, 40.0)


def exact(shape: tuple[int, ...], temperature: float):
    return ising_torus(ContinuousIsing(Lattice(shape), temperature))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 2), (2, 3), (3, 2), (3, 3), (3, 4)])
def test_spins_are_those_of_the_enumeration(shape, temperature):
    log_z, nearest_neighbour = enumerated(shape, temperature)
    found = exact(shape, temperature)
    assert found.log_z_spins == pytest.approx(log_z, abs=1e-11)
    assert found.nearest_neighbour == pytest.approx(nearest_neighbour, abs=1e-11)


def test_four_by_four_spins_are_those_of_the_enumeration():
    for temperature in (1.0, CRITICAL_TEMPERATURE, 5.0):
        found = exact((4, 4), temperature)
        expected = enumerated((4, 4), temperature)
        assert (found.log_z_spins, found.nearest_neighbour) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 3)])
def test_the_field_adds_its_gaussian_integral(shape):
    temperature, volume = 1.9, math.prod(shape)
    k = couplings(shape, temperature)
    # Z_spins exp(c V / 2) = sum_s exp(s K s / 2), and each term is an integral over the field.
    shift = float(k[0, 0]) - sum(2 / temperature for side in shape if side == 1)
    expected = shift * volume / 2 + 0.5 * float(torch.logdet(2 * math.pi * k)) - volume * math.log(2)
    found = exact(shape, temperature)
    assert found.log_z - found.log_z_spins == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(("side", "log_z"), [(16, 592.87574), (32, 2369.58709)])
def test_published_numbers_at_the_critical_point(side, log_z):
    assert exact((side, side), CRITICAL_TEMPERATURE).log_z == pytest.approx(log_z, abs=5e-6)


def test_the_two_axes_are_alike():
    one, other = exact((6, 10), 2.1), exact((10, 6), 2.1)
    assert one.log_z == pytest.approx(other.log_z, rel=1e-13)
    assert one.nearest_neighbour == pytest.approx(other.nearest_neighbour, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.2, CRITICAL_TEMPERATURE, 4.0])
def test_neighbours_are_the_derivative_of_log_z(temperature):
    step = 1e-5
    high, low = (exact((12, 12), 1 / (1 / temperature + sign * step)).log_z_spins for sign in (1, -1))
    slope = (high - low) / (2 * step) / (2 * 144)
    assert exact((12, 12), temperature).nearest_neighbour == pytest.approx(slope, abs=1e-7)


def test_large_lattices_have_the_free_energy_of_onsager():
    per_site = exact((256, 256), CRITICAL_TEMPERATURE).log_z_spins / 256**2
    catalan = 0.915965594177219
    # The next term is log Z(modular) / V, about 0.64 / V.
    assert per_site == pytest.approx(math.log(2) / 2 + 2 * catalan / math.pi, abs=2e-5)


def test_extreme_temperatures_are_finite():
    cold, hot = exact((64, 64), 0.01), exact((64, 64), 1e6)
    assert cold.log_z_spins == pytest.approx(2 * 64**2 / 0.01 + math.log(2), rel=1e-12)
    assert cold.nearest_neighbour == pytest.approx(1.0, abs=1e-12)
    assert hot.log_z_spins == pytest.approx(64**2 * math.log(2), rel=1e-9)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"two dimensions, got lattice \(2, 2, 2\)"):
        exact((2, 2, 2), 2.0)
    with pytest.raises(ValueError, match=r"T = 0\.001 is too low"):
        exact((4, 4), 1e-3)
    with pytest.raises(TypeError, match="ContinuousIsing"):
        ising_torus(Phi4(Lattice((4, 4)), m2=-4.0, lam=6.0))
