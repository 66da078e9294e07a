"""Acceptance of proposals and the tuning that follows from it."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow.samplers.acceptance import Outcome, log_step_change, mean_outcome, metropolis
from tests.support.updates import generator


def test_proposals_are_accepted_with_their_probability():
    log_ratio = torch.tensor([0.5, 0.0, math.log(0.3), -math.inf, math.nan]).repeat(20_000)
    proposal, phi = torch.ones(100_000, 2), torch.zeros(100_000, 2)
    moved, outcome = metropolis(log_ratio, proposal, phi, generator())
    assert torch.equal(moved, outcome.accepted[:, None].expand(-1, 2))
    assert outcome.probability[:5].tolist() == pytest.approx([1.0, 1.0, 0.3, 0.0, 0.0])
    rates = outcome.accepted.reshape(-1, 5).mean(0).tolist()
    assert rates == pytest.approx([1.0, 1.0, 0.3, 0.0, 0.0], abs=0.015)


def test_the_mean_of_outcomes_is_taken_chain_by_chain():
    one, other = (
        Outcome(torch.tensor(a), torch.tensor(p))
        for a, p in (([1.0, 0.0], [0.9, 0.2]), ([0.0, 0.0], [0.1, 0.4]))
    )
    mean = mean_outcome([one, other])
    assert mean.accepted.tolist() == [0.5, 0.0]
    assert mean.probability.tolist() == pytest.approx([0.5, 0.3])
    assert mean.parts == ()


def test_steps_grow_with_too_many_acceptances_and_settle():
    def change(probability: float, n: int) -> float:
        return log_step_change(Outcome(torch.ones(3), torch.full((3,), probability)), 0.8, n)

    assert change(0.95, 0) == pytest.approx(0.15)
    assert change(0.5, 0) == pytest.approx(-0.3)
    assert change(0.8, 0) == pytest.approx(0.0, abs=1e-12)
    assert 0 < change(0.95, 100) < 0.3 * change(0.95, 0)
