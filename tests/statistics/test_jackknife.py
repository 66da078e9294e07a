"""Jackknife errors are the scatter of the results, also for ratios and autocorrelated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equiflow.statistics import Estimate, jackknife, jackknife_estimate, weighted_mean
from tests.support.estimates import error_ratio, normal
from tests.support.oracles import ar1


@pytest.mark.parametrize("n", [2, 17, 300])
def test_jackknife_error_of_a_mean_is_the_standard_error(n):
    x = normal(n, 3)
    mean, error = jackknife(lambda m: m, x, n_blocks=n)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(error, x.std(0) / math.sqrt(n))
    # The biased variance gives another error.
    assert not torch.allclose(error, x.std(0, correction=0) / math.sqrt(n), rtol=1e-4)


def ratios(n_blocks: int) -> list[Estimate]:
    """Return 300 estimates of a ratio of correlated means, `<x y> / <x>`."""
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
    estimates = [jackknife_estimate(lambda m: m, x, n_blocks=32) for x in series]
    blocked = error_ratio(estimates)
    assert blocked == pytest.approx(1, abs=0.2)
    # Errors of single samples scatter by 2 %, so that those of 20 series do; the scatter is that of all 200.
    single = [jackknife_estimate(lambda m: m, x, n_blocks=2048) for x in series[:20]]
    scatter = np.std([one.mean for one in estimates], ddof=1)
    naive = np.mean([one.error for one in single]) / scatter
    assert naive == pytest.approx(math.sqrt((1 - 0.8) / (1 + 0.8)), abs=0.07)


@pytest.mark.parametrize("columns", [(torch.ones(1),), (torch.ones(4), torch.ones(5))])
def test_jackknife_refuses_single_samples_and_ragged_columns(columns):
    with pytest.raises(ValueError, match="one length >= 2"):
        jackknife(lambda *m: m[0], *columns)


def test_jackknife_refuses_a_single_block():
    with pytest.raises(ValueError, match="n_blocks"):
        jackknife(lambda m: m, torch.ones(8), n_blocks=1)


def test_lists_and_arrays_are_columns():
    values, log_weight = [1.0, 2.0, 4.0, 3.0], [0.0, 0.1, -0.1, 0.2]
    assert jackknife_estimate(lambda m: m, values) == jackknife_estimate(lambda m: m, torch.tensor(values))
    expected = weighted_mean(torch.tensor(values), torch.tensor(log_weight).double())
    found = weighted_mean(np.array(values), np.array(log_weight))
    assert found.mean == pytest.approx(expected.mean, rel=1e-6)
    assert found.error == pytest.approx(expected.error, rel=1e-6)
