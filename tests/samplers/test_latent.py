"""HMC in the noise of a flow: the right density and gradient, and what becomes of diverged trajectories."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow import EquivariantCNF, FreeField, FreeScalar, LatentHMC, Lattice, OrbitConvField, Phi4, Solver
from equiflow.samplers import LatentAction
from equiflow.testing import dense_jacobian
from tests.support.strategies import configurations, priors, seeds, small_flow

ACTION = Phi4(Lattice((2, 3)), m2=-1.0, lam=0.7)
FINE = Solver("rk5", steps=6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow_of(seed: int = 0) -> EquivariantCNF:
    return small_flow((2, 3), prior=FreeField(ACTION.lattice, m2=0.3).double(), solver=FINE, seed=seed)


def pulled_back(latent: LatentAction, noise: Tensor) -> Tensor:
    """Return `S(phi) - log |det d phi / d noise|` by the dense Jacobian."""
    jacobian = dense_jacobian(lambda x: latent.configurations(x)[0], noise)
    with torch.no_grad():
        phi, _ = latent.configurations(noise)
    return latent.action(phi) - torch.linalg.slogdet(jacobian).logabsdet


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_target_in_noise_is_its_density_pulled_back(seed):
    latent, noise = LatentAction(flow_of(seed), ACTION), configurations(ACTION.lattice, 2, seed)
    with torch.no_grad():
        difference = latent(noise) - pulled_back(latent, noise)
    assert float(difference.abs().max()) < 1e-4


def test_a_lost_determinant_is_seen():
    latent, noise = LatentAction(flow_of(), ACTION), configurations(ACTION.lattice)
    with torch.no_grad():
        _, log_det = latent.flow.transform_and_log_det(latent.flow.prior.colour(noise))
        difference = latent(noise) + log_det - pulled_back(latent, noise)
    assert float(difference.abs().max()) > 1e-2


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_path_runs_from_white_noise_to_the_target(beta):
    noise = configurations(ACTION.lattice)
    ends = [LatentAction(flow_of(), ACTION, beta=b) for b in (0.0, 1.0)]
    with torch.no_grad():
        white, target = (latent(noise) for latent in ends)
        between = LatentAction(flow_of(), ACTION, beta=beta)(noise)
    gaussian = 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2))
    torch.testing.assert_close(white, gaussian)
    torch.testing.assert_close(between, (1 - beta) * white + beta * target)


@given(seeds, st.floats(0.0, 1.0))
def test_the_gradient_is_that_of_the_discrete_map(seed, beta):
    flow = flow_of()
    flow.solver = Solver("rk4", steps=2)  # coarse: the gradient of the exact flow would be another one
    latent, noise = LatentAction(flow, ACTION, beta=beta), configurations(ACTION.lattice, 1, seed)
    direction = configurations(ACTION.lattice, 1, seed + 1)
    with torch.no_grad():
        slope = (latent(noise + 1e-5 * direction) - latent(noise - 1e-5 * direction)) / 2e-5
    found = (latent.grad(noise) * direction).sum()
    assert float(found - slope) == pytest.approx(0, abs=1e-6 * (1 + abs(float(slope))))
    assert not latent.grad(noise).requires_grad


@given(priors(), seeds)
def test_whitening_undoes_the_colour(prior, seed):
    noise = configurations(prior.lattice, seed=seed)
    with torch.no_grad():
        torch.testing.assert_close(prior.whiten(prior.colour(noise)), noise, atol=1e-9, rtol=1e-9)


def test_a_perfect_flow_leaves_a_unit_gaussian():
    action = FreeScalar(Lattice((3, 3)), m2=0.5)
    flow = EquivariantCNF(
        action.lattice,
        vector_field=OrbitConvField(action.lattice, n_frequencies=1, n_time_modes=1),
        prior=FreeField(action.lattice, m2=0.5),
        solver=Solver("euler", steps=1),
    ).double()
    latent, noise = LatentAction(flow, action), configurations(action.lattice)
    with torch.no_grad():
        rest = latent(noise) - 0.5 * noise.square().sum((1, 2))
        torch.testing.assert_close(latent.grad(noise), noise)
    constant = 4.5 * math.log(2 * math.pi) - action.log_z()
    torch.testing.assert_close(rest, torch.full_like(rest, constant))
    chain = LatentHMC(flow, action).sample(40, n_chains=64, n_thermalisation=40, generator=generator())
    # Trajectories last a quarter period on average, so a sample hardly remembers the one before.
    assert chain.tau_int(lambda phi: phi.mean((1, 2)).square()).mean < 1.0
    assert chain.certificate is not None


def test_what_is_rejected_keeps_its_field_to_the_last_bit():
    kernel = LatentHMC(flow_of(), ACTION, step_size=1.6, trajectory_length=1.6)
    phi = kernel.flow.sample(64, generator=generator())
    moved, outcome = kernel.update(phi, generator(1))
    stays = outcome.accepted == 0
    assert 0 < int(stays.sum()) < 64
    assert torch.equal(moved[stays], phi[stays])
    assert bool((moved[~stays] != phi[~stays]).flatten(1).any(1).all())


def test_flow_and_action_share_a_lattice():
    with pytest.raises(ValueError, match="the flow on"):
        LatentHMC(flow_of(), Phi4(Lattice((3, 3)), m2=1.0, lam=1.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e20])
def test_a_diverged_trajectory_has_no_density_and_leaves_the_others_alone(bad):
    latent, noise = LatentAction(flow_of(), ACTION), configurations(ACTION.lattice, 3)
    broken = noise.clone()
    broken[1, 0, 0] = bad
    with torch.no_grad():
        whole, found = latent(noise), latent(broken)
    assert found[1] == math.inf
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    slope = latent.grad(broken)
    assert not slope[1].any()
    assert torch.equal(slope[[0, 2]], latent.grad(noise)[[0, 2]])


def test_a_step_that_diverges_is_rejected():
    phi = configurations(ACTION.lattice, 4)
    kernel = LatentHMC(flow_of(), ACTION, step_size=1e3, trajectory_length=1e4)
    moved, outcome = kernel.update(phi, generator())
    assert not outcome.accepted.any()
    assert torch.equal(moved, phi)
