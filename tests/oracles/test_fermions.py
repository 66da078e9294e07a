"""Exact thermodynamics of trapped fermions, checked against each other and against sums over states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from equiflow import Particles, SlaterStates, TrappedElectrons
from equiflow.oracles import fermions as module
from equiflow.oracles import ideal_fermions, two_fermions


@pytest.mark.parametrize(
    ("number", "dim", "beta", "cutoff"), [(3, 1, 2.0, 20), (4, 2, 4.0, 16), (3, 3, 5.0, 13)]
)
def test_recursion_is_the_sum_over_determinants(number, dim, beta, cutoff):
    particles = Particles(number, dim)
    energies = SlaterStates(particles, cutoff=cutoff).energies.numpy()
    weights = np.exp(-beta * (energies - energies[0]))
    found = ideal_fermions(particles, beta=beta)
    assert abs(found.free_energy - (energies[0] - math.log(weights.sum()) / beta)) < 1e-8
    assert abs(found.energy - weights @ energies / weights.sum()) < 1e-8
    assert abs(found.entropy - beta * (found.energy - found.free_energy)) < 1e-12


def test_recursion_survives_its_cancellations():
    found = ideal_fermions(Particles(10, 2), beta=30.0)
    assert abs(found.free_energy - 30.0) < 1e-9
    assert abs(found.entropy) < 1e-9


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("beta", [0.6, 2.0, 6.0])
def test_without_repulsion_two_fermions_are_ideal(dim, beta):
    particles = Particles(2, dim)
    found, ideal = (
        two_fermions(TrappedElectrons(particles, Z=0.0), beta=beta),
        ideal_fermions(particles, beta=beta),
    )
    for name in ("free_energy", "energy", "entropy"):
        assert abs(getattr(found, name) - getattr(ideal, name)) < 1e-9


def test_even_angular_momentum_is_seen(monkeypatch):
    """Bosons, or a degeneracy that is wrong, are no ideal fermions."""
    particles = Particles(2, 2)
    exact = ideal_fermions(particles, beta=2.0).free_energy
    monkeypatch.setattr(module, "_degeneracy", lambda dim, angular: angular)
    found = two_fermions(TrappedElectrons(particles, Z=0.0), beta=2.0).free_energy
    assert abs(found - exact) > 1e-3


def test_known_energies():
    plane = Particles(2, 2)
    known = two_fermions(TrappedElectrons(plane, Z=math.sqrt(3)), beta=math.inf)
    assert abs(known.energy - 4.0) < 1e-12
    assert known.entropy == math.log(2)
    assert abs(two_fermions(TrappedElectrons(plane, Z=0.5), beta=2.0).free_energy - 2.79205) < 1e-5
    cold = two_fermions(TrappedElectrons(plane, Z=2.0), beta=60.0)
    ground = two_fermions(TrappedElectrons(plane, Z=2.0), beta=math.inf)
    assert abs(cold.energy - ground.energy) < 1e-12
    # In space, u = r^2 exp(-r^2/4) (1 + r/4) has one quantum more than for Z = 0 at Z = 1 / sqrt(1/4) = 2.
    space = two_fermions(TrappedElectrons(Particles(2, 3), Z=2.0), beta=math.inf)
    assert abs(space.energy - (1.5 + 3.5)) < 1e-12


def test_relative_levels_do_not_depend_on_the_number_of_functions(monkeypatch):
    fine = module.relative_levels(2, 2.0, 1)[:20]
    monkeypatch.setattr(module, "_FUNCTIONS", 45)
    module._grid.cache_clear()
    coarse = module.relative_levels(2, 2.0, 1)[:20]
    module._grid.cache_clear()
    assert np.abs(fine - coarse).max() < 1e-9


def test_repulsion_follows_from_the_free_energy():
    """Gibbs-Bogoliubov: F is concave in Z, and its slope lies between those of the chord's ends."""
    at = [two_fermions(TrappedElectrons(Particles(2, 2), Z=z), beta=2.0).free_energy for z in (0.0, 0.5, 1.0)]
    assert at[0] < at[1] < at[2]
    assert at[1] > 0.5 * (at[0] + at[2])


def test_what_has_no_oracle_is_refused():
    with pytest.raises(ValueError, match="two particles in 1 to 3"):
        two_fermions(TrappedElectrons(Particles(3, 2), Z=1.0), beta=1.0)
    with pytest.raises(ValueError, match="needs more than"):
        two_fermions(TrappedElectrons(Particles(2, 2), Z=1.0), beta=0.05)
    with pytest.raises(ValueError, match="beta must be positive"):
        ideal_fermions(Particles(2, 2), beta=0.0)
