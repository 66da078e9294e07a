"""Microcanonical kernels: tuning, the exactness of the adjusted one, and the measured bias of the other."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from equiflow import (
    HMC,
    MCLMC,
    OMELYAN,
    AdjustedMCLMC,
    Alternate,
    Chain,
    FreeScalar,
    Lattice,
    Phi4,
    Wolff,
    measure,
)
from equiflow.analysis import Observable
from equiflow.oracles import transfer_matrix
from equiflow.samplers import LEAPFROG
from equiflow.samplers.mclmc import Microcanonical, widest
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.observables import phi_squared
from tests.support.oracles import free_samples
from tests.support.updates import SITE, generator

ACTION = Phi4(Lattice((3, 3)), m2=-4.0, lam=6.975)
BOTH = pytest.mark.parametrize("kernel", [MCLMC, AdjustedMCLMC])


@cache
def chain_of(step: float) -> Chain:
    kernel = MCLMC(ACTION, step_size=step, decoherence_length=1.0)
    return kernel.sample(1200, n_chains=256, n_thermalisation=20, generator=generator(1))


@cache
def truth() -> float:
    return transfer_matrix(ACTION).phi_squared


def test_the_bias_of_unadjusted_averages_vanishes_with_the_square_of_the_step():
    errors = {step: chain_of(step).mean(phi_squared) for step in (0.3, 0.15, 0.075)}
    biases = {step: estimate.mean - truth() for step, estimate in errors.items()}
    assert abs(biases[0.3]) > 10 * errors[0.3].error
    for coarse, fine in ((0.3, 0.15), (0.15, 0.075)):
        error = math.hypot(errors[coarse].error, 4 * errors[fine].error)
        assert abs(biases[coarse] - 4 * biases[fine]) < 4 * error + 0.15 * abs(biases[coarse])
    # Not even half of it is left after two halvings.
    assert abs(biases[0.075]) + 3 * errors[0.075].error < 0.2 * abs(biases[0.3])


def test_the_bias_is_measured_by_halving_the_step():
    chain = chain_of(0.15)
    found = chain.kernel.bias(chain, phi_squared, generator=generator(2))
    exact = chain.mean(phi_squared).mean - truth()
    assert abs(found.mean - exact) < 4 * found.error + 0.15 * abs(exact)
    assert abs(found.mean) > 3 * found.error


NOTE = "unadjusted: has a bias of step size; AdjustedMCLMC has none"


def test_unadjusted_averages_say_so_once_in_every_print():
    unadjusted = MCLMC(ACTION, step_size=0.2, decoherence_length=1.0)
    for kernel in (unadjusted, Alternate(unadjusted, HMC(ACTION, step_size=0.1))):
        chain = kernel.sample(60, n_chains=8, n_thermalisation=0, generator=generator(1))
        assert NOTE in chain.mean(phi_squared).note
        measured = measure(chain, action=ACTION, observables=[Observable("square", phi_squared)])
        assert all(NOTE in estimate.note for estimate in (*measured.scalars().values(), *measured.correlator))
        for printed in (measured, chain.mean(phi_squared), measured.binder):
            assert str(printed).count(NOTE) == 1
        assert NOTE in chain.followed_by(kernel.sample(4, start=chain, generator=generator(2))).note


@pytest.mark.parametrize("kernel", [AdjustedMCLMC(ACTION, step_size=0.2), HMC(ACTION, step_size=0.1)])
def test_exact_averages_do_not_say_so(kernel):
    chain = kernel.sample(60, n_chains=8, n_thermalisation=20, generator=generator(1))
    assert "unadjusted" not in chain.mean(phi_squared).note
    assert "unadjusted" not in str(measure(chain))


@pytest.mark.parametrize(
    ("integrator", "step"), [(LEAPFROG, 0.2), (OMELYAN, 0.35)], ids=["leapfrog", "omelyan"]
)
def test_adjusted_averages_are_exact_at_any_step(integrator, step):
    kernel = AdjustedMCLMC(ACTION, step_size=step, trajectory_length=1.2, integrator=integrator)
    chain = kernel.sample(1200, n_chains=256, n_thermalisation=20, generator=generator(1))
    assert chain.acceptance_rate.mean < 0.97  # the step is large enough for the adjustment to matter
    estimate = chain.mean(phi_squared)
    assert estimate.error < 3e-4
    assert abs(estimate.sigmas_from(truth())) < 4


def test_tuning_reaches_the_target_acceptance():
    for target in (0.7, 0.95):
        kernel = AdjustedMCLMC(ACTION, target_acceptance=target)
        chain = kernel.sample(60, n_chains=64, generator=generator())
        assert chain.acceptance_rate.mean == pytest.approx(target, abs=0.05)
        assert chain.kernel.is_tuned
        assert chain.step_size == chain.kernel.step_size


def test_tuning_reaches_the_variance_of_the_energy():
    found = {}
    for variance in (5e-3, 5e-5):
        chain = MCLMC(ACTION, energy_variance=variance).sample(2, n_chains=64, generator=generator())
        kernel = MCLMC(ACTION, decoherence_length=chain.kernel.length, first_step=chain.step_size)
        outcomes, phi = [], chain.samples[-1]
        for _ in range(40):
            phi, outcome = kernel.update(phi, generator(len(outcomes)))
            outcomes.append(outcome.error)
        found[variance] = sum(outcomes) / len(outcomes)
    for variance, error in found.items():
        assert error == pytest.approx(variance, rel=0.35)


@BOTH
def test_the_length_is_tuned_to_the_widest_direction(kernel):
    action = FreeScalar(Lattice((6,)), m2=0.25)
    chain = kernel(action).sample(2, n_chains=128, generator=generator())
    width = float(action.mode_variance().max().sqrt())
    assert chain.kernel.length == pytest.approx(kernel.widths * width, rel=0.2)


def test_the_widest_direction_is_that_of_the_covariance():
    action = FreeScalar(Lattice((3, 4)), m2=0.05)
    phi = free_samples(action, 4000)
    assert widest(phi[:128]) == pytest.approx(float(action.mode_variance().max().sqrt()), rel=0.2)
    assert widest(phi[:1]) == pytest.approx(float(phi[0].square().mean().sqrt()))


@BOTH
def test_given_steps_and_lengths_are_kept(kernel):
    name = "decoherence_length" if kernel is MCLMC else "trajectory_length"
    tuned = kernel(ACTION, step_size=0.1, **{name: 0.7})
    assert tuned.is_tuned
    chain = tuned.sample(2, n_chains=4, n_thermalisation=4, generator=generator())
    assert (chain.kernel.step_size, chain.kernel.length) == (0.1, 0.7)
    half = kernel(ACTION, step_size=0.1).sample(2, n_chains=16, n_thermalisation=30, generator=generator())
    assert half.step_size == 0.1
    assert half.kernel.length != 0.7


def test_trajectories_that_overflow_are_rejected_and_shorten_the_step():
    kernel = MCLMC(ACTION, first_step=0.1, decoherence_length=0.5)
    phi = torch.full((4, 3, 3), 0.3)
    phi[1] = 1e200
    moved, outcome = kernel.update(phi, generator())
    assert outcome.accepted.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert torch.equal(moved[1], phi[1])
    assert bool(moved[[0, 2, 3]].isfinite().all())
    assert math.isfinite(outcome.error)
    nowhere = kernel.update(torch.full((4, 3, 3), 1e200), generator())[1]
    assert kernel.adapted(nowhere, 0)._log_step < kernel._log_step


@BOTH
def test_microcanonical_kernels_alternate_with_others(kernel):
    both = Alternate(kernel(ACTION), Wolff(ACTION), HMC(ACTION))
    chain = both.sample(20, n_chains=64, n_thermalisation=60, generator=generator())
    assert chain.kernel.is_tuned
    assert isinstance(chain.kernel.kernels[0], Microcanonical)


@BOTH
def test_a_single_number_has_no_direction_to_turn(kernel):
    with pytest.raises(ValueError, match="two numbers"):
        kernel(SITE)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (MCLMC, {"step_size": 0.0}),
        (MCLMC, {"decoherence_length": math.inf}),
        (MCLMC, {"energy_variance": 0.0}),
        (MCLMC, {"first_step": math.nan}),
        (AdjustedMCLMC, {"trajectory_length": -1.0}),
        (AdjustedMCLMC, {"target_acceptance": 1.0}),
    ],
)
def test_bad_parameters_are_refused(kernel, options):
    with pytest.raises(ValueError, match=r"positive|target_acceptance"):
        kernel(ACTION, **options)


class Steep(Phi4):
    """An action whose gradient is too large."""

    def grad(self, phi):
        return 1.3 * super().grad(phi)


class Deaf(Action):
    """An action whose gradient forgets half of the neighbours."""

    def forward(self, phi):
        kinetic = sum((phi - phi.roll(1, mu).detach()).square() for mu in (1, 2))
        return (kinetic + phi.square() + phi**4).sum((1, 2))


@pytest.mark.parametrize("kind", [MCLMC, AdjustedMCLMC])
@pytest.mark.parametrize(
    "action", [Steep(Lattice((4, 4)), m2=-1.0, lam=2.0), Deaf(Lattice((4, 4)))], ids=["factor", "detached"]
)
def test_a_wrong_gradient_is_named_at_once(kind, action):
    with pytest.raises(RuntimeError, match=r"action\.grad differs from finite differences of the action by"):
        kind(action).sample(2, n_chains=4, n_thermalisation=4)


@pytest.mark.parametrize("kind", [MCLMC, AdjustedMCLMC])
def test_a_right_gradient_is_compared_once(kind, monkeypatch):
    calls = []
    monkeypatch.setattr("equiflow.samplers.mclmc.check_gradient", lambda *given: calls.append(given))
    kind(Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)).sample(3, n_chains=4, n_thermalisation=4)
    assert len(calls) == 1
