from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import (
    HMC,
    OMELYAN,
    Action,
    Alternate,
    Chain,
    Flow,
    FreeField,
    FreeScalar,
    IndependenceMetropolis,
    IndependenceStep,
    Kernel,
    LatentHMC,
    Lattice,
    LocalMetropolis,
    Phi4,
    Solver,
    SwendsenWang,
    Wolff,
)
from equiflow.samplers import Integrator, LatentAction, Outcome
from equiflow.samplers.integrators import LEAPFROG
from equiflow.samplers.local import colours
from tests.support.invariance import balance_pvalue, exact_samples, invariance_pvalue
from tests.support.strategies import configurations, lattices, seeds, small_flow

Make = Callable[[Phi4], Kernel]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow_on(lattice: Lattice, solver: Solver = Solver("rk5", steps=2)) -> Flow:  # noqa: B008 (frozen)
    prior = FreeField(lattice, m2=0.3).double()
    return small_flow(lattice.shape, prior=prior, scale=0.3, solver=solver)


def coarse_flow(lattice: Lattice) -> Flow:
    """Where nothing depends on the accuracy of the flow."""
    return flow_on(lattice, Solver("euler", steps=2))


@cache
def shared_flow(action: Phi4) -> Flow:
    """One flow for all kernels of an action."""
    return flow_on(action.lattice)


KERNELS: dict[str, Make] = {
    "HMC": lambda action: HMC(action, step_size=0.55, trajectory_length=1.1),
    "HMC, Omelyan": lambda action: HMC(action, step_size=0.8, trajectory_length=1.6, integrator=OMELYAN),
    "local": lambda action: LocalMetropolis(action, width=0.8),
    "Swendsen-Wang": SwendsenWang,
    "Wolff": Wolff,
    "independence": lambda action: IndependenceStep(shared_flow(action), action, n_proposals=2),
    "latent HMC": lambda action: LatentHMC(shared_flow(action), action, step_size=0.9, trajectory_length=1.8),
}
EVERY: dict[str, Make] = KERNELS | {
    "HMC and Wolff": lambda action: Alternate(HMC(action, step_size=0.5), Wolff(action)),
    "all in turn": lambda action: Alternate(*(make(action) for make in KERNELS.values())),
}
#: a sweep of all colours, and what contains it, is invariant without detailed balance
REVERSIBLE = [name for name in KERNELS if name != "local"]
CHAIN, SITE = Phi4(Lattice((3,)), m2=-1.0, lam=0.8), Phi4(Lattice((1,)), m2=-1.0, lam=0.8)


@pytest.mark.parametrize("action", [SITE, CHAIN], ids=["1 site", "3 sites"])
@pytest.mark.parametrize("name", EVERY)
def test_updates_leave_the_target_invariant(name, action):
    assert invariance_pvalue(EVERY[name](action), 8_000) > 1e-3


@pytest.mark.parametrize("name", REVERSIBLE)
def test_updates_balance_in_detail(name):
    assert balance_pvalue(KERNELS[name](CHAIN), 10_000) > 1e-3


def test_a_sweep_of_one_site_balances_in_detail():
    assert balance_pvalue(LocalMetropolis(SITE, width=0.8)) > 1e-3


# Planted mistakes.


