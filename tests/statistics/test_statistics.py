from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow.statistics import (
    Estimate,
    effective_sample_size,
    forward_effective_sample_size,
    integrated_autocorrelation_time,
    jackknife,
    jackknife_estimate,
    log_mean_exp,
    mean_of_series,
)
from tests.support.oracles import ar1

ESTIMATORS = [effective_sample_size, forward_effective_sample_size, log_mean_exp]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian_pair(n: int, sigmas: list[float], *, of_target: bool, seed: int = 0) -> Tensor:
    """Log weights of a unit normal model and a target of widths `sigmas`, normalised."""
    sigma = torch.tensor(sigmas)
    x = normal(n, len(sigmas), seed=seed) * (sigma if of_target else 1.0)
    return (0.5 * x.square() * (1 - sigma**-2) - sigma.log()).sum(1)


def gaussian_ess(sigmas: list[float]) -> float:
    """`1 / int p^2 / q`, the same in both directions."""
    return math.prod(s * math.sqrt(2 - s * s) for s in sigmas)


def error_ratio(estimates: list[Estimate]) -> float:
    """Mean claimed error over the scatter of the means."""
    means = torch.tensor([e.mean for e in estimates])
    return float(torch.tensor([e.error for e in estimates]).mean() / means.std())


def coverage(estimates: list[Estimate], truth: float) -> float:
    return sum(abs(e.mean - truth) <= e.error for e in estimates) / len(estimates)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.21053, 0.00009), "0.210530 ± 0.000090"),
        (Estimate(84.7781, 0.0123), "84.778 ± 0.012"),
        (Estimate(-123.4, 17.0), "-123 ± 17"),
        (Estimate(1.5, 0.0), "1.5 ± 0"),
        (Estimate(math.nan, math.nan), "nan ± nan"),
        (Estimate(2.0, math.inf), "2 ± inf"),
    ],
)
def test_estimate_prints_two_digits_of_its_error(estimate, text):
    assert str(estimate) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
def test_printed_estimate_loses_less_than_a_tenth_of_its_error(mean, error):
    printed_mean, printed_error = map(float, str(Estimate(mean, error)).split(" ± "))
    assert abs(printed_mean - mean) <= max(0.1 * error, 1e-9 * abs(mean))
    assert abs(printed_error - error) <= 0.1 * error


@pytest.mark.parametrize(
    ("other", "expected"), [(1.0, 4.0), (Estimate(1.0, 0.0), 4.0), (Estimate(4.0, 0.5), -2 / math.sqrt(2))]
)
def test_sigmas_use_the_combined_error(other, expected):
    assert Estimate(3.0, 0.5).sigmas_from(other) == pytest.approx(expected)


def test_sigmas_between_equal_exact_values_are_zero():
    assert Estimate(1.0, 0.0).sigmas_from(1.0) == 0.0


@pytest.mark.parametrize("n", [2, 17, 300])
def test_jackknife_error_of_a_mean_is_the_standard_error(n):
    x = normal(n, 3)
    mean, error = jackknife(lambda m: m, x, n_blocks=n)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(error, x.std(0) / math.sqrt(n))
    # The biased variance would be told apart.
    assert not torch.allclose(error, x.std(0, correction=0) / math.sqrt(n), rtol=1e-4)


def ratios(n_blocks: int) -> list[Estimate]:
    """A ratio of correlated means, `<x y> / <x>`, many times over."""
    results = []
    for seed in range(300):
        x, noise = normal(2, 256, seed=seed)
        x = 2 + x
        results.append(jackknife_estimate(lambda a, b: a / b, x * (x + noise), x, n_blocks=n_blocks))
    return results


@pytest.mark.parametrize("n_blocks", [32, 128, 256])
def test_jackknife_error_of_a_ratio_is_its_scatter(n_blocks):
    # The scatter of 300 values is known to 1 / sqrt(600) = 4 %.
    assert error_ratio(ratios(n_blocks)) == pytest.approx(1, abs=0.16)


def test_blocks_absorb_autocorrelations_and_single_samples_do_not():
    series = [ar1(0.8, 2048, seed=seed)[:, 0] for seed in range(200)]
    blocked, naive = (
        error_ratio([jackknife_estimate(lambda m: m, x, n_blocks=n) for x in series]) for n in (32, 2048)
    )
    assert blocked == pytest.approx(1, abs=0.2)
    assert naive == pytest.approx(math.sqrt((1 - 0.8) / (1 + 0.8)), abs=0.07)


@pytest.mark.parametrize("columns", [(torch.ones(1),), (torch.ones(4), torch.ones(5))])
def test_jackknife_refuses_single_samples_and_ragged_columns(columns):
    with pytest.raises(ValueError, match="one length >= 2"):
        jackknife(lambda *m: m[0], *columns)


