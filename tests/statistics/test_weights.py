"""Effective sample sizes and log Z are known for Gaussian densities, and no weight is too large for them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow.statistics import effective_sample_size, forward_effective_sample_size, log_mean_exp
from tests.support.estimates import error_ratio, normal

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
