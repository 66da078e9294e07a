"""Stochastic flows: Jarzynski's equality in both directions, against quadrature, and the counter-examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    MCLMC,
    Action,
    CheckpointError,
    EquivariantCNF,
    Flow,
    FreeField,
    Kernel,
    Lattice,
    LocalMetropolis,
    Phi4,
    Solver,
    StandardNormal,
    StochasticFlow,
    geometric_path,
    stochastic_importance_sample,
)
from equiflow.flows import journeys, legs
from equiflow.flows.journeys import State
from equiflow.oracles import quadrature
from equiflow.statistics import Estimate, log_mean_exp, mean_of_series, weighted_mean
from equiflow.theories.scalar.observables import phi_squared
from tests.samplers.test_invariance import EVERY
from tests.support.invariance import exact_samples
from tests.support.strategies import small_flow
from tests.support.updates import CHAIN, SITE

ACTIONS = {"1 site": SITE, "3 sites": CHAIN}
TOO_SMALL = [("1 site", "adjusted MCLMC"), ("1 site", "all in turn")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior_on(lattice: Lattice, m2: float = 0.2) -> FreeField:
    return FreeField(lattice, m2=m2).double()


def couplings_to(action: Phi4, m2: float = 0.2) -> list[Action]:
    """Return a path of phi^4 actions from a free one, which all kernels can update."""
    return [Phi4(action.lattice, m2=m2 + b * (action.m2 - m2), lam=b * action.lam) for b in (0.3, 0.6)] + [
        action
    ]


@cache
def layer(shape: tuple[int, ...], seed: int = 0, solver: Solver = Solver("rk4", steps=4)) -> Flow:  # noqa: B008
    """Return a layer with random weights, whose log-determinants matter."""
    return small_flow(shape, prior=prior_on(Lattice(shape)), scale=0.1, seed=seed, solver=solver)


def hmc(action: Action) -> Kernel:
    return HMC(action, step_size=0.4, trajectory_length=0.8)


def short(action: Action) -> Kernel:
    return HMC(action, step_size=0.2, trajectory_length=0.2)


def stochastic(
    action: Phi4 = CHAIN,
    kernel: Callable[[Action], Kernel] | None = hmc,
    *,
    n_updates: int | Sequence[int] = (1, 1, 1),
    with_layers: bool = True,
    m2: float = 0.2,
) -> StochasticFlow:
    """Return a path of three actions from a free field with random layers, of which the second is missing."""
    shape = action.lattice.shape
    layers = [layer(shape), None, layer(shape, 1)] if with_layers else None
    prior, path = prior_on(action.lattice, m2), couplings_to(action, m2)
    return StochasticFlow(prior, path, layers=layers, kernel=kernel, n_updates=n_updates)


def sigmas(flow: StochasticFlow, n: int = 3000, *, resample: float | None = None) -> tuple[float, float]:
    """Return the deviations of log Z and of `<phi^2>` from quadrature, in standard errors."""
    ensemble = stochastic_importance_sample(flow, n, resample=resample, certify=0, generator=generator())
    exact = quadrature(flow.target)
    log_z = ensemble.log_z()
    assert log_z.error < 0.08
    return log_z.sigmas_from(exact.log_z), ensemble.mean(phi_squared).sigmas_from(exact.phi_squared)


@pytest.mark.parametrize(
    ("site", "kernel"),
    # A direction needs two numbers.
    [(site, name) for site in ACTIONS for name in EVERY if (site, name) not in TOO_SMALL],
)
def test_every_kernel_has_log_z_and_averages_of_quadrature(site, kernel):
    flow = stochastic(ACTIONS[site], EVERY[kernel])
    assert max(map(abs, sigmas(flow, 1500))) < 4


@pytest.mark.parametrize("kernel", ["HMC", "local", "HMC and Wolff"])
def test_resampling_leaves_them_as_they_are(kernel):
    assert max(map(abs, sigmas(stochastic(kernel=EVERY[kernel]), resample=0.9))) < 4


@pytest.mark.parametrize("with_layers", [False, True])
def test_a_geometric_path_has_them_too(with_layers):
    prior = prior_on(CHAIN.lattice)
    layers = [layer((3,)), layer((3,), 1)] if with_layers else None
    flow = StochasticFlow(prior, geometric_path(prior, CHAIN, 2), layers=layers, kernel=hmc, n_updates=[1, 2])
    assert max(map(abs, sigmas(flow))) < 4


# Planted mistakes.


class WithoutLogDet(Flow):
    """A flow that forgets its log-determinant."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.space, flow.prior)
        self.flow = flow

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        phi, log_det = self.flow.transform_and_log_det(z)
        return phi, torch.zeros_like(log_det)

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow.inverse_and_log_det(phi)
        return z, torch.zeros_like(log_det)


