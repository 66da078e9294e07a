"""Averages of a periodogram over low frequencies estimate the error of a mean without bias."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow.statistics.bands import LowFrequencies


def periodograms(series):
    """`|sum_t x_t exp(-i pi f t / n)|^2` of `(step, chain, series)`, summed over chains, f = 0, ..., n."""
    return torch.fft.rfft(series, n=2 * len(series), dim=0).abs().square().sum(1)


@pytest.mark.parametrize("n_chains", [1, 2, 12])
@pytest.mark.parametrize("a", [0.0, -0.5])
def test_averages_are_the_spectral_density_at_zero(n_chains, a):
    # x_t = y_t + a y_(t-1) of white noise y: the density at low frequencies is (1 + a)^2.
    n, k = 4096, 400
    noise = torch.randn(n + 1, n_chains, k)
    series = noise[1:] + a * noise[:-1]
    series = series - series.mean((0, 1))
    low = LowFrequencies.of(periodograms(series), n_chains)
    for average, count, degrees in zip(low.averages, low.counts, low.degrees, strict=True):
        assert degrees == (n_chains if count == 0 else 2 * count * n_chains + n_chains) - 1
        if count > n // 100:
            continue  # the density changes over wider bands
        # Squares of normal numbers: each average scatters by sqrt(2 / degrees).
        error = math.sqrt(2 / (degrees * k)) * (1 + a) ** 2
        assert float(average.mean()) == pytest.approx((1 + a) ** 2, abs=5 * error + 2e-3 * (1 + a) ** 2)
    assert len(low.counts) >= 4
