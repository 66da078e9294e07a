"""Effective sample sizes and log Z are known for Gaussian densities, and no weight is too large for them."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow.statistics import (
    effective_sample_size,
    few_effective_samples,
    forward_effective_sample_size,
    jackknife_of_logs,
    log_mean_exp,
)
from tests.support.estimates import coverage, error_ratio, normal

ESTIMATORS = [effective_sample_size, forward_effective_sample_size, log_mean_exp]


def gaussian_pair(n: int, sigmas: list[float], *, of_target: bool, seed: int = 0) -> Tensor:
    """Return log weights for a unit normal model and a normalised target of widths `sigmas`."""
    sigma = torch.tensor(sigmas)
    x = normal(n, len(sigmas), seed=seed) * (sigma if of_target else 1.0)
    return (0.5 * x.square() * (1 - sigma**-2) - sigma.log()).sum(1)


def gaussian_ess(sigmas: list[float]) -> float:
    """Return `1 / int p^2 / q`, which both directions share."""
    return math.prod(s * math.sqrt(2 - s * s) for s in sigmas)


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
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(estimator, bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        estimator(torch.tensor([0.0, 1.0, bad]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weight_statistics_of_float32_are_computed_in_float64(estimator):
    log_weight = normal(1000).float() + 300
    expected = estimator(log_weight.double())
    assert estimator(log_weight) == expected


def log_normal(width: float, n: int, *, runs: int = 200, seed: int = 0) -> Tensor:
    """Return log weights of standard deviation `width`, `(runs, n)`; the exact ESS is `exp(-width^2)`."""
    return width * normal(runs, n, seed=seed)


@pytest.mark.parametrize("n", [20, 200, 1000])
@pytest.mark.parametrize("width", [0.1, 1.0, 1.5, 2.0, 3.0])
def test_errors_of_the_reverse_ess_cover_the_truth(width, n):
    runs, exact = log_normal(width, n), math.exp(-(width**2))
    found = [effective_sample_size(run) for run in runs]
    assert coverage(found, exact) >= 0.58
    if width <= 1 and n >= 200:  # the samples know the answer, and errors are not too wide either
        assert coverage(found, exact) <= 0.80
    if width >= 2:  # they cannot know it, and say so
        assert sum(bool(one.note) for one in found) > 0.8 * len(found)
    # The counter-example: the jackknife trusts the largest weights that happened to come.
    plain = [jackknife_of_logs(lambda a, b: (2 * a - b).exp(), run, 2 * run) for run in runs]
    assert [one.mean for one in plain] == pytest.approx([one.mean for one in found])
    if width >= 1:
        assert coverage(plain, exact) < min(0.62, coverage(found, exact) - 0.05)


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("width", [0.1, 1.0, 1.5, 2.0, 3.0])
def test_errors_of_the_forward_ess_and_of_log_z_cover_the_truth(width, n):
    runs = log_normal(width, n, seed=1)
    forward, log_z = ([f(run) for run in runs] for f in (forward_effective_sample_size, log_mean_exp))
    for found, exact in ((forward, math.exp(-(width**2))), (log_z, width**2 / 2)):
        assert coverage(found, exact) >= (0.58 if width <= 2 else 0.4)
        if width <= 1 and n >= 200:
            assert coverage(found, exact) <= 0.80
        if width == 3:
            assert sum(bool(one.note) for one in found) > 0.9 * len(found)
    if width >= 2:
        plain = [jackknife_of_logs(lambda mean: mean, run) for run in runs]
        assert coverage(plain, width**2 / 2) < coverage(log_z, width**2 / 2) - 0.04


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1000, 10_000])
@pytest.mark.parametrize("width", [0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.5])
def test_errors_of_weight_statistics_are_of_the_right_size(width, n):
    runs, exact = log_normal(width, n, runs=1000, seed=2), math.exp(-(width**2))
    for function, truth in (
        (effective_sample_size, exact),
        (forward_effective_sample_size, exact),
        (log_mean_exp, width**2 / 2),
    ):
        found = [function(run) for run in runs]
        assert 0.61 <= coverage(found, truth) <= 0.83, (function.__name__, coverage(found, truth))


@pytest.mark.parametrize("width", [1.15, 1.25])
def test_errors_of_the_reverse_ess_of_a_wider_target_cover_the_truth(width):
    # The second moment of w^2 is barely finite, or infinite.
    logs = torch.stack([gaussian_pair(1000, [width] * 16, of_target=False, seed=k) for k in range(150)])
    found = [effective_sample_size(run) for run in logs]
    assert coverage(found, gaussian_ess([width] * 16)) > 0.46
    plain = [jackknife_of_logs(lambda a, b: (2 * a - b).exp(), run, 2 * run) for run in logs]
    assert coverage(plain, gaussian_ess([width] * 16)) < coverage(found, gaussian_ess([width] * 16)) - 0.08


def test_two_samples_know_their_ess_only_if_their_weights_are_equal():
    for estimator in (effective_sample_size, forward_effective_sample_size):
        assert estimator([1.0, 1.0]) == estimator([0.0, 0.0])
        assert estimator([1.0, 1.0]).error == 0.0
        uneven = estimator([1.0, 0.0])
        # The truth is anywhere between 0 and 1.
        assert uneven.mean - uneven.error <= 0.05
        assert uneven.mean + uneven.error >= 1


@pytest.mark.parametrize(("scale", "n", "is_least"), [(1.0, 40, True), (0.7, 400, False)])
def test_the_error_of_the_reverse_ess_is_its_formula(scale, n, is_least):
    log_weight = scale * normal(n, seed=3)
    w = log_weight.exp()
    ess = float(w.sum() ** 2 / (n * (w**2).sum()))
    left_out = (w.sum() - w) ** 2 / ((n - 1) * ((w**2).sum() - w**2))
    jackknife = float(((left_out - left_out.mean()).square().sum() * (n - 1) / n).sqrt())
    change = 2 * w / w.mean() - w**2 / (w**2).mean() - 1
    kurtosis = float((change**4).mean() / (change**2).mean() ** 2)
    of_squares = float((w**2).sum() ** 2 / (w**4).sum())
    widened = jackknife * (1 + (kurtosis - 1) / (2 * n * ess))
    least = min(ess, 5 * ess * (1 - ess) / (of_squares - 1))
    assert (widened < least) == is_least  # each part counts somewhere
    assert effective_sample_size(log_weight, n_blocks=n).error == pytest.approx(max(widened, least), rel=1e-9)


def test_the_error_of_the_forward_ess_is_its_formula():
    for scale, n in ((1.0, 40), (0.1, 400)):
        log_weight = scale * normal(n, seed=4)
        w, inverse = log_weight.exp(), (-log_weight).exp()
        result = forward_effective_sample_size(log_weight, n_blocks=n)
        ess = float(1 / (w.mean() * inverse.mean()))
        left_out = (n - 1) ** 2 / ((w.sum() - w) * (inverse.sum() - inverse))
        jackknife = float(((left_out - left_out.mean()).square().sum() * (n - 1) / n).sqrt())
        change = w / w.mean() + inverse / inverse.mean() - 2
        kurtosis = float((change**4).mean() / (change**2).mean() ** 2)
        count = min(float(x.sum() ** 2 / (x**2).sum()) for x in (w, inverse))
        twice_tau = max(1.0, (jackknife / (ess * float(change.norm()) / n)) ** 2)
        widened = jackknife * (1 + (kurtosis - 1) * twice_tau / (2 * math.sqrt(n * count)))
        least = min(ess, 5 * ess * (1 - ess) / (count - 1))
        assert result.error == pytest.approx(max(widened, least), rel=1e-9)


def test_the_error_of_log_z_is_its_formula():
    log_weight = normal(50, seed=5)
    w = log_weight.exp()
    left_out = ((w.sum() - w) / 49).log()
    jackknife = float(((left_out - left_out.mean()).square().sum() * 49 / 50).sqrt())
    change = w - w.mean()
    kurtosis = float((change**4).mean() / (change**2).mean() ** 2)
    count = float(w.sum() ** 2 / (w**2).sum())
    factor = 1 + (kurtosis - 1) / (2 * math.sqrt(50 * count))
    assert log_mean_exp(log_weight).error == pytest.approx(factor * jackknife, rel=1e-9)
    assert factor > 1.05


def test_the_ess_says_if_it_rests_on_few_samples():
    heavy = torch.zeros(400)
    heavy[:3] = 6.0  # three samples have most of the weight
    assert effective_sample_size(heavy).note == few_effective_samples(heavy) != ""
    lighter = torch.zeros(400)
    lighter[:3] = 3.5  # 106 effective samples, but few carry the mean of w^2
    assert few_effective_samples(lighter) == ""
    assert re.fullmatch(r"only \d\.\d effective samples of w\^2", effective_sample_size(lighter).note)
    for sane in (torch.zeros(8), 0.3 * normal(200)):
        assert effective_sample_size(sane).note == forward_effective_sample_size(sane).note == ""
    assert "effective samples" in forward_effective_sample_size(heavy).note
    assert "effective samples" in forward_effective_sample_size(-heavy).note
    # One sample has all of the weight: nothing is known.
    heavy[0] = 40.0
    one = effective_sample_size(heavy)
    assert (one.mean, one.error) == pytest.approx((1 / 400, 1 - 1 / 400))