class Always(Kernel):
    """Every proposal is accepted."""

    def __init__(self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
        def accept(log_ratio: Tensor, proposal: Tensor, *_: object) -> tuple[Tensor, Outcome]:
            return proposal, Outcome(torch.ones(len(proposal)), torch.ones(len(proposal)))

        for module in ("hmc", "metropolis"):
            monkeypatch.setattr(f"equiflow.samplers.{module}.metropolis", accept)
        self.kernel, self.action = kernel, kernel.action

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        return self.kernel.update(phi, generator)


class WithoutJacobian(LatentAction):
    """`S(f(z)) - log r(z) - log N`, the determinant of the flow forgotten."""

    def configurations(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        phi, log_weight = super().configurations(noise)
        _, log_det = self.flow.transform_and_log_det(self.flow.prior.colour(noise))
        return phi, log_weight - log_det


def without_jacobian(action: Action) -> LatentHMC:
    kernel = LatentHMC(flow_on(action.lattice), action, step_size=0.9, trajectory_length=1.8)
    kernel.hmc.action = WithoutJacobian(kernel.latent.flow, action)
    return kernel


def bonds_of(factor: float) -> Callable:
    def bonds(phi: Tensor, generator: torch.Generator | None) -> Tensor:
        products = torch.stack([phi * phi.roll(-1, mu) for mu in range(1, phi.dim())], 1)
        return torch.rand(products.shape, generator=generator) < -torch.expm1(-factor * products.clamp(min=0))

    return bonds


@pytest.mark.parametrize("name", ["HMC", "HMC, Omelyan", "independence", "latent HMC"])
def test_acceptance_without_the_ratio_is_seen(name, monkeypatch):
    assert invariance_pvalue(Always(KERNELS[name](CHAIN), monkeypatch), 6_000) < 1e-4


def test_a_missing_jacobian_is_seen():
    assert invariance_pvalue(without_jacobian(CHAIN), 10_000) < 1e-4


@pytest.mark.parametrize(("kernel", "factor"), [(SwendsenWang, 2.0), (Wolff, 8.0)])
def test_a_wrong_bond_probability_is_seen(kernel, factor, monkeypatch):
    monkeypatch.setattr("equiflow.samplers.cluster.bonds", bonds_of(factor))
    assert invariance_pvalue(kernel(CHAIN), 40_000) < 1e-4


def test_neighbours_moved_at_once_are_seen():
    kernel = LocalMetropolis(CHAIN, width=0.8)
    kernel._colours = torch.zeros(3, dtype=torch.int64)
    assert invariance_pvalue(kernel, times=3) < 1e-4


def test_a_splitting_that_is_not_symmetric_is_seen():
    lopsided = Integrator("lopsided", (0.45, 0.5, 0.05), (0.5, 0.5))
    kernel = HMC(CHAIN, step_size=0.8, trajectory_length=1.6, integrator=lopsided)
    assert balance_pvalue(kernel) < 1e-4


# Integrators.


def endpoint(integrator: Integrator, action: Action, n: int) -> Tensor:
    phi, momentum = 0.5 * configurations(action.lattice, 16), configurations(action.lattice, 16, seed=1)
    return torch.cat(integrator(action, phi, momentum, 1.0 / n, n))


@given(lattices(max_volume=30), seeds)
def test_omelyan_is_reversible(lattice, seed):
    action, phi = Phi4(lattice, m2=-1.0, lam=0.5), 0.5 * configurations(lattice, seed=seed)
    momentum = configurations(lattice, len(phi), seed=7)

    def round_trip(integrator: Integrator) -> float:
        there, p = integrator(action, phi, momentum, 0.12, 9)
        back, q = integrator(action, there, -p, 0.12, 9)
        return max(float((back - phi).abs().max()), float((q + momentum).abs().max()))

    assert round_trip(OMELYAN) < 1e-12
    assert round_trip(Integrator("lopsided", (0.2, 0.5, 0.3), (0.5, 0.5))) > 1e-5


@pytest.mark.parametrize("integrator", [LEAPFROG, OMELYAN], ids=lambda i: i.name)
def test_integrators_are_of_the_second_order(integrator):
    action = Phi4(Lattice((3, 4)), m2=-1.0, lam=1.0)
    one, two, four = (endpoint(integrator, action, n) for n in (20, 40, 80))
    order = math.log2(float((one - two).norm() / (two - four).norm()))
    assert order == pytest.approx(2, abs=0.1)
    # Kicks that do not add up to one solve other equations: nothing to converge to.
    short = Integrator("short", tuple(0.95 * kick for kick in integrator.kicks), integrator.drifts)
    assert float((endpoint(short, action, 80) - four).norm()) > 100 * float((two - four).norm())


def energy_error(integrator: Integrator, gradients: int) -> float:
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=1.0)
    phi, momentum = 0.5 * configurations(action.lattice, 64), configurations(action.lattice, 64, seed=1)
    n, hmc = gradients // len(integrator.drifts), HMC(action)
    change = hmc.energy(*integrator(action, phi, momentum, 1.0 / n, n)) - hmc.energy(phi, momentum)
    return float(change.square().mean().sqrt())


def test_omelyan_has_the_smaller_error_for_as_many_gradients():
    assert energy_error(OMELYAN, 20) < 0.5 * energy_error(LEAPFROG, 20)
    other = Integrator("not of minimum norm", (0.25, 0.5, 0.25), (0.5, 0.5))
    assert energy_error(OMELYAN, 20) < 0.5 * energy_error(other, 20)


# Local updates.


@given(lattices(max_volume=48))
def test_no_neighbours_share_a_colour(lattice):
    colour = colours(lattice)
    assert int(colour.max()) < 3
    for axis, side in enumerate(lattice.shape):
        assert side == 1 or bool((colour != colour.roll(1, axis)).all())


@given(lattices(max_volume=30), seeds)
def test_the_change_of_a_site_is_that_of_the_action(lattice, seed):
    action = Phi4(lattice, m2=-1.3, lam=0.7)
    phi, proposal = configurations(lattice, 2, seed), configurations(lattice, 2, seed + 1)
    change = LocalMetropolis(action)._change(phi, proposal)
    site = (slice(None), *(seed % side for side in lattice.shape))
    moved = phi.clone()
    moved[site] = proposal[site]
    torch.testing.assert_close(change[site], action(moved) - action(phi), atol=1e-10, rtol=1e-10)


# Chains.


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
    # It is measured once for a flow, and anew for another one.
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
    # What it has drawn is judged by the weight it ended with, not accepted like a first proposal.
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
    class Elsewhere:
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
    # What a sum in float32 would have lost is not small beside the energy changes of a trajectory.
    assert float((action(phi).double() - action(phi.double())).abs().max()) > 0.05


def test_local_and_latent_updates_are_tuned():
    target = 0.6
    local = LocalMetropolis(CHAIN, target_acceptance=target)
    latent = LatentHMC(coarse_flow(CHAIN.lattice), CHAIN, target_acceptance=target, trajectory_length=3.0)
    for kernel in (local, Alternate(latent)):
        chain = kernel.sample(20, n_chains=100, n_thermalisation=60, certify=0, generator=generator())
        assert chain.acceptance_rate.mean == pytest.approx(target, abs=0.1)
        assert chain.kernel.is_tuned


def test_stuck_hmc_is_seen_behind_a_kernel_that_moves():
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)
    kernel = Alternate(SwendsenWang(action), HMC(action, step_size=1.5))
    with pytest.raises(RuntimeError, match="accepted no trajectory"):
        kernel.sample(10, n_chains=8, generator=generator())


