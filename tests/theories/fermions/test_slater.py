"""Slater determinants: energies, densities and their derivatives, exact samples, the exclusion principle."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from equiflow import EuclideanGroup, Particles, SlaterStates, TrappedElectrons
from equiflow.theories.fermions import orbitals as module
from equiflow.theories.fermions.orbitals import HermiteSampler, OrbitalJet, hermite_polynomials
from equiflow.theories.fermions.slater import fermi_sea_energy

SYSTEMS = [(Particles(2, 1), 6.0), (Particles(3, 2), 7.0), (Particles(4, 3), 10.0)]


def drawn(states: SlaterStates, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Determinants at random, and positions from each."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(len(states), (n,), generator=generator)
    return state, states.sample(state, generator)


@pytest.mark.parametrize(("particles", "cutoff"), SYSTEMS)
def test_all_determinants_below_the_cutoff_are_listed_once(particles, cutoff):
    states = SlaterStates(particles, cutoff=cutoff)
    every = itertools.product(range(7), repeat=particles.dim)
    levels = [n for n in every if sum(n) <= (6 if particles.dim == 1 else 3)]
    expected = {
        frozenset(chosen)
        for chosen in itertools.combinations(levels, particles.number)
        if sum(map(sum, chosen)) + particles.size / 2 <= cutoff
    }
    listed = [frozenset(map(tuple, orbitals)) for orbitals in states.orbitals.tolist()]
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert states.energies.tolist() == sorted(states.energies.tolist())
    assert float(states.energies[0]) == fermi_sea_energy(particles)


@pytest.mark.parametrize(("particles", "cutoff"), SYSTEMS)
def test_determinants_are_eigenstates_of_the_trap(particles, cutoff):
    """The local energy of an eigenstate does not fluctuate."""
    states = SlaterStates(particles, cutoff=cutoff)
    state, z = drawn(states, 200)
    jet = states.jet(z, state)
    energy = TrappedElectrons(particles, Z=0.0).local_energy(z, jet.score, jet.laplacian)
    torch.testing.assert_close(energy, states.energies[state], rtol=0, atol=1e-8)


def test_derivatives_are_those_of_autograd():
    states = SlaterStates(Particles(3, 2), cutoff=8.0)
    state, z = drawn(states, 3)
    jet = states.jet(z, state)
    for k in range(3):

        def log_density(x: Tensor, k: int = k) -> Tensor:
            return states.log_density(x[None], state[k : k + 1])[0]

        torch.testing.assert_close(jet.value[k], log_density(z[k]))
        gradient = torch.autograd.functional.jacobian(log_density, z[k])
        torch.testing.assert_close(jet.score[k], gradient, rtol=1e-9, atol=1e-9)
        hessian = torch.autograd.functional.hessian(log_density, z[k]).reshape(6, 6)
        torch.testing.assert_close(jet.hessian[k], hessian, rtol=1e-8, atol=1e-8)


def test_a_wrong_second_derivative_of_orbitals_is_seen(monkeypatch):
    states, exact = SlaterStates(Particles(3, 2), cutoff=8.0), OrbitalJet.at
    state, z = drawn(states, 50)

    def planted(x: Tensor, orbitals: Tensor) -> OrbitalJet:
        jet = exact(x, orbitals)
        return OrbitalJet(jet.value, jet.slope, 0.999 * jet.curvature)

    monkeypatch.setattr(OrbitalJet, "at", planted)
    jet = states.jet(z, state)
    energy = TrappedElectrons(states.particles, Z=0.0).local_energy(z, jet.score, jet.laplacian)
    assert float((energy - states.energies[state]).abs().max()) > 1e-4


def grid_density(states: SlaterStates, n: int, line: Tensor) -> Tensor:
    """`|Phi_n|^2` of two particles in one dimension on a square grid."""
    z = torch.cartesian_prod(line, line)[..., None]
    return states.log_density(z, torch.full((len(z),), n)).exp().view(len(line), len(line))


def test_densities_are_normalised():
    states = SlaterStates(Particles(2, 1), cutoff=5.0)
    line = torch.linspace(-9, 9, 361, dtype=torch.float64)
    for n in range(len(states)):
        assert abs(float(grid_density(states, n, line).sum()) * 0.05**2 - 1) < 1e-10


def test_samples_have_the_density_of_their_determinant():
    """By chi^2 on a grid of cells, with a determinant of different orbitals, so that mixtures matter."""
    states = SlaterStates.of_orbitals(Particles(2, 1), [[[0], [3]]])
    line = torch.linspace(-6, 6, 241, dtype=torch.float64)
    middles = 0.5 * (line[1:] + line[:-1])
    expected = grid_density(states, 0, middles).view(12, 20, 12, 20).sum((1, 3)) * 0.05**2
    n = 20_000
    z = states.sample(torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(1))[..., 0]

    def chi_squared(z: Tensor) -> float:
        cell = ((z + 6) / 1.0).floor().long().clamp(0, 11)
        counts = torch.bincount(12 * cell[:, 0] + cell[:, 1], minlength=144).view(12, 12).double()
        often = n * expected > 10
        terms = (counts - n * expected).square() / (n * expected)
        return float((terms[often].sum() - often.sum()) / (2 * often.sum()).sqrt())

    assert abs(chi_squared(z)) < 4.5
    independent = torch.stack([z[:, 0], z[:, 1].roll(1)], 1)  # without the exclusion of one by the other
    assert chi_squared(independent) > 20


def test_every_degree_is_proposed_equally_often(monkeypatch):
    """Else mixtures of orbitals would be skewed; cells are made wide, so that the envelopes differ much."""
    monkeypatch.setattr(module, "_CELL", 0.5)
    sampler = HermiteSampler(6)

    def spread() -> float:
        degree = torch.arange(7).repeat_interleave(20_000)
        _, accepted = sampler.propose(degree, torch.Generator().manual_seed(0))
        rates = accepted.view(7, -1).double().mean(1)
        error = math.sqrt(float(rates.mean() * (1 - rates.mean())) / 20_000)
        return float((rates - rates.mean()).abs().max()) / error

    assert spread() < 4.5
    sampler.thinning = torch.ones(7, dtype=torch.float64)
    assert spread() > 20


def test_squared_hermite_functions_stay_below_their_envelope():
    sampler = HermiteSampler(8)
    inside = torch.linspace(0, 1, 7, dtype=torch.float64)
    x = sampler.left[:, None] + module._CELL * inside
    density = (hermite_polynomials(x, 8) * (-0.5 * x.square()).exp()[..., None]).square()
    bound = sampler.envelope.T[:, None]
    assert bool((density <= bound + 1e-16).all())
    assert float(bound.sum() / (density.mean(1, keepdim=True)).sum()) < 1.2


def test_ideal_fermions_obey_the_virial_theorem():
    states = SlaterStates(Particles(6, 2), cutoff=16.0)
    state, z = drawn(states, 4000)
    excess = 0.5 * z.square().sum((1, 2)) - 0.5 * states.energies[state]
    assert abs(float(excess.mean())) < 4.5 * float(excess.std()) / 4000**0.5


def test_densities_are_symmetric_under_permutations_and_shells_under_rotations():
    particles = Particles(3, 2)
    states = SlaterStates(particles, cutoff=7.0)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)

    def densities(z: Tensor) -> Tensor:
        rows = [states.log_density(z, torch.full((len(z),), n)) for n in range(len(states))]
        return torch.stack(rows, 1).exp()

    here, exchanged = densities(z), densities(z[:, [1, 0, 2]])
    torch.testing.assert_close(here, exchanged, rtol=1e-10, atol=1e-15)
    turned = densities(EuclideanGroup(particles).random_element(generator)(z))
    for energy in states.energies.unique():
        shell = states.energies == energy
        torch.testing.assert_close(here[:, shell].sum(1), turned[:, shell].sum(1), rtol=1e-10, atol=1e-15)
    assert not torch.allclose(here, turned, rtol=0.1)  # a single determinant of an open shell is turned


def test_two_fermions_in_one_orbital_are_refused():
    with pytest.raises(ValueError, match="Two fermions are in one orbital"):
        SlaterStates.of_orbitals(Particles(2, 2), [[[0, 1], [0, 1]]])
    with pytest.raises(ValueError, match="2 orbitals of 2 quantum numbers"):
        SlaterStates.of_orbitals(Particles(2, 2), [[[0, 1]]])
    with pytest.raises(ValueError, match="quantum numbers >= 0"):
        SlaterStates.of_orbitals(Particles(2, 1), [[[0], [-1]]])


@pytest.mark.parametrize("cutoff", [2.9, math.inf, math.nan])
def test_a_cutoff_below_the_fermi_sea_is_refused(cutoff):
    with pytest.raises(ValueError, match="energy 3 of the Fermi sea"):
        SlaterStates(Particles(2, 2), cutoff=cutoff)


@pytest.mark.parametrize("strength", [-0.5, math.inf, math.nan])
def test_electrons_repel(strength):
    with pytest.raises(ValueError, match="finite and >= 0"):
        TrappedElectrons(Particles(2, 2), Z=strength)
