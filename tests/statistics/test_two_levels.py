"""Two levels: the formulas against plain sums that leave out one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equiflow.statistics import Estimate, effective_sample_size, log_mean_exp, weighted_mean
from equiflow.statistics.two_levels import (
    change_of_log_mean,
    change_of_mean,
    ess_of_two_levels,
    fluctuations_of_two_levels,
    log_mean_of_two_levels,
    log_z_of_two_levels,
    mean_of_two_levels,
    unrelated_levels,
)
from tests.support.estimates import coverage, normal

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


def levels(
    noise: float, *, width: float = 0.2, slope: float = 1.0, runs: int = 200
) -> list[tuple[Tensor, ...]]:
    """Return coarse log weights of 160 samples, fine ones of 32 and their rows; `log Z = width^2 / 2`."""
    fine = width * normal(runs, 160, seed=11)
    coarse = slope * fine + noise * normal(runs, 160, seed=12) + 0.3
    return [(c, f[:32], torch.arange(32)) for c, f in zip(coarse, fine, strict=True)]


@pytest.mark.parametrize("noise", [1.5, 1.0, 0.6, 0.3, 0.1, 0.02])
def test_log_z_and_ess_are_covered_however_coarse_the_coarse_weights_are(noise):
    runs = levels(noise)
    log_z = [log_z_of_two_levels(*run) for run in runs]
    ess = [ess_of_two_levels(*run) for run in runs]
    assert 0.60 <= coverage(log_z, 0.02) <= 0.76
    assert 0.54 <= coverage(ess, math.exp(-0.04)) <= 0.78  # 32 values tell little of a variance
    assert all(one.mean <= 1 for one in ess)
    alone = [bool(one.note) for one in log_z]
    assert sum(alone) >= 0.95 * len(runs) if noise >= 0.3 else sum(alone) <= 0.05 * len(runs)
    # The counter-example takes the coarse weights whatever they are.
    both = [log_mean_of_two_levels(*run) for run in runs]
    scatter, other = (float(torch.tensor([e.mean for e in found]).std()) for found in (log_z, both))
    assert scatter < 0.8 * other if noise >= 0.3 else scatter <= 1.03 * other


def test_no_result_of_unrelated_levels_comes_from_the_coarse_one():
    coarse, fine, rows = levels(1.5)[0]
    values, fine_values = normal(160, seed=13), normal(32, seed=14)
    note = unrelated_levels(coarse[rows], fine)
    correlation = float(torch.corrcoef(torch.stack([coarse[rows], fine]))[0, 1])
    assert note == f"from the 32 fine samples alone: correlation {correlation:.2f} with coarse weights"
    for found, alone in (
        (log_z_of_two_levels(coarse, fine, rows), log_mean_exp(fine)),
        (ess_of_two_levels(coarse, fine, rows), effective_sample_size(fine)),
        (mean_of_two_levels(values, coarse, fine_values, fine, rows), weighted_mean(fine_values, fine)),
    ):
        assert (found.mean, found.error) == (alone.mean, alone.error)
        assert found.note == note
    for related in (levels(0.3)[0], levels(0.0)[0]):
        assert unrelated_levels(related[0][rows], related[1]) == ""


def test_levels_are_unrelated_if_ratios_of_weights_leave_less_than_half_of_the_samples():
    change = normal(400, seed=15)
    for scale in (0.5, 0.7, 0.9, 1.2):
        for sign in (1, -1):
            ratio = (sign * scale * change).exp()
            kept = float(ratio.sum() ** 2 / (400 * ratio.square().sum()))
            other = (1 / ratio).sum() ** 2 / (400 * (1 / ratio).square().sum())
            found = unrelated_levels(torch.zeros(400), torch.log(ratio))
            assert bool(found) == (min(kept, float(other)) < 0.5)
    # A tail on one side only: ratios in one direction keep 3/4 of the samples, in the other one a few.
    tail = -torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64).log()
    for skewed in (tail, -tail):
        assert "alone" in unrelated_levels(torch.zeros(400), skewed)
    assert unrelated_levels(torch.zeros(400), 0.3 * tail) == ""
    zero = torch.full((400,), -math.inf)
    zero[:1] = 0.0
    assert "other weights" in unrelated_levels(zero, torch.zeros(400))


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.5, 1.7, 2.3, 3.0])
def test_coarse_weights_count_up_to_twice_the_fluctuations_of_the_fine_ones(slope):
    # The regression of fine on coarse weights has the slope 1 / slope, up to higher orders.
    runs = levels(0.0, width=0.1, slope=slope)
    alone = [bool(log_z_of_two_levels(*run).note) for run in runs]
    assert all(alone) if slope > 2 else not any(alone)


def test_the_error_of_an_ess_of_two_levels_is_its_formula():
    coarse, fine, rows = levels(0.02, width=0.5)[0]
    found = ess_of_two_levels(coarse, fine, rows)
    plain = log_mean_of_two_levels(
        coarse, fine, rows, function=lambda one, two: (2 * one - two).exp(), powers=(1.0, 2.0)
    )
    assert found.mean == pytest.approx(plain.mean, rel=1e-9)

    def change(log_weight: Tensor) -> Tensor:
        w = log_weight.exp()
        return 2 * w / w.mean() - w**2 / (w**2).mean() - 1

    combined = change(coarse)
    combined[:32] += 160 / 31 * (change(fine) - change(coarse[:32]))
    kurtosis = float((combined**4).mean() / (combined**2).mean() ** 2)
    w = coarse.exp()
    count, of_squares = (float((w**p).sum() ** 2 / (w ** (2 * p)).sum()) for p in (1, 2))
    widened = plain.error * (1 + (kurtosis - 1) / (2 * count))
    least = min(found.mean, 5 * found.mean * (1 - found.mean) / (of_squares - 1))
    assert found.error == pytest.approx(max(widened, least), rel=1e-6)
    assert isinstance(found, Estimate)
    assert found.note == ""
