"""Independence Metropolis: exact in detail, and the tests see acceptances with planted mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow import Chain, EquivariantCNF, FreeField, FreeScalar, IndependenceMetropolis, Lattice, Phi4
from equiflow.samplers import Ensemble
from equiflow.samplers.metropolis import metropolis_accept
from equiflow.statistics import mean_of_series
from equiflow.theories.scalar.observables import phi_fourth, phi_squared
from tests.support.oracles import one_site_moment
from tests.support.strategies import seeds, small_flow

ONE_SITE = Phi4(Lattice((1,)), m2=-0.5, lam=0.6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def proposals(n: int, m2: float = 0.5) -> Ensemble:
    """Return Gaussian proposals for `ONE_SITE`."""
    prior = FreeField(ONE_SITE.lattice, m2=m2).double()
    phi = prior.rsample(n, generator()).detach()
    log_q = prior.log_prob(phi).detach()
    return Ensemble(phi, log_q, -ONE_SITE(phi) - log_q)


def loop(log_weight: Tensor, uniform: Tensor) -> Tensor:
    accepted = torch.ones(log_weight.shape, dtype=torch.bool)
    for chain in range(log_weight.shape[1]):
        current = float(log_weight[0, chain])
        for step in range(1, len(log_weight)):
            proposed = float(log_weight[step, chain])
            accepted[step, chain] = float(uniform[step, chain]) < min(1.0, math.exp(proposed - current))
            current = proposed if accepted[step, chain] else current
    return accepted


@given(st.integers(1, 40), st.integers(1, 4), st.floats(0.0, 5.0), seeds)
def test_accept_is_the_plain_loop(n, n_chains, spread, seed):
    log_weight = spread * torch.randn(n, n_chains, generator=generator(seed))
    uniform = torch.rand(n, n_chains, generator=generator(seed + 1))
    assert torch.equal(metropolis_accept(log_weight, uniform), loop(log_weight, uniform))


def always(log_weight: Tensor, uniform: Tensor) -> Tensor:
    return torch.ones(log_weight.shape, dtype=torch.bool)


def upside_down(log_weight: Tensor, uniform: Tensor) -> Tensor:
    return metropolis_accept(-log_weight, uniform)


def from_uniform_proposals(log_weight: Tensor, uniform: Tensor) -> Tensor:
    """Compare with the proposal before, whether it was accepted or not."""
    previous = log_weight.roll(1, 0)
    return uniform.log() < log_weight - previous


def imbalance(accept: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the largest `|pi_i q_j a_ij - pi_j q_i a_ji|` over states of a small discrete space."""
    q = torch.tensor([0.5, 0.3, 0.15, 0.05])
    log_w = torch.tensor([0.0, 0.4, -1.0, 2.0])
    pi = q * log_w.exp() / (q * log_w.exp()).sum()
    n = 10_000
    uniform = ((torch.arange(n) + 0.5) / n).expand(2, n)
    flux = torch.zeros(4, 4)
    for i in range(4):
        for j in range(4):
            pair = torch.stack([log_w[i], log_w[j]])[:, None].expand(2, n)
            flux[i, j] = pi[i] * q[j] * accept(pair, uniform)[1].double().mean()
    return float((flux - flux.T).abs().max())


def test_acceptance_balances_in_detail():
    assert imbalance(metropolis_accept) < 1e-4
    assert min(imbalance(always), imbalance(upside_down)) > 1e-2


