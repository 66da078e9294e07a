"""Whatever is no series, weight or function is refused in a sentence that says what was expected."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import statistics as s
from equiflow.statistics.two_levels import (
    change_of_log_mean,
    ess_of_two_levels,
    log_z_of_two_levels,
    unrelated_levels,
)

FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]
COLUMN = torch.tensor(FIVE)[:, None]
ROWS = torch.arange(5)


def total(*means):
    return sum(means)


#: functions of one argument, where any series or weights go
OF_WEIGHTS = {
    "effective_sample_size": s.effective_sample_size,
    "forward_effective_sample_size": s.forward_effective_sample_size,
    "log_mean_exp": s.log_mean_exp,
    "bridge_log_z, model": lambda x: s.bridge_log_z(x, FIVE),
    "weighted_mean": lambda x: s.weighted_mean(FIVE, x),
    "error_of_weighted_fluctuations": lambda x: s.error_of_weighted_fluctuations(COLUMN, x),
    "heavy_weights_factor": lambda x: s.heavy_weights_factor(COLUMN, x),
    "jackknife_of_logs": lambda x: s.jackknife_of_logs(total, x),
    "log_z_of_two_levels": lambda x: log_z_of_two_levels(x, torch.tensor(FIVE), ROWS),
    "ess_of_two_levels": lambda x: ess_of_two_levels(torch.tensor(FIVE), x, ROWS),
}
OF_LOGS = {
    "few_effective_samples": s.few_effective_samples,
    "warn_if_few_effective_samples": s.warn_if_few_effective_samples,
    "normalised_weights": s.normalised_weights,
}
OF_SERIES = {
    "weighted_mean": lambda x: s.weighted_mean(x, [0.0] * 5),
    "mean_of_series": s.mean_of_series,
    "estimate_of_series": lambda x: s.estimate_of_series(total, x),
    "integrated_autocorrelation_time": s.integrated_autocorrelation_time,
    "block_count": s.block_count,
}
OF_COLUMNS = {
    "jackknife": lambda x: s.jackknife(total, x),
    "jackknife_estimate": lambda x: s.jackknife_estimate(total, x),
}
EVERY = OF_WEIGHTS | OF_LOGS | {f"values of {k}": f for k, f in OF_SERIES.items()} | OF_COLUMNS


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("wrong", ["abc", ["a", "b", "c"], None, [[1.0, 2.0], [3.0]], [object()] * 5])
def test_what_are_no_numbers_is_refused_in_words(name, wrong):
    with pytest.raises(
        TypeError, match=r"must be real numbers, \(.*\); got .*Give a tensor, an array or a list"
    ):
        EVERY[name](wrong)


@pytest.mark.parametrize("name", EVERY)
def test_complex_numbers_are_refused(name):
    with pytest.raises(ValueError, match="is complex; give its real and imaginary part"):
        EVERY[name](torch.ones(5) + 1j)


@pytest.mark.parametrize("name", OF_WEIGHTS | OF_SERIES | OF_COLUMNS)
@pytest.mark.parametrize("few", [[], [1.0]])
def test_no_sample_and_one_sample_have_no_error(name, few):
    function = (OF_WEIGHTS | {n: f for n, f in OF_SERIES.items() if n != "weighted_mean"} | OF_COLUMNS)[name]
    with pytest.raises(ValueError, match=r"(at least 2|>= 2|n >= 4|Expected one entry per sample).*got"):
        function(few)


@pytest.mark.parametrize("name", OF_WEIGHTS | OF_LOGS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_are_finite_or_zero(name, bad):
    with pytest.raises(ValueError, match="NaN or infinite values; expected finite ones, or -inf for zero"):
        EVERY[name]([1.0, bad, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("name", OF_SERIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_are_finite(name, bad):
    with pytest.raises(ValueError, match="has NaN or infinite values; expected finite ones"):
        OF_SERIES[name]([1.0, bad, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("name", OF_WEIGHTS | OF_LOGS)
def test_weights_have_one_axis(name):
    with pytest.raises(ValueError, match=r"must be real numbers, \(n_samples,\).*got shape \(5, 2\)"):
        EVERY[name](torch.zeros(5, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: s.weighted_mean([1.0, 2.0], [0.0] * 5),
        lambda: s.weighted_mean(FIVE, [0.0] * 4),
        lambda: s.error_of_weighted_fluctuations(COLUMN, [0.0] * 4),
        lambda: s.heavy_weights_factor(COLUMN, [0.0] * 4),
        lambda: s.jackknife(total, FIVE, [1.0] * 4),
        lambda: s.jackknife_of_logs(total, FIVE, [1.0] * 4),
        lambda: s.estimate_of_series(total, FIVE, [1.0] * 4),
        lambda: unrelated_levels(torch.tensor(FIVE), torch.zeros(4)),
        lambda: change_of_log_mean(torch.tensor(FIVE), torch.zeros(4)),
        lambda: log_z_of_two_levels(torch.tensor(FIVE), torch.tensor(FIVE), ROWS[:4]),
    ],
)
def test_columns_have_one_length(call):
    with pytest.raises(ValueError, match=r"[Ee]xpected .*got|needs columns of one length"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.estimate_of_series(1, FIVE), "function must be a function of the mean of each series"),
        (lambda: s.jackknife(1, FIVE), "function must be a function of the average of each column"),
        (lambda: s.jackknife_of_logs(1, FIVE), "function must be a function of the log-average"),
        (lambda: s.jackknife(total, FIVE, n_blocks="8"), "n_blocks must be an integer"),
        (lambda: s.Estimate(1.0, 0.1).sigmas_from("1"), "other must be an Estimate or a number"),
        (lambda: s.Estimate(1.0, 0.1).sigmas_from([1.0]), "other must be an Estimate or a number"),
    ],
)
def test_functions_and_counts_are_checked(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.estimate_of_series(lambda m: 3.0, FIVE), "must return one number, a 0-d tensor"),
        (lambda: s.estimate_of_series(lambda m: torch.stack([m, m]), FIVE), "must return one number"),
        (lambda: s.estimate_of_series(total), "Expected one or more series"),
        (lambda: s.jackknife(total), "needs columns of one length"),
        (lambda: s.jackknife_of_logs(total), "Expected columns of one length"),
        (lambda: s.jackknife_of_logs(lambda m: 3.0, FIVE), "must return one number for each log-average"),
        (lambda: s.jackknife_estimate(lambda m: torch.ones(2), FIVE), "must return one number, 0-d"),
        (lambda: s.error_of_fluctuations(torch.zeros(5)), r"\(n, n_chains, k\).*got shape \(5,\)"),
        (lambda: s.error_of_fluctuations(torch.zeros(1, 1, 2)), "two samples or more"),
        (lambda: s.tail_factor([]), r"at least 1 of them; got shape \(0,\)"),
    ],
)
def test_results_of_functions_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_value_is_not_spread_over_all_weights():
    with pytest.raises(ValueError, match=r"at least 2 of them; got shape \(1,\)"):
        s.weighted_mean([1.0], [0.0] * 5)  # broadcasting would give 1 with no error


def test_lists_and_integers_are_numbers():
    assert s.weighted_mean([1, 2, 3, 4], [0, 0, 0, 0]).mean == 2.5
    assert s.effective_sample_size([0, 0, 0]).mean == 1.0
