"""Two levels: the formulas against plain sums that leave out one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equiflow.statistics import weighted_mean
from equiflow.statistics.two_levels import (
    change_of_log_mean,
    change_of_mean,
    fluctuations_of_two_levels,
    log_mean_of_two_levels,
    mean_of_two_levels,
)
from tests.support.estimates import normal

N, M = 9, 4
ROWS = torch.tensor([7, 0, 3, 4])


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return coarse values and log weights of 9 samples, and fine ones of 4 of them."""
    values, log_weight = normal(N, seed=1), 0.3 * normal(N, seed=2)
    fine_values = values[ROWS] + 0.2 * normal(M, seed=3)
    return values, log_weight, fine_values, log_weight[ROWS] - 0.7 + 0.1 * normal(M, seed=4)


def mean(values: list[float], log_weight: list[float]) -> float:
    weights = [math.exp(value) for value in log_weight]
    return sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)


def log_mean(values: list[float], log_weight: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in log_weight) / len(log_weight))


def ess(log_weight: list[float], power: float) -> float:
    return sum(math.exp(power * value) for value in log_weight) / len(log_weight)


def brute_force(result: Callable[[list[float], list[float]], float], pairs_only: bool) -> tuple[float, float]:
    """Return the value, and the jackknife error from leaving out each sample wherever it occurs."""
    values, log_weight, fine_values, fine_log_weight = (column.tolist() for column in data())

    def without(left_out: int | None) -> float:
        everyone = [i for i in range(N) if i != left_out]
        pairs = [k for k, row in enumerate(ROWS.tolist()) if row != left_out]
        rows = [ROWS.tolist()[k] for k in pairs]
        change = result([fine_values[k] for k in pairs], [fine_log_weight[k] for k in pairs])
        change -= result([values[i] for i in rows], [log_weight[i] for i in rows])
        if pairs_only:
            return change
        return change + result([values[i] for i in everyone], [log_weight[i] for i in everyone])

    left_out = [without(i) for i in (ROWS.tolist() if pairs_only else range(N))]
    centre = sum(left_out) / len(left_out)
    square = sum((value - centre) ** 2 for value in left_out) * (len(left_out) - 1) / len(left_out)
    return without(None), math.sqrt(square)


def test_log_z_and_its_error_are_those_of_leaving_out_one_sample():
    _, log_weight, _, fine = data()
    for found, pairs_only in (
        (log_mean_of_two_levels(log_weight, fine, ROWS), False),
        (change_of_log_mean(log_weight[ROWS], fine), True),
    ):
        value, error = brute_force(log_mean, pairs_only)
        assert found.mean == pytest.approx(value, rel=1e-12)
        assert found.error == pytest.approx(error, rel=1e-12)


def test_a_mean_and_its_error_are_those_of_leaving_out_one_sample():
    values, log_weight, fine_values, fine = data()
    for found, pairs_only in (
        (mean_of_two_levels(values, log_weight, fine_values, fine, ROWS), False),
        (change_of_mean(values[ROWS], log_weight[ROWS], fine_values, fine), True),
    ):
        value, error = brute_force(mean, pairs_only)
        assert found.mean == pytest.approx(value, rel=1e-12)
        assert found.error == pytest.approx(error, rel=1e-12)


def test_a_function_of_two_moments_takes_both_from_two_levels():
    _, log_weight, _, fine = data()
    found = log_mean_of_two_levels(
        log_weight, fine, ROWS, function=lambda one, two: (2 * one - two).exp(), powers=(1.0, 2.0)
    )
    coarse = log_weight.tolist()
    moments = [ess(coarse, p) * ess(fine.tolist(), p) / ess(log_weight[ROWS].tolist(), p) for p in (1.0, 2.0)]
    assert found.mean == pytest.approx(moments[0] ** 2 / moments[1], rel=1e-12)