def without_log_det() -> StochasticFlow:
    layers = [WithoutLogDet(layer((3,))), None, layer((3,), 1)]
    return StochasticFlow(prior_on(CHAIN.lattice), couplings_to(CHAIN), layers=layers, kernel=hmc)


def test_a_work_without_the_log_determinant_is_seen():
    assert abs(sigmas(without_log_det())[0]) > 6


def test_weights_at_the_action_before_the_update_are_seen(monkeypatch):
    move = legs.PlainLeg.move

    def stale(self: legs.PlainLeg, state: State, generator: torch.Generator | None) -> State:
        return move(self, state, generator)[0], state[1]

    monkeypatch.setattr(legs.PlainLeg, "move", stale)
    assert abs(sigmas(stochastic(kernel=short))[0]) > 6


def test_updates_of_another_action_are_seen():
    flow = stochastic(n_updates=(4, 4, 0))
    for leg in flow.legs:
        leg.kernel = hmc(CHAIN)
    assert abs(sigmas(flow)[0]) > 6


def test_weights_that_are_kept_after_resampling_are_seen(monkeypatch):
    resampled = journeys.resampled

    def kept(log_weight: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rows, _ = resampled(log_weight, generator)
        return rows, log_weight[rows]

    flow = stochastic(n_updates=(1, 1, 0))
    assert abs(sigmas(flow, resample=1.0)[0]) < 4
    monkeypatch.setattr(journeys, "resampled", kept)
    assert abs(sigmas(flow, resample=1.0)[0]) > 6


# The way back.


def back(flow: StochasticFlow, n: int = 3000) -> Tensor:
    """Return the log weights of exact samples of the target that are driven back."""
    return flow.log_weights_back(exact_samples(flow.target, n), generator=generator(1))


def inverse_z(log_weight: Tensor) -> Estimate:
    """Return the estimate of `-log Z` of the way back."""
    return log_mean_exp(-log_weight)


@pytest.mark.parametrize(
    ("site", "kernel"),
    [("1 site", "HMC"), ("1 site", "local"), ("3 sites", "HMC"), ("3 sites", "all in turn")],
)
def test_the_way_back_has_log_z_of_quadrature(site, kernel):
    # From a narrow prior on, the target is in the tails of nothing.
    estimate = inverse_z(back(stochastic(ACTIONS[site], EVERY[kernel], m2=1.0)))
    assert estimate.error < 0.06
    assert abs(estimate.sigmas_from(-quadrature(ACTIONS[site]).log_z)) < 4


def test_a_way_back_without_the_log_determinant_is_seen():
    assert abs(inverse_z(back(without_log_det())).sigmas_from(-quadrature(CHAIN).log_z)) > 6


@pytest.mark.parametrize("kernel", ["HMC", "adjusted MCLMC", "Wolff", "latent HMC", "independence"])
def test_the_work_of_both_directions_is_in_detailed_balance(kernel):
    """Crooks 1999: `P_back(log w) = P(log w) w / Z`, for updates in detailed balance."""
    forth, there = stochastic(CHAIN, EVERY[kernel]), stochastic(CHAIN, EVERY[kernel])
    assert abs(crooks(forth, there)) < 4


def test_ways_with_other_updates_are_seen():
    assert abs(crooks(stochastic(), stochastic(n_updates=(0, 0, 0)), 8000)) > 6


def crooks(forth: StochasticFlow, there: StochasticFlow, n: int = 3000) -> float:
    """Return the deviation of `<log w>` of the way back from `<w log w> / Z` in combined errors."""
    log_weight = forth.travel(n, generator=generator()).log_weight
    expected = weighted_mean(log_weight, log_weight)
    found = mean_of_series(back(there, n)[None])
    return (found.mean - expected.mean) / (found.error**2 + expected.error**2) ** 0.5


# Solver errors.


def test_the_solver_error_of_the_layers_is_certified():
    def along(solver: Solver, kernel: Callable[[Action], Kernel] | None = None) -> StochasticFlow:
        layers = [layer((3,), 0, solver), None, layer((3,), 1, solver)]
        return StochasticFlow(prior_on(CHAIN.lattice), couplings_to(CHAIN), layers=layers, kernel=kernel)

    def log_z(flow: StochasticFlow) -> float:
        return stochastic_importance_sample(flow, 1000, certify=0, generator=generator()).log_z().mean

    rough, fine = along(Solver("euler", steps=16)), along(Solver("rk4", steps=4))
    certificate = rough.certificate(1000, generator=generator())  # of the same samples, without updates
    shift = log_z(fine) - log_z(rough)
    assert abs(shift) > 1e-3
    assert certificate.error_factor * certificate.log_z_shift == pytest.approx(shift, rel=0.1)
    assert abs(fine.certificate(200, generator=generator()).log_z_shift) < 1e-4
    moved = along(Solver("euler", steps=16), hmc)
    ensemble = stochastic_importance_sample(moved, 1000, certify=1000, generator=generator())
    assert 0.1 * abs(shift) < ensemble.log_z().systematic < 10 * abs(shift)
    assert stochastic(with_layers=False).certificate(8) is None


def test_a_single_layer_is_importance_sampling():
    flow = StochasticFlow(prior_on(CHAIN.lattice), [CHAIN], layers=[layer((3,))])
    ensemble = stochastic_importance_sample(flow, 200, batch_size=64, certify=0, generator=generator())
    assert not ensemble.annealed
    torch.testing.assert_close(ensemble.log_q, layer((3,)).log_prob(ensemble.phi), atol=1e-4, rtol=0)


# Files.


def test_a_saved_flow_draws_the_same_samples(tmp_path):
    prior = FreeField(CHAIN.lattice, m2=0.7).double()
    made = {"layers": [layer((3,)), None], "kernel": hmc, "n_updates": [2, 1]}
    flow = StochasticFlow(prior, geometric_path(prior, CHAIN, 2), **made)
    with torch.no_grad():
        flow.prior.log_sigma += 0.1
    flow.about["training"] = "none"
    flow.save(tmp_path / "flow.pt")
    other = FreeField(CHAIN.lattice)
    loaded = StochasticFlow.load(
        tmp_path / "flow.pt", prior=other, actions=geometric_path(other, CHAIN, 2), kernel=hmc
    )
    drawn = [one.travel(20, resample=0.9, generator=generator()) for one in (flow, loaded)]
    assert torch.equal(drawn[0].log_weight, drawn[1].log_weight)
    assert torch.equal(drawn[0].state[0], drawn[1].state[0])
    assert loaded.about == {"training": "none"}
    assert str(loaded) == str(flow) == "2 legs, 1 of them with a layer, updates 2, 1: HMC"
    with pytest.raises(TypeError, match="Give the path"):
        StochasticFlow.load(tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match="made for the path"):
        StochasticFlow.load(tmp_path / "flow.pt", actions=couplings_to(CHAIN)[1:])
    with pytest.raises(CheckpointError, match="holds"):
        EquivariantCNF.load(tmp_path / "flow.pt")


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": lambda action: MCLMC(action, step_size=0.1)}, ValueError, "does not leave exp"),
        ({"kernel": lambda action: HMC(CHAIN, step_size=0.1)}, ValueError, "another action"),
        ({"kernel": lambda action: 3}, TypeError, "such as HMC"),
        ({"layers": [None]}, ValueError, "one layer and one number"),
        ({"n_updates": [1, 1]}, ValueError, "one layer and one number"),
        ({"n_updates": -1}, ValueError, "n_updates must be"),
        ({"layers": [layer((1,)), None, None]}, ValueError, "a layer on"),
        ({"layers": [layer((3,)), 2, None]}, TypeError, "layers must be"),
        ({"actions": [SITE]}, ValueError, "an action on"),
        ({"actions": []}, ValueError, "at least one action"),
        ({"actions": CHAIN}, TypeError, "Give a list"),
        ({"prior": CHAIN}, TypeError, "prior must be"),
        ({"prior": StandardNormal(CHAIN.lattice), "layers": [layer((3,))] * 3}, ValueError, "one space"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, error, message):
    parts = {"prior": prior_on(CHAIN.lattice), "actions": couplings_to(CHAIN)} | options
    with pytest.raises(error, match=message):
        StochasticFlow(**parts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resample": 0.0}, ValueError, "resample must be"),
        ({"resample": 1.1}, ValueError, "resample must be"),
        ({"resample": "often"}, TypeError, "resample must be"),
        ({"n_samples": -1}, ValueError, "n_samples must be"),
    ],
)
def test_wrong_options_of_travel_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        stochastic().travel(**{"n_samples": 3} | options)


def test_kernels_are_tuned_on_other_samples_first():
    flow = stochastic(kernel=lambda action: LocalMetropolis(action))
    with pytest.raises(ValueError, match="is not tuned"):
        flow.travel(10)
    flow.tune(200, n_tuning=20, generator=generator())
    assert all(leg.kernel.is_tuned for leg in flow.legs)
    assert max(map(abs, sigmas(flow))) < 4
    with pytest.raises(ValueError, match="n_tuning must be"):
        flow.tune(10, n_tuning=0)
