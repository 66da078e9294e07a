"""Solver errors of results, against plain sums over a handful of weights that two solves give."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import Certificate, Chain, Ensemble
from equiflow.flows.certificate import SolvedTwice, compare_solves
from equiflow.theories.scalar.observables import magnetisation

PHI, REFINED_PHI = [0.3, -1.2, 0.8, 2.0], [0.35, -1.1, 0.7, 2.1]
LOG_WEIGHT, REFINED_LOG_WEIGHT = [0.1, -0.9, 0.7, -1.6], [0.2, -0.7, 0.4, -1.3]


def fields(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def certificate(solver: str) -> Certificate:
    twice = SolvedTwice(
        fields(PHI), fields(LOG_WEIGHT)[:, 0], fields(REFINED_PHI), fields(REFINED_LOG_WEIGHT)[:, 0]
    )
    return compare_solves(twice, torch.zeros(4, 1), nfe=4, solver=solver, refined="finer")


def mean(phi: list[float], log_weight: list[float]) -> float:
    weights = [math.exp(value) for value in log_weight]
    return sum(w * x for w, x in zip(weights, phi, strict=True)) / sum(weights)


def log_z(phi: list[float], log_weight: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in log_weight) / len(log_weight))


def ess(phi: list[float], log_weight: list[float]) -> float:
    weights = [math.exp(value) for value in log_weight]
    return sum(weights) ** 2 / sum(w**2 for w in weights) / len(weights)


def acceptance(phi: list[float], log_weight: list[float]) -> float:
    """Return `sum_ij p_i q_j min(1, w_j / w_i)` with i drawn from the target and j from the model."""
    weights = [math.exp(value) for value in log_weight]
    pairs = [w / sum(weights) * min(1.0, other / w) for w in weights for other in weights]
    return sum(pairs) / len(weights)


@pytest.mark.parametrize(("solver", "factor"), [("dopri5(...)", 1.0), ("euler(steps=4)", 2.0)])
@pytest.mark.parametrize("result", [mean, log_z, ess, acceptance])
def test_the_solver_error_of_a_result_is_its_change_by_plain_sums(result, solver, factor):
    change = factor * abs(result(REFINED_PHI, REFINED_LOG_WEIGHT) - result(PHI, LOG_WEIGHT))
    weights = torch.zeros(16, dtype=torch.float64)
    ensemble = Ensemble(torch.zeros(16, 1), weights, weights, certificate(solver))
    chain = Chain(torch.zeros(16, 1, 1), torch.ones(15, 1), certificate=certificate(solver))
    independent = Chain(
        chain.samples, chain.acceptance, certificate=chain.certificate, log_weight=weights[:, None]
    )
    found = {
        mean: [ensemble.mean(magnetisation), chain.mean(magnetisation)],
        log_z: [ensemble.log_z()],
        ess: [ensemble.effective_sample_size()],
        acceptance: [independent.acceptance_rate],
    }
    for estimate in found[result]:
        assert estimate.systematic == pytest.approx(change, rel=1e-12)
    # Numbers that a mistake would give are others.
    assert change != pytest.approx(factor * abs(result(REFINED_PHI, LOG_WEIGHT) - result(PHI, LOG_WEIGHT)))
