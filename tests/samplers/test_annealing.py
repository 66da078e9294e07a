"""Annealed importance sampling: log Z and averages by quadrature, whatever the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from equiflow import (
    HMC,
    Action,
    AugmentedFlow,
    Bridge,
    Ensemble,
    EquivariantCNF,
    ExtendedAction,
    FreeField,
    IndependenceMetropolis,
    Kernel,
    Lattice,
    Phi4,
    Solver,
    StochasticFlow,
    annealed_importance_sample,
    geometric_path,
    importance_sample,
    log_z_bridge,
    stochastic_importance_sample,
)
from equiflow.analysis import diagnose
from equiflow.oracles import quadrature
from equiflow.samplers import LatentAction
from equiflow.theories.scalar.observables import phi_squared
from tests.support.strategies import small_flow

ACTION = Phi4(Lattice((3,)), m2=-1.0, lam=0.8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def poor_flow() -> EquivariantCNF:
    prior = FreeField(ACTION.lattice, m2=0.3).double()
    return small_flow((3,), prior=prior, scale=0.3, solver=Solver("rk5", steps=3))


@cache
def annealed(n: int = 2000, **options: object) -> Ensemble:
    return annealed_importance_sample(poor_flow(), ACTION, n, generator=generator(), **options)


def coarse(action: LatentAction) -> Kernel:
    """Return HMC that rejects half of its trajectories."""
    return HMC(action, step_size=1.5, trajectory_length=1.5)


def at_the_end(action: LatentAction) -> Kernel:
    """Return HMC for the target itself, whatever beta is."""
    return HMC(LatentAction(action.flow, action.action), step_size=0.3, trajectory_length=0.9)


@pytest.mark.parametrize("options", [{"betas": 3}, {"betas": (0.0, 0.1, 0.7, 1.0), "kernel": coarse}])
def test_log_z_and_averages_are_those_of_quadrature(options):
    exact, ensemble = quadrature(ACTION), annealed(**options)
    log_z = ensemble.log_z()
    assert log_z.error < 0.06
    assert abs(log_z.sigmas_from(exact.log_z)) < 4
    assert abs(ensemble.mean(phi_squared).sigmas_from(exact.phi_squared)) < 4


def test_a_kernel_of_another_density_is_seen():
    assert abs(annealed(betas=3, kernel=at_the_end).log_z().sigmas_from(quadrature(ACTION).log_z)) > 6


def test_a_sign_of_the_weights_is_seen():
    ensemble, exact = annealed(betas=3), quadrature(ACTION)
    wrong = replace(ensemble, log_weight=-ensemble.log_weight)
    assert abs(wrong.log_z().sigmas_from(exact.log_z)) > 6
    assert abs(wrong.mean(phi_squared).sigmas_from(exact.phi_squared)) > 6


def by_hand(
    flow: EquivariantCNF, betas: Sequence[float], n: int, noise: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples and log weights of annealing as its definition says, in the noise of the flow."""
    path = [LatentAction(flow, ACTION, beta=beta) for beta in betas]
    white = flow.prior.noise(n, noise)
    phi, potential = path[0].configurations(white)
    log_weight = torch.zeros_like(potential)
    for before, after in pairwise(path):
        log_weight += (after.beta - before.beta) * potential
        if after is not path[-1]:
            white, _ = HMC(after, step_size=0.3, trajectory_length=0.9).update(white, noise)
            phi, potential = after.configurations(white)
    return phi, log_weight


def test_fixed_schedules_are_annealed_bit_for_bit():
    betas, noise = (0.0, 0.1, 0.4, 1.0), generator(3)
    with torch.no_grad():
        batches = [by_hand(poor_flow(), betas, n, noise) for n in (64, 36)]
    found = annealed_importance_sample(
        poor_flow(), ACTION, 100, betas=betas, batch_size=64, certify=0, generator=generator(3)
    )
    assert torch.equal(found.phi, torch.cat([batch[0] for batch in batches]))
    assert torch.equal(found.log_weight, torch.cat([batch[1] for batch in batches]))