def test_fluctuations_have_mean_zero_and_the_variance_of_the_two_parts():
    values, log_weight, fine_values, fine = data()
    columns, fine_columns = torch.stack([values, values**2], 1), torch.stack([fine_values, fine_values**2], 1)
    means, fluctuations = fluctuations_of_two_levels(columns, log_weight, fine_columns, fine, ROWS)
    assert means[0] == pytest.approx(brute_force(mean, False)[0], rel=1e-12)
    torch.testing.assert_close(fluctuations.mean(0), torch.zeros(2, dtype=torch.float64))

    def deviations(x: Tensor, log_w: Tensor) -> Tensor:
        w = log_w.exp() / log_w.exp().mean()
        return w * (x - (w * x).mean())

    u = deviations(values, log_weight)
    change = deviations(fine_values, fine) - deviations(values[ROWS], log_weight[ROWS])
    # Variances of u / n and change / (m - 1), and twice the covariance of samples that are in both.
    square = u.square().sum() / N**2 + change.square().sum() / (M - 1) ** 2
    square += 2 * (u[ROWS] * change).sum() / (N * (M - 1))
    assert float(fluctuations[:, 0].square().sum() / N**2) == pytest.approx(float(square), rel=1e-12)


def test_equal_levels_change_nothing():
    values, log_weight, _, _ = data()
    found = mean_of_two_levels(values, log_weight, values[ROWS], log_weight[ROWS], ROWS)
    one = weighted_mean(values, log_weight)
    assert (found.mean, found.error) == pytest.approx((one.mean, one.error), rel=1e-12)
    change = change_of_mean(values[ROWS], log_weight[ROWS], values[ROWS], log_weight[ROWS])
    assert (change.mean, change.error) == (0.0, 0.0)


@pytest.mark.parametrize("shift", [-700.0, 0.0, 900.0])
def test_a_constant_error_of_all_weights_costs_nothing(shift):
    values, log_weight, _, _ = data()
    fine = log_weight[ROWS] + shift
    change = change_of_log_mean(log_weight, log_weight + shift)
    assert change.mean == pytest.approx(shift, abs=1e-12)
    assert change.error < 1e-12 * max(1.0, abs(shift))
    moved = log_mean_of_two_levels(log_weight, fine, ROWS)
    stay = log_mean_of_two_levels(log_weight, log_weight[ROWS], ROWS)
    assert moved.mean - stay.mean == pytest.approx(shift, rel=1e-12)
    assert moved.error == pytest.approx(stay.error, rel=1e-9)
    found = mean_of_two_levels(values, log_weight, values[ROWS], fine, ROWS)
    assert found.mean == pytest.approx(weighted_mean(values, log_weight).mean, rel=1e-12)


def test_a_single_weight_has_no_error_and_says_so():
    log_weight = torch.full((40,), -math.inf, dtype=torch.float64)
    log_weight[3] = 0.0
    found = log_mean_of_two_levels(log_weight, log_weight, torch.arange(40))
    assert found.error == math.inf
    assert "effective samples" in found.note


def test_few_effective_samples_make_an_error_at_least_that_of_one_level():
    values, log_weight = normal(400, seed=5), 4 * normal(400, seed=6)
    rows = torch.arange(100)
    fine_values, fine = values[rows] + 0.1 * normal(100, seed=7), log_weight[rows] + 0.1 * normal(100, seed=8)
    found = mean_of_two_levels(values, log_weight, fine_values, fine, rows)
    assert "effective samples" in found.note
    assert found.error >= weighted_mean(values, log_weight).error


@pytest.mark.parametrize(
    ("coarse", "fine", "rows", "match"),
    [
        (torch.zeros(1), torch.zeros(1), torch.arange(1), ">= 2"),
        (torch.zeros(5), torch.zeros(1), torch.arange(1), ">= 2"),
        (torch.zeros(5), torch.zeros(3), torch.arange(2), "one row per pair"),
        (torch.full((5,), math.nan), torch.zeros(3), torch.arange(3), "NaN"),
        (torch.zeros(5), torch.full((3,), -math.inf), torch.arange(3), "-inf everywhere"),
    ],
)
def test_what_has_no_error_is_refused(coarse, fine, rows, match):
    with pytest.raises(ValueError, match=match):
        log_mean_of_two_levels(coarse, fine, rows)
