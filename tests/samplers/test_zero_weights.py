"""Configurations of zero density have the weight 0: half of a free field, behind a wall, in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Alternate,
    Chain,
    Ensemble,
    EquivariantCNF,
    FreeField,
    FreeScalar,
    IndependenceMetropolis,
    IndependenceStep,
    Lattice,
    OrbitConvField,
    Solver,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.samplers import LatentAction
from equiflow.theories.scalar.observables import magnetisation, phi_squared
from tests.support.updates import generator

LATTICE = Lattice((2, 3))


class Half(FreeScalar):
    """A free field whose density is zero where its mean is negative."""

    def forward(self, phi: Tensor) -> Tensor:
        return torch.where(magnetisation(phi) > 0, super().forward(phi), math.inf)


ACTION = Half(LATTICE, m2=1.0)
WHOLE = FreeScalar(LATTICE, m2=1.0)
#: variance of the magnetisation of the whole free field, that of the zero mode
VARIANCE = 1 / (2 * 1.0 * LATTICE.volume)


@cache
def flow() -> EquivariantCNF:
    """Return a flow with zero weights, whose model is a free field with another mass."""
    field = OrbitConvField(LATTICE, n_frequencies=1, n_time_modes=1)
    prior = FreeField(LATTICE, m2=0.8)
    return EquivariantCNF(LATTICE, vector_field=field, prior=prior, solver=Solver("euler", steps=1)).double()


def half_normal_mean() -> float:
    return math.sqrt(2 * VARIANCE / math.pi)


def root(phi: Tensor) -> Tensor:
    """Return an observable that is NaN where the density is zero."""
    return magnetisation(phi).sqrt()


def root_mean() -> float:
    """Return `<sqrt M>` of a half-normal M."""
    return (2 * VARIANCE) ** 0.25 * math.gamma(0.75) / math.sqrt(math.pi)


def check(source: Ensemble | Chain) -> None:
    truths = {magnetisation: half_normal_mean(), root: root_mean()}
    truths[phi_squared] = float(WHOLE.mode_variance().mean())
    for observable, truth in truths.items():
        estimate = source.mean(observable)
        assert abs(estimate.sigmas_from(truth)) < 4
        assert estimate.total_error < 0.05 * truth


@pytest.mark.parametrize("betas", [0, 1, 4])
def test_weighted_samples_of_half_a_field(betas):
    if betas:
        ensemble = annealed_importance_sample(flow(), ACTION, 4000, betas=betas, generator=generator())
    else:
        ensemble = importance_sample(flow(), ACTION, 4000, generator=generator())
    fraction = float(ensemble.log_weight.isneginf().double().mean())
    assert fraction == pytest.approx(0.5, abs=0.05)
    assert not ensemble.log_q.isnan().any()
    truth = WHOLE.log_z() - math.log(2)
    assert abs(ensemble.log_z().sigmas_from(truth)) < 4
    assert abs(ensemble.log_z().sigmas_from(WHOLE.log_z())) > 6
    check(ensemble)
    whole = importance_sample(flow(), WHOLE, 4000, generator=generator())
    if not betas:
        # Half of the samples carry as many effective ones each.
        halves = ensemble.effective_sample_size(), whole.effective_sample_size()
        assert abs(halves[0].mean - 0.5 * halves[1].mean) < 4 * (halves[0].error + halves[1].error)
        means, fluctuations = ensemble.mean_and_fluctuations(lambda phi: root(phi)[:, None])
        assert float(means) == pytest.approx(ensemble.mean(root).mean)
        assert float(fluctuations.mean()) == pytest.approx(0, abs=1e-12)


def test_chains_of_half_a_field():
    sampler = IndependenceMetropolis(flow(), ACTION)
    chain = sampler.sample(300, n_chains=32, batch_size=3200, generator=generator())
    check(chain)
    assert not chain.log_weight.isinf().any()
    # A proposal has a weight in half of the cases, and then the ratio of the weights decides as before.
    whole = IndependenceMetropolis(flow(), WHOLE).sample(300, n_chains=32, generator=generator(1))
    assert chain.acceptance_rate.mean == pytest.approx(0.5 * whole.acceptance_rate.mean, abs=0.02)
    assert chain.acceptance_rate.systematic < 1e-9
    mixed = Alternate(IndependenceStep(flow(), ACTION), HMC(ACTION, step_size=0.3, trajectory_length=0.9))
    check(mixed.sample(100, n_chains=64, n_thermalisation=10, generator=generator()))


def test_a_chain_waits_at_its_first_proposal_with_a_weight():
    ensemble = importance_sample(flow(), WHOLE, 12, certify=0, generator=generator())
    log_weight = torch.zeros(12, dtype=torch.float64)
    log_weight[:4] = -math.inf  # the first two proposals of each of two chains
    log_weight[6:] = -math.inf
    given = replace(ensemble, log_weight=log_weight)
    chain = IndependenceMetropolis.from_ensemble(given, n_chains=2, generator=generator(1))
    assert torch.equal(chain.samples, ensemble.phi[4:6].expand(6, 2, *LATTICE.shape))
    assert torch.equal(chain.log_weight, torch.zeros(6, 2, dtype=torch.float64))
    odd = torch.full_like(log_weight, -math.inf)
    odd[3] = 0.0
    with pytest.raises(ValueError, match="2 of 3 chains got no proposal whose weight is not zero, of 4 each"):
        IndependenceMetropolis.from_ensemble(replace(given, log_weight=odd), n_chains=3)


def test_the_path_starts_from_the_flow_also_where_the_target_has_no_density():
    noise = torch.randn(64, *LATTICE.shape, generator=generator(), dtype=torch.float64)
    white = LatentAction(flow(), ACTION, beta=0.0)(noise)
    torch.testing.assert_close(white, 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2)))
    assert int(LatentAction(flow(), ACTION, beta=0.5)(noise).isinf().sum()) > 10