def run(accept: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr("equiflow.samplers.metropolis.metropolis_accept", accept)
    return IndependenceMetropolis.from_ensemble(proposals(100_000), n_chains=50, generator=generator(1))


def moment_deviations(chain: Chain) -> list[float]:
    # The first sample is a plain proposal, which a chain forgets after a few accepted steps.
    late = Chain(chain.samples[100:], chain.acceptance[100:])
    truths = ((phi_squared, one_site_moment(ONE_SITE, 2)), (phi_fourth, one_site_moment(ONE_SITE, 4)))
    return [abs(late.mean(observable).sigmas_from(truth)) for observable, truth in truths]


def test_one_site_phi4_has_the_moments_of_quadrature(monkeypatch):
    assert max(moment_deviations(run(metropolis_accept, monkeypatch))) < 4


@pytest.mark.parametrize("mistake", [always, upside_down, from_uniform_proposals])
def test_mistaken_acceptance_has_other_moments(mistake, monkeypatch):
    assert max(moment_deviations(run(mistake, monkeypatch))) > 6


def test_the_chain_is_reversible():
    chain = IndependenceMetropolis.from_ensemble(proposals(100_000), n_chains=50, generator=generator(1))
    square = chain.series(phi_squared)[100:]
    now, then = square[:-1], square[1:]
    forth_and_back = mean_of_series(now * then.square() - now.square() * then)
    assert abs(forth_and_back.mean) < 4 * forth_and_back.error
    # The counter-example: the same values in slow rises and sudden falls have a direction in time.
    one_way = square.unflatten(0, (-1, 20)).sort(1).values.flatten(0, 1)
    now, then = one_way[:-1], one_way[1:]
    forth_and_back = mean_of_series(now * then.square() - now.square() * then)
    assert abs(forth_and_back.mean) > 8 * forth_and_back.error


def test_a_perfect_model_is_always_accepted():
    lattice = Lattice((3, 4))
    action = FreeScalar(lattice, m2=0.7)
    flow = EquivariantCNF(lattice, prior=FreeField(lattice, m2=0.7)).double()
    assert chain_of(flow, action).acceptance_rate.mean == 1.0
    assert chain_of(flow, FreeScalar(lattice, m2=1.0)).acceptance_rate.mean < 0.95


def chain_of(flow: EquivariantCNF, action: Phi4) -> Chain:
    return IndependenceMetropolis(flow, action).sample(100, n_chains=5, generator=generator())


@pytest.mark.parametrize(("n", "n_chains", "length"), [(60, 1, 60), (60, 4, 15), (63, 4, 15)])
def test_states_are_the_proposals_last_accepted(n, n_chains, length):
    ensemble = proposals(n)
    chain = IndependenceMetropolis.from_ensemble(ensemble, n_chains=n_chains, generator=generator(1))
    assert chain.samples.shape == (length, n_chains, 1)
    assert chain.acceptance.shape == (length - 1, n_chains)
    proposed = ensemble.phi[: length * n_chains].reshape(length, n_chains, 1)
    assert torch.equal(chain.samples[0], proposed[0])
    for step in range(1, length):
        moved = chain.acceptance[step - 1].bool()[:, None]
        assert torch.equal(chain.samples[step], torch.where(moved, proposed[step], chain.samples[step - 1]))
    assert 0 < chain.acceptance.mean() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_have_their_shape_and_dtype_and_are_reproducible(dtype):
    flow = small_flow().to(dtype)
    sampler = IndependenceMetropolis(flow, Phi4(flow.lattice, m2=1.0, lam=0.5))
    one, same, other = (
        sampler.sample(6, n_chains=3, batch_size=4, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert one.samples.shape == (6, 3, 3, 3)
    assert one.samples.dtype == dtype
    assert torch.equal(one.samples, same.samples)
    assert not torch.equal(one.samples, other.samples)


def test_tau_int_follows_the_rejections():
    good, bad = (
        IndependenceMetropolis.from_ensemble(proposals(20_000, m2), n_chains=4, generator=generator(1))
        for m2 in (0.5, 3.0)
    )
    assert bad.acceptance_rate.mean < good.acceptance_rate.mean
    assert 0.5 < good.tau_int(phi_squared).mean < bad.tau_int(phi_squared).mean


@pytest.mark.parametrize(("n_samples", "n_chains"), [(0, 1), (1, 0), (-1, 2)])
def test_chains_must_hold_something(n_samples, n_chains):
    flow = small_flow()
    sampler = IndependenceMetropolis(flow, Phi4(flow.lattice, m2=1.0, lam=0.5))
    with pytest.raises(ValueError, match="n_samples >= 1"):
        sampler.sample(n_samples, n_chains=n_chains)


@pytest.mark.parametrize("n_chains", [0, -1, 11])
def test_proposals_must_fill_the_chains(n_chains):
    with pytest.raises(ValueError, match="chains"):
        IndependenceMetropolis.from_ensemble(proposals(10), n_chains=n_chains)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    ensemble = proposals(10)
    ensemble.log_weight[0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        IndependenceMetropolis.from_ensemble(ensemble, generator=generator())