def test_jackknife_refuses_a_single_block():
    with pytest.raises(ValueError, match="n_blocks"):
        jackknife(lambda m: m, torch.ones(8), n_blocks=1)


@given(st.integers(2, 60), st.integers(0, 10**6))
def test_reverse_ess_is_its_formula(n, seed):
    log_weight = normal(n, seed=seed)
    w = log_weight.exp()
    assert effective_sample_size(log_weight).mean == pytest.approx(float(w.sum() ** 2 / (n * (w**2).sum())))
    assert forward_effective_sample_size(log_weight).mean == pytest.approx(
        float(1 / (w.mean() * (1 / w).mean()))
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_weights_are_perfect(estimator):
    result = estimator(torch.full((100,), 3.0))
    assert (result.mean, result.error) == (3.0 if estimator is log_mean_exp else 1.0, 0.0)


@pytest.mark.parametrize("sigmas", [[0.8], [1.15], [0.9, 0.95, 1.1]])
@pytest.mark.parametrize("of_target", [False, True])
def test_ess_of_two_gaussians_is_known(sigmas, of_target):
    estimator = forward_effective_sample_size if of_target else effective_sample_size
    result = estimator(gaussian_pair(40_000, sigmas, of_target=of_target))
    assert abs(result.sigmas_from(gaussian_ess(sigmas))) < 4
    assert result.error < 0.01
    # Samples of the wrong density give another number.
    wrong = estimator(gaussian_pair(40_000, sigmas, of_target=not of_target))
    assert abs(wrong.sigmas_from(gaussian_ess(sigmas))) > 4


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_errors_of_weight_statistics_are_their_scatter(estimator):
    of_target = estimator is forward_effective_sample_size
    many = [
        estimator(gaussian_pair(2000, [0.85, 0.9], of_target=of_target, seed=seed)) for seed in range(300)
    ]
    assert error_ratio(many) == pytest.approx(1, abs=0.16)


def test_only_the_forward_ess_sees_a_dropped_mode():
    modes = torch.distributions.Normal(torch.tensor([-3.0, 3.0]), 0.5)

    def log_weight(x: Tensor) -> Tensor:
        both = modes.log_prob(x[:, None])
        return both.logsumexp(1) - math.log(2) - both[:, 1]

    one_mode = 3 + 0.5 * normal(1000)
    both_modes = one_mode * (1 - 2 * (torch.arange(1000) % 2))
    assert effective_sample_size(log_weight(one_mode)).mean > 0.99
    assert forward_effective_sample_size(log_weight(both_modes)).mean < 1e-6


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_offsets_of_the_log_weights_drop_out(estimator, offset):
    log_weight = normal(500)
    here, there = estimator(log_weight), estimator(log_weight + offset)
    shift = offset if estimator is log_mean_exp else 0.0
    assert there.mean - shift == pytest.approx(here.mean, abs=1e-10)
    assert there.error == pytest.approx(here.error, rel=1e-9)
    assert not math.isfinite(float((log_weight + 1000).exp().mean()))


@pytest.mark.parametrize("outlier", [-2000.0, 2000.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_weight_beyond_the_range_of_floats_leaves_finite_estimates(estimator, outlier):
    log_weight = normal(500)
    log_weight[7] = outlier
    result = estimator(log_weight)
    assert math.isfinite(result.mean)
    assert math.isfinite(result.error)


def test_log_mean_exp_of_gaussian_log_weights_is_known():
    n, mu, s = 50_000, -7.0, 0.6
    result = log_mean_exp(mu + s * normal(n))
    assert abs(result.sigmas_from(mu + s * s / 2)) < 4
    assert result.error == pytest.approx(math.sqrt(math.expm1(s * s) / n), rel=0.2)
    assert abs(result.sigmas_from(mu)) > 20


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(estimator, bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        estimator(torch.tensor([0.0, 1.0, bad]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weight_statistics_of_float32_are_computed_in_float64(estimator):
    log_weight = normal(1000).float() + 300
    expected = estimator(log_weight.double())
    assert estimator(log_weight) == expected


@pytest.mark.parametrize("n_chains", [1, 8])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.7, 0.9])
def test_tau_int_of_ar1_is_known(a, n_chains):
    truth = (1 + a) / (2 * (1 - a))
    result = integrated_autocorrelation_time(ar1(a, 40_000 // n_chains, n_chains))
    assert abs(result.sigmas_from(truth)) < 4
    assert result.error < 0.1 * truth
    # Twice that time, another common convention, is told apart.
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