def test_an_update_leaves_its_argument_alone():
    phi = exact_samples(CHAIN, 50)
    before = phi.clone()
    for make in EVERY.values():
        make(CHAIN).update(phi, generator())
    assert torch.equal(phi, before)


def test_kernels_of_different_actions_do_not_mix():
    with pytest.raises(ValueError, match="share one action"):
        Alternate(HMC(CHAIN), Wolff(Phi4(Lattice((3,)), m2=-1.0, lam=0.8)))
    with pytest.raises(ValueError, match="share one action"):
        Alternate()


def test_kernels_of_different_flows_do_not_mix():
    one, other = coarse_flow(CHAIN.lattice), coarse_flow(CHAIN.lattice)
    with pytest.raises(ValueError, match="share one flow object, got 2"):
        Alternate(HMC(CHAIN), LatentHMC(one, CHAIN), IndependenceStep(other, CHAIN))
    assert Alternate(HMC(CHAIN), LatentHMC(one, CHAIN), IndependenceStep(one, CHAIN)).flow is one


class Doubled(Phi4):
    def forward(self, phi: Tensor) -> Tensor:
        return 2 * super().forward(phi)


@pytest.mark.parametrize("kernel", [SwendsenWang, Wolff, LocalMetropolis])
def test_what_is_made_for_phi4_refuses_other_actions(kernel):
    with pytest.raises(TypeError, match="changes the action of Phi4"):
        kernel(Doubled(Lattice((3,)), m2=1.0, lam=1.0))


def test_bad_starts_are_refused():
    chain = HMC(CHAIN).sample(2, n_chains=2, n_thermalisation=5, generator=generator())
    with pytest.raises(ValueError, match="got both"):
        HMC(CHAIN).sample(2, start=chain, initial=chain.samples[-1])
    with pytest.raises(ValueError, match="not tuned"):
        LocalMetropolis(CHAIN).sample(2, start=chain)
    assert LocalMetropolis(CHAIN, width=1.0).sample(2, start=chain).samples.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="without log weights"):
        IndependenceMetropolis(flow_on(CHAIN.lattice), CHAIN).sample(2, start=chain, certify=0)


@pytest.mark.parametrize("options", [{"width": 0.0}, {"width": math.nan}, {"target_acceptance": 1.0}])
def test_bad_widths_are_refused(options):
    with pytest.raises(ValueError, match="width"):
        LocalMetropolis(CHAIN, **options)
