"""Weights that training goes back to: only those from which it went well for some steps."""

from __future__ import annotations

import pytest
import torch

from equiflow import EquivariantCNF
from equiflow.training.refuge import Refuge
from tests.support.training import build, same, weights


def refuge_of(flow: EquivariantCNF) -> Refuge:
    return Refuge(flow, torch.optim.SGD(flow.parameters(), lr=1.0))


def moved(flow: EquivariantCNF) -> list[torch.Tensor]:
    """Change all weights, and return them."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(1.0)
    return weights(flow)


def test_weights_are_trusted_once_some_steps_from_them_on_went_well():
    flow = build()
    refuge, start, found = refuge_of(flow), weights(flow), {}
    for step in (5, 11, 15, 22):
        found[step] = moved(flow)
        refuge.keep(step, [1.0] * (step - 1))
    # Those of step 22 are on probation, those of 15 came too early to be looked at.
    assert refuge.set_back(21) == 11
    assert same(weights(flow), found[11])
    assert not same(start, found[11])
    # Later weights are on probation anew.
    moved(flow)
    refuge.keep(23, [1.0] * 22)
    assert refuge.set_back(22) == 11
    assert same(weights(flow), found[11])


def test_the_copies_stay_as_they_are_while_training_goes_on():
    flow = build()
    refuge, start = refuge_of(flow), weights(flow)
    moved(flow)
    refuge.set_back(3)
    moved(flow)
    refuge.set_back(4)
    assert same(weights(flow), start)


def test_weights_whose_gradients_have_grown_are_not_kept():
    for factor, kept in ((2.0, 22), (4.0, 11)):
        refuge = refuge_of(build())
        norms = [1.0] * 21
        refuge.keep(11, norms[:10])
        refuge.keep(22, norms)
        refuge.keep(33, [*norms, *[factor] * 11])
        assert refuge.trusted["step"] == kept


def test_growth_is_the_median_of_a_few_gradients_against_that_of_the_refuge():
    refuge = refuge_of(build())
    assert refuge.growth([5.0] * 40) == 0.0  # nothing to compare with at the start
    for step in (21, 41):
        refuge.keep(step, [2.0] * (step - 1))
    assert refuge.growth([2.0] * 40 + [6.0] * 5) == pytest.approx(3.0)
    assert refuge.growth([2.0] * 40 + [1e9] * 2) == pytest.approx(1.0)
    refuge.set_back(45)
    assert refuge.growth([2.0] * 40 + [60.0] * 9) == 0.0  # too few since
    assert refuge.growth([2.0] * 40 + [60.0] * 10) == pytest.approx(30.0)


def test_a_suspicious_gradient_is_five_times_the_typical_one():
    refuge = refuge_of(build())
    norms = [1.0, 1.0, 2.0]
    assert [refuge.is_suspicious(norm, norms) for norm in (4.9, 5.1)] == [False, True]
    assert not refuge.is_suspicious(1e9, [])


def test_each_time_it_is_set_back_the_rate_is_halved_until_it_is_in_vain():
    refuge = refuge_of(build())
    factors = []
    while not refuge.is_used_up:
        refuge.set_back(1)
        factors.append(refuge.rate_factor)
    assert factors == [0.5**n for n in range(1, 9)]
