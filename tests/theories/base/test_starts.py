"""Chains start where the theory has a density: from weak noise, or for particles from places apart."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import HMC, Action, CoulombGas, EquivariantCNF, Lattice, Particles, Phi4
from equiflow.samplers.latent import LatentAction
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar.external_field import ExternalField

LATTICE = Lattice((3, 4))
GAS = CoulombGas(Particles(3, 2), beta=1.0)
NOISY = {
    "Phi4": Phi4(LATTICE, m2=-4.0, lam=6.0),
    "ONModel": ONModel(Multiplet(LATTICE, 2), m2=1.0, lam=1.0),
    "XYModel": XYModel(Angles(LATTICE), beta=0.5),
    "ExternalField": ExternalField(Phi4(LATTICE, m2=1.0, lam=1.0), h=0.5),
    "LatentAction": LatentAction(EquivariantCNF(GAS.space), GAS),
}


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NOISY)
def test_fields_start_from_weak_noise(name, dtype):
    action = NOISY[name]
    expected = 0.1 * torch.randn((5, *action.space.shape), generator=seeded(), dtype=dtype)
    assert torch.equal(action.initial(5, seeded(), dtype=dtype), expected)


def test_a_chain_of_phi4_starts_there_bit_for_bit():
    action = NOISY["Phi4"]
    hmc = HMC(action, step_size=0.1)
    given = 0.1 * torch.randn((5, *LATTICE.shape), generator=(rng := seeded()), dtype=torch.float64)
    expected = hmc.sample(3, n_chains=5, n_thermalisation=2, initial=given, generator=rng)
    found = hmc.sample(3, n_chains=5, n_thermalisation=2, generator=seeded())
    assert torch.equal(found.samples, expected.samples)


@pytest.mark.parametrize(("number", "dim"), [(1, 1), (2, 1), (5, 1), (2, 2), (6, 2), (9, 2), (8, 3), (20, 3)])
def test_particles_start_apart_around_the_origin(number, dim):
    space = Particles(number, dim)
    x = space.initial(200, seeded())
    assert x.shape == (200, number, dim)
    places = space._places()
    assert len(places.unique(dim=0)) == number
    # The nearest grid points to the centre are no farther from it than any that are left out.
    radius = (number ** (1 / dim) + 2) * math.sqrt(dim) / 2
    assert float(places.norm(dim=1).max()) <= radius
    if number > 1:
        distance = torch.cdist(x, x) + torch.eye(number) * 10
        assert float(distance.min()) > 0.2
        assert float(torch.pdist(places).min()) == 1.0
    # Every particle visits every place: the mean over chains is the same for all, up to noise.
    spread = float(places.std(0).max()) + 0.1 if number > 1 else 0.1
    assert float((x.mean(0) - places.mean(0)).abs().max()) < 5 * spread / math.sqrt(200)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("number", "dim", "beta"), [(6, 2, 1.0), (2, 3, 0.1), (3, 1, 5.0), (2, 2, 100.0)])
def test_hmc_of_a_coulomb_gas_runs_from_its_default_start(number, dim, beta, seed):
    gas = CoulombGas(Particles(number, dim), beta=beta)
    chain = HMC(gas).sample(30, n_chains=32, n_thermalisation=100, generator=seeded(seed))
    assert 0.6 < chain.acceptance_rate.mean < 0.95
    # Scaling all positions gives <sum_i x_i . dS/dx_i> = N d.
    virial = chain.mean(lambda x: (x * gas.grad(x)).flatten(1).sum(1))
    assert abs(virial.mean - number * dim) < 5 * virial.error


class Ring(Action):
    """Weak noise has no density: `S = (|phi|^2 - 12)^2` outside of a ball, infinite within it."""

    def forward(self, phi):
        radius2 = phi.square().flatten(1).sum(1)
        return torch.where(radius2 > 4, (radius2 - 12).square(), torch.inf)

    def initial(self, n, generator=None, *, device="cpu", dtype=torch.float64):
        noise = torch.randn((n, *self.space.shape), generator=generator, device=device, dtype=dtype)
        norm = noise.flatten(1).norm(dim=1).view(-1, 1, 1)
        return math.sqrt(12) * noise / norm


def test_an_action_of_one_s_own_says_where_chains_start():
    action = Ring(LATTICE)
    chain = HMC(action).sample(20, n_chains=16, n_thermalisation=50, generator=seeded())
    radius2 = chain.configurations.square().flatten(1).sum(1)
    assert float(radius2.min()) > 4
    bent = ExternalField(action, h=0.1)
    assert torch.equal(bent.initial(4, seeded()), action.initial(4, seeded()))
