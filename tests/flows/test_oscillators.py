"""Oscillators in equilibrium: a normalised density that canonical flows start from, and their target."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import HMC, Angles, Lattice, XYModel
from equiflow.flows import ExtendedAction, Hamiltonian, Oscillators, PhaseSpace
from equiflow.testing import randomise
from equiflow.theories.scalar.mechanics import HarmonicChain
from equiflow.theories.scalar.phi4 import Phi4
from tests.support.strategies import configurations

LATTICE = Lattice((3,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oscillators(beta: float = 2.0) -> Oscillators:
    prior = Oscillators(LATTICE, beta=beta).double()
    randomise(prior)
    return prior


def test_the_density_is_normalised():
    prior = Oscillators(Lattice((1,)), beta=2.0, slowest=0.7).double()
    line = torch.linspace(-12, 12, 801, dtype=torch.float64)
    q, p = torch.meshgrid(line, line, indexing="ij")
    density = prior.log_prob(torch.stack([q.flatten(), p.flatten()], 1)[..., None]).detach().exp()
    assert float(density.sum() * (24 / 800) ** 2) == pytest.approx(1.0, abs=1e-6)


def test_samples_have_the_variances_of_their_temperature():
    prior, n = oscillators(), 40_000
    q, p = prior.oscillators(prior.rsample(n, generator()).detach())
    omega = prior.frequencies().detach()
    expected = torch.stack([1 / (2.0 * omega.square()), torch.full((3,), 0.5)]).double()
    found = torch.stack([q.square().mean(0), p.square().mean(0)])
    assert float(((found / expected - 1).abs() / math.sqrt(2 / n)).max()) < 4.5


def test_score_and_noise_are_those_of_the_density():
    prior = oscillators()
    z = configurations(prior.space)
    leaf = z.clone().requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(prior.score(z), score)
    torch.testing.assert_close(prior.whiten(prior.colour(z)), z)


def test_frequencies_start_spread_between_their_ends():
    frequencies = Oscillators(Lattice((5,)), slowest=0.5, fastest=8.0).frequencies()
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]))


def test_the_group_of_oscillators_claims_nothing():
    group = oscillators().group
    assert group.generators() == {}
    assert str(group) == "no symmetry"
    assert group.space == PhaseSpace(LATTICE)
    z = configurations(group.space)
    assert torch.equal(group.random_element()(z), z)
    assert type(group)(group.space, **group.config()) == group


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_hamiltonian_and_its_gradient(beta):
    potential = Phi4(LATTICE, m2=-1.0, lam=2.0)
    hamiltonian = Hamiltonian(potential, beta=beta)
    state = configurations(hamiltonian.space)
    torch.testing.assert_close(hamiltonian(state), beta * ExtendedAction(potential)(state))
    leaf = state.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(hamiltonian(leaf).sum(), leaf)
    torch.testing.assert_close(hamiltonian.grad(state), gradient)
    assert repr(hamiltonian).startswith(f"Hamiltonian(\n  beta={beta}")


def test_chains_begin_with_thermal_momenta():
    hamiltonian = Hamiltonian(HarmonicChain(LATTICE), beta=4.0)
    state = hamiltonian.initial(5000, generator())
    momenta = hamiltonian.space.split(state)[1]
    assert float(momenta.square().mean() * 4 - 1) == pytest.approx(0.0, abs=4 * math.sqrt(2 / 15_000))
    chain = HMC(hamiltonian, step_size=0.2).sample(50, n_chains=64, generator=generator())
    energy = chain.mean(hamiltonian)
    assert abs(energy.mean - 3.0) < 4 * energy.error  # half for each of 2 x 3 degrees of freedom


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Hamiltonian(XYModel(Angles(LATTICE), beta=1.0)), TypeError, "Momenta are for scalar fields"),
        (lambda: Hamiltonian(HarmonicChain(LATTICE), beta=0.0), ValueError, "beta must be positive"),
        (lambda: Oscillators(LATTICE, slowest=-1.0), ValueError, "slowest must be positive"),
        (lambda: Oscillators(LATTICE, beta=math.inf), ValueError, "beta must be positive"),
        (lambda: oscillators().log_prob(torch.zeros(4, 3)), ValueError, "the field and its momentum"),
    ],
)
def test_what_does_not_fit_is_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()
