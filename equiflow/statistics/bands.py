"""Errors of series from their low frequencies, against slow parts that are weak and fast ones that oscillate.

The error of a mean is the spectral density of the series at frequency 0. The window of the Gamma method stops
at what looks like noise: it misses a slow part below a strong fast one, and it stops within the first period
of an oscillation. Averages of the periodogram over the lowest frequencies, of chi-squared distribution, tell
whether it has (`LowFrequencies`). If it has, series without their fast parts are tried (`bands`): half of all
frequencies, a quarter, and so on, each with its own window (compare Flyvbjerg and Petersen 1989).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: number of frequencies in the smallest average, of a single chain
FEWEST_FREQUENCIES = 3
#: largest fraction of all frequencies in an average; beyond, the density of antithetic series rises
LARGEST_FRACTION = 1 / 16
#: number of chains whose means give an average of their own
MIN_REPLICAS = 8
#: fraction of the frequency where the density of the slow part has halved, up to which one compares averages
FRACTION_OF_WIDTH = 0.5
#: smallest number of values in a band
FEWEST_VALUES = 8


@dataclass(frozen=True)
class LowFrequencies:
    """Averages of the periodogram of k series over their lowest frequencies.

    Attributes:
        averages: each is an estimate of `error^2 N`, `(m, k)`.
        counts: numbers of frequencies, 0 for the means of chains.
        degrees: degrees of freedom of each average.
        length: length of each chain.
    """

    averages: Tensor
    counts: tuple[int, ...]
    degrees: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, power: Tensor, n_chains: int) -> LowFrequencies:
        """Average the lowest 1, 2, 4, ... frequencies, or 3, 6, 12, ... of a single chain.

        Args:
            power: `|sum_t x_t exp(-i pi f t / n)|^2`, summed over chains, `(n + 1, k)`; f = 0, ..., n.
            n_chains: number of chains.

        Returns:
            The averages.
        """
        n = len(power) - 1
        ordinates = power[::2] / n  # at the frequencies of the series itself, which are independent
        summed, averages, counts, degrees = 2 * ordinates[1:].cumsum(0), [], [], []
        count = FEWEST_FREQUENCIES if n_chains == 1 else 1
        if n_chains >= MIN_REPLICAS:
            averages, counts, degrees = [ordinates[0] / (n_chains - 1)], [0], [n_chains - 1]
        while count <= LARGEST_FRACTION * n:
            # Each frequency has a real and an imaginary part in every chain. The mean of all chains is 0.
            degrees.append(2 * count * n_chains + n_chains - 1)
            averages.append((ordinates[0] + summed[count - 1]) / degrees[-1])
            counts.append(count)
            count *= 2
        found = torch.stack(averages) if averages else ordinates[:0]
        return cls(found, tuple(counts), tuple(degrees), n)

    def agree(self, summed: Tensor, slow: Tensor, sigmas: float) -> Tensor:
        """Return which estimates of `error^2 N` fit all averages over frequencies well below those of `slow`.

        Args:
            summed: the estimates, `(k,)`.
            slow: autocorrelation times of the slowest parts, `(k,)`.
            sigmas: number of standard deviations that are allowed.

        Returns:
            `(k,)` of booleans.
        """
        # A part that decays like exp(-t / slow) has half of its density at the frequency n / (2 pi slow).
        widest = FRACTION_OF_WIDTH * self.length / (2 * math.pi * slow)
        fits = torch.ones_like(summed, dtype=torch.bool)
        for average, count, degrees in zip(self.averages, self.counts, self.degrees, strict=True):
            # The cube root of chi2 / degrees is nearly normal (Wilson and Hilferty 1931).
            square = 2 / (9 * degrees)
            root = (average / summed).clamp(min=0).pow(1 / 3)
            fits &= (count > widest) | ((root - 1 + square).abs() < sigmas * math.sqrt(square))
        return fits

    def columns(self, which: Tensor) -> LowFrequencies:
        """Return the averages of some of the series.

        Args:
            which: `(k,)` of booleans.

        Returns:
            Their averages.
        """
        return LowFrequencies(self.averages[:, which], self.counts, self.degrees, self.length)


def periodogram(fluctuations: Tensor) -> Tensor:
    """Return `|sum_t x_t exp(-i pi f t / n)|^2`, summed over chains.

    Args:
        fluctuations: `(n, n_chains, k)`.

    Returns:
        `(n + 1, k)`; f = 0, ..., n.
    """
    return torch.fft.rfft(fluctuations, 2 * len(fluctuations), dim=0).abs().square().sum(1)


def autocovariances(power: Tensor, length: int, n_chains: int) -> Tensor:
    """Return the autocovariances of series without their highest frequencies.

    Args:
        power: of the whole series, `(n + 1, k)`, see `periodogram`.
        length: number of frequencies to keep, n for all. The series that is left changes every `n / length`
            steps, which are the unit of the lags.
        n_chains: number of chains.

    Returns:
        `(length, k)`, from lag 0.
    """
    gamma = torch.fft.irfft(power[: length + 1], 2 * length, dim=0)[:length]
    # As many products go into a lag as there are pairs of values that far apart.
    pairs = torch.arange(length, 0, -1).to(gamma)[:, None] / length
    n = len(power) - 1
    return gamma * (length / n**2 / n_chains) / pairs


def bands(power: Tensor, n_chains: int) -> Iterator[Tensor]:
    """Yield the autocovariances of the lower half of all frequencies, of their lower quarter, and so on.

    Args:
        power: of the whole series, `(n + 1, k)`, see `periodogram`.
        n_chains: number of chains.

    Yields:
        `(length, k)`, see `autocovariances`.
    """
    length = (len(power) - 1) // 2
    while length * n_chains >= FEWEST_VALUES and length >= FEWEST_VALUES // 2:
        yield autocovariances(power, length, n_chains)
        length //= 2
