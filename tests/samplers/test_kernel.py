"""Chains: how they start, continue, and are tuned and certified."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Alternate,
    Chain,
    FreeScalar,
    IndependenceMetropolis,
    IndependenceStep,
    Kernel,
    LatentHMC,
    Lattice,
    LocalMetropolis,
    Phi4,
    Wolff,
)
from tests.support.strategies import configurations
from tests.support.updates import CHAIN, coarse_flow, flow_on, generator

Make = Callable[[Phi4], Kernel]


def equal(one: Chain, other: Chain) -> bool:
    return torch.equal(one.samples, other.samples) and torch.equal(one.acceptance, other.acceptance)


UNTUNED: dict[str, Make] = {
    "HMC": HMC,
    "local": LocalMetropolis,
    "latent": lambda action: LatentHMC(coarse_flow(action.lattice), action),
    "in turn": lambda action: Alternate(
        HMC(action), Wolff(action), IndependenceStep(coarse_flow(action.lattice), action)
    ),
}


@pytest.mark.parametrize(("name", "thin"), [("HMC", 1), ("local", 1), ("latent", 1), ("in turn", 2)])
def test_a_continued_chain_is_one_longer_run_bit_for_bit(name, thin):
    kernel = UNTUNED[name](CHAIN)
    options = {"n_chains": 4, "n_thermalisation": 12, "thin": thin, "certify": 8}
    whole = kernel.sample(7, generator=generator(3), **options)
    source = generator(3)
    first = kernel.sample(4, generator=source, **options)
    for continuing in (first.kernel, kernel):
        state = source.get_state()
        rest = continuing.sample(3, start=first, thin=thin, generator=source)
        assert equal(first.followed_by(rest), whole)
        source.set_state(state)
    assert rest.step_size == whole.step_size
    assert not equal(
        first.followed_by(kernel.sample(3, start=first, thin=thin, generator=generator(4))), whole
    )


def test_a_chain_that_a_flow_goes_on_with_is_certified():
    before = HMC(CHAIN, step_size=0.1).sample(6, n_chains=2, n_thermalisation=2, generator=generator())
    one, other = coarse_flow(CHAIN.lattice), coarse_flow(CHAIN.lattice)
    after = IndependenceStep(one, CHAIN).sample(4, start=before, certify=16, generator=generator(1))
    assert after.certificate.n_samples == 16
    assert before.followed_by(after).certificate is after.certificate
    # A flow is certified once; another flow gets a certificate of its own.
    kernel = IndependenceStep(one, CHAIN)
    assert kernel.sample(2, start=after, certify=8).certificate is after.certificate
    assert IndependenceStep(other, CHAIN).sample(2, start=after, certify=8).certificate.n_samples == 8
    assert IndependenceStep(other, CHAIN).sample(2, start=after, certify=0).certificate is None
    with pytest.raises(ValueError, match="same action and flow"):
        LatentHMC(other, CHAIN).sample(2, start=after)
    sampler = IndependenceMetropolis(one, CHAIN)
    without = sampler.sample(4, n_chains=2, certify=0)
    assert without.certificate is None
    assert sampler.sample(4, start=without, certify=8).certificate.n_samples == 8


def test_independence_metropolis_continues_bit_for_bit_where_a_block_ends():
    sampler = IndependenceMetropolis(flow_on(CHAIN.lattice), CHAIN)
    options = {"n_chains": 3, "batch_size": 12, "certify": 8}
    whole = sampler.sample(17, generator=generator(), **options)
    source = generator()
    first = sampler.sample(8, generator=source, **options)
    rest = sampler.sample(9, start=first, batch_size=12, generator=source)
    assert rest.acceptance.shape == (9, 3)
    assert equal(first.followed_by(rest), whole)
    assert torch.equal(first.followed_by(rest).log_weight, whole.log_weight)
    # The first proposal of a continued chain competes with the weight of its last state.
    best = Chain(first.samples, first.acceptance, log_weight=torch.full((8, 3), 50.0))
    stays = sampler.sample(5, start=best, generator=generator(1))
    assert torch.equal(stays.samples, first.samples[-1:].expand(5, -1, -1))


def test_log_weights_of_the_chain_are_those_of_its_samples():
    flow = flow_on(CHAIN.lattice)
    chain = IndependenceMetropolis(flow, CHAIN).sample(50, n_chains=4, batch_size=20, generator=generator())
    expected = chain.series(lambda phi: -CHAIN(phi) - flow.log_prob(phi).detach())
    torch.testing.assert_close(chain.log_weight, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_live_where_the_flow_does(dtype):
    flow = coarse_flow(CHAIN.lattice).to(dtype)
    for kernel in (LatentHMC(flow, CHAIN), Alternate(HMC(CHAIN), IndependenceStep(flow, CHAIN))):
        chain = kernel.sample(3, n_chains=2, n_thermalisation=5, certify=4, generator=generator())
        assert chain.samples.dtype == dtype
        assert chain.acceptance.dtype == torch.float64
        assert chain.certificate.n_samples == 4
    assert HMC(CHAIN).sample(2, n_chains=2, n_thermalisation=2).certificate is None


def test_chains_without_a_flow_start_where_their_generator_is(monkeypatch):
    class Elsewhere(torch.Generator):
        device = torch.device("meta")

    def drawn(shape: tuple[int, ...], *, device: torch.device | str, **_: object) -> Tensor:
        return torch.zeros(shape, device=device)

    monkeypatch.setattr(torch, "randn", drawn)
    for noise, device, found in (
        (Elsewhere(), None, "meta"),
        (Elsewhere(), "cpu", "cpu"),
        (None, None, "cpu"),
    ):
        assert HMC(CHAIN)._initial(2, None, noise, device, None).device.type == found


def test_energies_are_summed_in_float64():
    action = FreeScalar(Lattice((64, 64)), m2=1.0)
    phi = 30 + configurations(action.lattice, 4, dtype=torch.float32)
    momentum = configurations(action.lattice, 4, seed=1, dtype=torch.float32)
    exact = 0.5 * momentum.double().square().sum((1, 2)) + action(phi.double())
    assert torch.equal(HMC(action).energy(phi, momentum), exact)
    # A sum in float32 would lose as much as the energy changes in a trajectory.
    assert float((action(phi).double() - action(phi.double())).abs().max()) > 0.05


def test_local_and_latent_updates_are_tuned():
    target = 0.6
    local = LocalMetropolis(CHAIN, target_acceptance=target)
    latent = LatentHMC(coarse_flow(CHAIN.lattice), CHAIN, target_acceptance=target, trajectory_length=3.0)
    for kernel in (local, Alternate(latent)):
        chain = kernel.sample(20, n_chains=100, n_thermalisation=60, certify=0, generator=generator())
        assert chain.acceptance_rate.mean == pytest.approx(target, abs=0.1)
        assert chain.kernel.is_tuned


def test_bad_starts_are_refused():
    chain = HMC(CHAIN).sample(2, n_chains=2, n_thermalisation=5, generator=generator())
    with pytest.raises(ValueError, match="got both"):
        HMC(CHAIN).sample(2, start=chain, initial=chain.samples[-1])
    with pytest.raises(ValueError, match="not tuned"):
        LocalMetropolis(CHAIN).sample(2, start=chain)
    assert LocalMetropolis(CHAIN, width=1.0).sample(2, start=chain).samples.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="without log weights"):
        IndependenceMetropolis(flow_on(CHAIN.lattice), CHAIN).sample(2, start=chain, certify=0)