def test_a_stochastic_flow_without_layers_is_annealing_bit_for_bit():
    prior, betas, noise = FreeField(ACTION.lattice, m2=0.3).double(), (0.0, 0.1, 0.4, 1.0), generator(3)
    path = [Bridge(prior, ACTION, beta=beta) for beta in betas[1:-1]] + [ACTION]
    with torch.no_grad():
        phi = prior.rsample(100, noise)
        log_weight, energy = torch.zeros(100).double(), -prior.log_prob(phi)
        for action in path:
            log_weight += energy - action(phi)
            if action is not ACTION:
                phi, _ = HMC(action, step_size=0.3, trajectory_length=0.9).update(phi, noise)
                energy = action(phi)

    def kernel(action: Action) -> Kernel:
        return HMC(action, step_size=0.3, trajectory_length=0.9)

    flow = StochasticFlow(prior, geometric_path(prior, ACTION, betas), kernel=kernel)
    found = stochastic_importance_sample(flow, 100, certify=0, generator=generator(3))
    assert torch.equal(found.phi, phi)
    assert torch.equal(found.log_weight, log_weight)
    assert found.annealed


def test_one_interval_is_importance_sampling():
    annealing, plain = (
        annealed(100, betas=1, batch_size=64),
        importance_sample(poor_flow(), ACTION, 100, batch_size=64, generator=generator()),
    )
    assert torch.equal(annealing.phi, plain.phi)
    torch.testing.assert_close(annealing.log_weight, plain.log_weight)
    torch.testing.assert_close(annealing.log_q, plain.log_q)
    assert annealing.log_z().systematic == pytest.approx(plain.log_z().systematic, rel=1e-9)


@pytest.mark.parametrize("of_both", [log_z_bridge, diagnose])
def test_weights_of_paths_are_not_compared_with_those_of_a_chain(of_both):
    flow, kernel = poor_flow(), HMC(ACTION, step_size=0.3)
    chain = kernel.sample(16, n_chains=8, n_thermalisation=10, generator=generator(2))
    with pytest.raises(ValueError, match="Give one of importance_sample"):
        of_both(flow, ACTION, annealed(64, betas=3), chain)
    for plain in (importance_sample(flow, ACTION, 64, generator=generator()), annealed(64, betas=1)):
        of_both(flow, ACTION, plain, chain)


def test_the_solver_error_of_other_weights_is_not_that_of_paths():
    of_paths, plain = annealed(64, betas=3), annealed(64, betas=1)
    assert of_paths.effective_sample_size().systematic == 0.0 < plain.effective_sample_size().systematic
    chains = [IndependenceMetropolis.from_ensemble(e, generator=generator(1)) for e in (of_paths, plain)]
    assert chains[0].acceptance_rate.systematic == 0.0 < chains[1].acceptance_rate.systematic
    # The solver error of log Z and of averages comes from the density at the end of the path.
    assert of_paths.log_z().systematic == pytest.approx(plain.log_z().systematic, rel=0.5)
    assert chains[0].mean(phi_squared).systematic > 0.0
    IndependenceMetropolis.from_ensemble(of_paths, start=chains[0])
    for proposals, start in ((plain, chains[0]), (of_paths, chains[1])):
        with pytest.raises(ValueError, match="ensembles of one kind"):
            IndependenceMetropolis.from_ensemble(proposals, start=start)


def test_weights_improve_with_the_number_of_intervals():
    ess = [annealed(800, betas=n, certify=0).effective_sample_size() for n in (1, 4, 12)]
    assert ess[0].mean < ess[1].mean < ess[2].mean - 4 * ess[2].error


def test_log_z_of_a_flow_in_phase_space_is_that_of_quadrature_too():
    flow = AugmentedFlow(ACTION.lattice, n_steps=1).double()
    extended = ExtendedAction(ACTION)
    ensemble = annealed_importance_sample(flow, extended, 2000, betas=3, generator=generator())
    log_z = ensemble.log_z()
    assert log_z.error < 0.06
    assert abs(log_z.sigmas_from(quadrature(ACTION).log_z + extended.log_z_shift)) < 4


@pytest.mark.parametrize(
    "betas", [(0.0, 1.1), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0,), (0.0, 0.8, 0.2, 1.0)]
)
def test_schedules_rise_from_zero_to_one(betas):
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        annealed(10, betas=betas)


@pytest.mark.parametrize("options", [{"betas": 0}, {"n": -1}, {"batch_size": 0}, {"certify": -1}])
def test_bad_counts_are_refused(options):
    with pytest.raises(ValueError, match="must be an integer"):
        annealed(**options)
