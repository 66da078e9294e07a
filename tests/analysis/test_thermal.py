"""Averages over density matrices: densities that integrate to counts, energies that add up, errors."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import Particles, SlaterStates, Solver, ThermalState, TrappedElectrons, thermal_averages
from equiflow.oracles import ideal_fermions
from equiflow.theories.fermions.observables import pair_density, radial_density, shell_volumes
from tests.support.fermions import thermal_state


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_densities_count_particles_and_pairs(dim):
    x = torch.randn(50, 4, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.linspace(0, 20, 11, dtype=torch.float64)
    volumes = shell_volumes(edges, dim)
    assert volumes.sum() == pytest.approx({1: 40.0, 2: math.pi * 400, 3: 4 / 3 * math.pi * 8000}[dim])
    torch.testing.assert_close(radial_density(x, edges) @ volumes, torch.full((50,), 4.0, dtype=x.dtype))
    torch.testing.assert_close(pair_density(x, edges) @ volumes, torch.full((50,), 6.0, dtype=x.dtype))


def test_densities_of_the_fermi_sea_are_known():
    """`n(r) = exp(-r^2) (1 + 2 r^2) / pi` of three fermions in the plane, and no pair at distance 0."""
    states, quick = SlaterStates(Particles(3, 2)), Solver("euler", steps=1)  # for a flow that does not move
    rho = ThermalState(states, beta=math.inf, solver=quick)
    found = thermal_averages(
        rho,
        TrappedElectrons(Particles(3, 2), Z=0.0),
        8_000,
        n_bins=12,
        reach=3.0,
        batch_size=4_000,
        generator=torch.Generator().manual_seed(0),
    )
    inner, outer = found.density.edges[:-1] ** 2, found.density.edges[1:] ** 2

    def inside(square: torch.Tensor) -> torch.Tensor:
        return 3 - (-square).exp() * (3 + 2 * square)  # int_0^r 2 pi r n(r)

    expected = (inside(outer) - inside(inner)) / (math.pi * (outer - inner))
    pulls = (found.density.mean - expected) / found.density.error
    assert float(pulls.abs().max()) < 4.5
    assert float(found.pairs.mean[0]) < 0.2 * float(found.pairs.mean.max())
    wrong = (found.density.mean - 3 * (-found.density.middle.square()).exp() / math.pi) / found.density.error
    assert float(wrong.abs().max()) > 20  # of three bosons


def test_parts_of_the_energy_add_up():
    rho = thermal_state(Particles(3, 2), steps=4)
    electrons = TrappedElectrons(Particles(3, 2), Z=0.5)
    found = thermal_averages(rho, electrons, 500, batch_size=200, generator=torch.Generator().manual_seed(0))
    parts = found.kinetic.mean + found.trap.mean + found.repulsion.mean
    assert abs(parts - found.energy.mean) < 1e-10
    assert found.entropy.error == 0
    sampled = 2.0 * (found.energy.mean - found.free_energy.mean)  # beta (E - F)
    assert abs(sampled - found.entropy.mean) < 0.2
    assert 0 < found.free_energy.systematic < 1e-3
    assert found.spread == pytest.approx(found.free_energy.error * 500**0.5)
    assert str(found).splitlines()[0].split("  ")[0] == "free energy"


def test_averages_of_ideal_fermions_are_exact():
    particles = Particles(2, 2)
    states, quick = SlaterStates(particles, cutoff=12.0), Solver("euler", steps=1)
    rho = ThermalState(states, beta=2.0, solver=quick)
    electrons = TrappedElectrons(particles, Z=0.0)
    found = thermal_averages(rho, electrons, 4000, generator=torch.Generator().manual_seed(0))
    exact = ideal_fermions(particles, beta=2.0)
    assert abs(found.free_energy.mean - exact.free_energy) < 1e-6
    assert abs(found.energy.sigmas_from(exact.energy)) < 4.5
    assert abs(found.kinetic.sigmas_from(0.5 * exact.energy)) < 4.5  # virial theorem
    assert abs(found.trap.sigmas_from(0.5 * exact.energy)) < 4.5
    assert abs(found.entropy.mean - exact.entropy) < 1e-4
    assert found.repulsion.mean == 0.0


def test_what_does_not_fit_is_refused():
    rho = ThermalState(SlaterStates(Particles(2, 2)), beta=2.0)
    electrons = TrappedElectrons(Particles(2, 2), Z=0.0)
    with pytest.raises(TypeError, match="ThermalState"):
        thermal_averages(electrons, rho, 10)
    with pytest.raises(ValueError, match="n_samples"):
        thermal_averages(rho, electrons, 1)
