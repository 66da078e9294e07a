"""Autocorrelation times and errors of Markov chains are those of AR(1) processes."""

from __future__ import annotations

import math
import re

import pytest
import torch

from equiflow.statistics import Estimate, block_count, integrated_autocorrelation_time, mean_of_series
from tests.support.estimates import coverage, normal
from tests.support.oracles import ar1


@pytest.mark.parametrize("n_chains", [1, 8])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.7, 0.9])
def test_tau_int_of_ar1_is_known(a, n_chains):
    truth = (1 + a) / (2 * (1 - a))
    result = integrated_autocorrelation_time(ar1(a, 40_000 // n_chains, n_chains))
    assert abs(result.sigmas_from(truth)) < 4
    assert result.error < 0.1 * truth
    # Twice that time, another common convention, is far away.
    assert abs(result.sigmas_from(2 * truth)) > 4


def test_tau_int_error_covers_the_truth():
    results = [integrated_autocorrelation_time(ar1(0.6, 4000, seed=seed)) for seed in range(200)]
    # 68 % of 200 has a standard deviation of 3.3 %.
    assert 0.55 < coverage(results, 2.0) < 0.81
    assert coverage(results, 2.5) < 0.3


def test_mean_of_series_covers_the_truth_two_times_in_three():
    results = [mean_of_series(ar1(0.7, 2000, seed=seed)) for seed in range(200)]
    assert 0.60 < coverage(results, 0.0) < 0.76
    # An error that ignores autocorrelations is caught.
    naive = [Estimate(e.mean, e.error / math.sqrt(2 * e.tau_int)) for e in results]
    assert coverage(naive, 0.0) < 0.5


def test_chains_stuck_at_different_values_are_not_averaged_into_a_small_error():
    series = normal(1, 8) + 0.01 * normal(500, 8)
    spread = float(series.mean(0).std()) / math.sqrt(8)
    assert mean_of_series(series).error == pytest.approx(spread, rel=0.5)


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e15])
def test_mean_of_series_scales_with_its_series(scale, shift):
    series = ar1(0.5, 400)[:, 0]
    plain, scaled = mean_of_series(series + shift), mean_of_series(scale * (series + shift))
    assert scaled.mean == pytest.approx(scale * plain.mean, rel=1e-9, abs=0)
    assert scaled.error == pytest.approx(scale * plain.error, rel=1e-9, abs=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, sum([0.1] * 10)])
def test_a_constant_series_has_no_error_and_infinite_tau(value):
    series = torch.full((150, 7), value)
    assert integrated_autocorrelation_time(series) == Estimate(math.inf, math.inf)
    assert mean_of_series(series).mean == pytest.approx(value, rel=1e-14)
    assert mean_of_series(series).error <= 1e-14


@pytest.mark.parametrize("a", [-0.9, -0.5])
def test_an_anticorrelated_series_has_a_positive_error(a):
    series = ar1(a, 5000)
    tau, mean = integrated_autocorrelation_time(series), mean_of_series(series)
    assert tau.error > 0
    assert tau.mean < 0.5
    assert abs(mean.mean) < 4 * mean.error


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (torch.tensor([1.0, math.nan, 2.0, 3.0, 4.0]), "NaN"),
        (torch.tensor([1.0, math.inf, 2.0, 3.0, 4.0]), "infinite"),
        (torch.ones(3), "n >= 4"),
        (torch.ones(8, 2, 2), r"\(n, n_chains\)"),
    ],
)
@pytest.mark.parametrize("function", [integrated_autocorrelation_time, mean_of_series])
def test_series_that_say_nothing_are_refused(function, series, message):
    with pytest.raises(ValueError, match=message):
        function(series)


def test_the_number_of_blocks_is_bounded():
    series = ar1(0.0, 1000, 3)
    assert block_count(series, max_blocks=20) == 18  # a multiple of the number of chains
    assert block_count(series, max_blocks=2) == 2
    assert block_count(series) == 126


@pytest.mark.parametrize(("n", "n_chains"), [(200, 1), (60, 3), (5, 64), (12, 40)])
def test_a_short_series_says_so_in_print(n, n_chains):
    slow, fast = (mean_of_series(ar1(a, n, n_chains)) for a in (0.98, 0.0))
    expected = "tau_int cut by the length" if n_chains >= 40 else r"only \d+ tau_int long"
    assert re.search(expected, slow.note)
    assert str(slow).endswith(f"({slow.note})")
    assert not fast.note
    assert "(" not in str(fast)


def test_the_note_of_an_estimate_is_about_its_length_in_autocorrelation_times():
    long, short = (mean_of_series(ar1(0.9, n, 4)) for n in (400, 80))
    assert 4 * 400 / long.tau_int > 50 > 4 * 80 / short.tau_int
    assert (long.note, short.note) == ("", f"only {4 * 80 / short.tau_int:.0f} tau_int long")
    assert integrated_autocorrelation_time(ar1(0.9, 80, 4)).note == short.note


def test_lists_are_series_and_complex_numbers_are_not():
    assert mean_of_series([1.0, 2.0, 4.0, 3.0, 2.0]) == mean_of_series(
        torch.tensor([1.0, 2.0, 4.0, 3.0, 2.0])
    )
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        mean_of_series([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="complex; give its real"):
        mean_of_series(torch.ones(10) + 1j)
