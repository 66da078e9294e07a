"""Phonons: the best Gaussian is a minimum of the free energy, and small oscillations are its cold limit."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import Lattice, Phi4
from equiflow.oracles import normal_modes, self_consistent_phonons, transfer_matrix

LATTICE = Lattice((6,))
CASES = [Phi4(LATTICE, m2=1.0, lam=0.5), Phi4(LATTICE, m2=-1.0, lam=1.0), Phi4(LATTICE, m2=2.0, lam=0.0)]
cases = pytest.mark.parametrize("potential", CASES, ids=["single well", "double well", "free"])


def bound(potential: Phi4, beta: float, mean: float, omega: torch.Tensor) -> float:
    """`<log q> + beta <H>` of a Gaussian with independent Fourier modes, by their moments."""
    volume, k2 = LATTICE.volume, LATTICE.squared_momenta().flatten()
    variance = float((1 / omega.square()).mean() / beta)
    fourth = mean**4 + 6 * mean**2 * variance + 3 * variance**2
    energy = float((k2 / omega.square()).sum() / beta)
    energy += volume * (potential.m2 * (mean**2 + variance) + potential.lam * fourth)
    return float((beta * omega / (2 * math.pi)).log().sum()) - volume + beta * energy + 0.5 * volume


@cases
def test_phonons_minimise_the_free_energy(potential):
    beta = 8.0
    found = self_consistent_phonons(potential, beta=beta)
    k2 = LATTICE.squared_momenta().flatten()
    omega2 = 2 * k2 + 2 * potential.m2 + 12 * potential.lam * (found.mean**2 + found.variance)
    torch.testing.assert_close(omega2.sqrt().sort().values, found.frequencies)
    best = bound(potential, beta, found.mean, omega2.sqrt())
    assert best == pytest.approx(found.free_energy, abs=1e-9)
    for change in (-0.02, 0.02):
        assert bound(potential, beta, found.mean, (omega2 + change).sqrt()) > best + 1e-6
        assert bound(potential, beta, found.mean + change, omega2.sqrt()) > best + 1e-6


@cases
def test_the_free_energy_is_an_upper_bound(potential):
    # beta S is the action of sqrt(beta) phi with lam / beta; momenta add half a logarithm each.
    rescaled = Phi4(LATTICE, m2=potential.m2, lam=potential.lam / 8.0)
    exact = -transfer_matrix(rescaled).log_z + 6 * math.log(8.0) - 3 * math.log(2 * math.pi)
    gap = self_consistent_phonons(potential, beta=8.0).free_energy - exact
    if potential.lam == 0:
        assert abs(gap) < 1e-6
    else:
        # The phonons of a double well are about one of two minima.
        assert 1e-4 < gap < (math.log(2) if potential.m2 < 0 else 0) + 0.1


def test_cold_phonons_are_small_oscillations_about_a_minimum():
    potential = Phi4(LATTICE, m2=-1.0, lam=1.0)
    minimum = torch.full((6,), math.sqrt(0.5), dtype=torch.float64)
    harmonic = normal_modes(potential, minimum).frequencies
    errors = [
        float((self_consistent_phonons(potential, beta=beta).frequencies / harmonic - 1).abs().max())
        for beta in (1e3, 1e4)
    ]
    assert errors[0] < 1e-2
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)


def test_hot_double_wells_have_no_displaced_phonons():
    found = self_consistent_phonons(Phi4(LATTICE, m2=-0.2, lam=1.0), beta=0.5)
    assert found.mean == 0.0
    assert bool((found.frequencies > 0).all())


def test_directions_in_which_a_potential_falls_have_no_frequency():
    found = normal_modes(Phi4(LATTICE, m2=-1.0, lam=1.0), torch.zeros(6))
    assert bool(found.frequencies[0].isnan())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: self_consistent_phonons(CASES[0], beta=-1.0), ValueError, "beta must be positive"),
        (
            lambda: self_consistent_phonons(torch.nn.Identity(), beta=1.0),
            TypeError,
            "potential must be of type",
        ),
        (lambda: normal_modes(CASES[0], torch.zeros(5)), ValueError, "shape"),
        (lambda: normal_modes(torch.nn.Identity(), torch.zeros(6)), TypeError, "potential must be of type"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
