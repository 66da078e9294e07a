"""Errors of Markov chains by the Gamma method (hep-lat/0306017), also for series that alternate.

Start with `error_of_fluctuations`; `estimate_of_series` calls it for functions of means.

The window of the Gamma method is trusted for series whose slow part shows in the first lags, and its numbers
are kept there. Other series need more:

- Antithetic series, in which neighbours are anticorrelated, or less correlated than next neighbours. The
  averages of neighbours `y_t = (x_t + x_{t+1}) / 2` have the same sum of autocovariances, without the
  alternating part. Their window is taken.
- Series with a weak slow part below a strong fast one. The sums of pairs of autocovariances of a reversible
  chain are positive and fall (Geyer 1992). If all of them up to the first negative one amount to
  significantly more than the window holds, they are taken.

What then still disagrees with the lowest frequencies of the series, because of a slow part that is weaker
still or of an oscillation, is measured by them, see `bands`.

No method sees what a series does not show. A slow part that is hidden below a fast one, and of which the
series is shorter than about 50 autocorrelation times, mostly stays unseen: the error is then too small, and
no note says so. If you expect one, such as a topological charge that is frozen, look at its own series, run
until that has 50 of its own tau_int, or compare chains from different starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.statistics.bands import (
    MIN_REPLICAS,
    LowFrequencies,
    autocovariances,
    bands,
    periodogram,
)
from equiflow.statistics.estimate import Estimate
from equiflow.statistics.inputs import AT_LEAST_ONE, real_numbers

#: assumed ratio of exponential to integrated autocorrelation time, S in the paper
S_TAU = 1.5
#: the same for averages of neighbours, whose slow part is often weak
S_TAU_OF_AVERAGES = 4.0
#: length of the shortest chain with a measurable autocorrelation; of shorter chains the averages are compared
MIN_CHAIN_LENGTH = 4
#: chains shorter than this have no room for a window; their averages are compared if there are enough chains
MIN_WINDOWED_LENGTH = 8
#: number of values that are Fourier transformed at a time, which bounds the memory
MAX_TRANSFORMED_VALUES = 2**22
#: fluctuations below this fraction of the mean are rounding errors
ROUNDING = 1e-14
#: standard deviations of rho(1), or of rho(1) - rho(2), below 0 from which a series counts as antithetic
ANTITHETIC_SIGMAS = 2.0
#: standard deviations by which sums of pairs must exceed the window to be taken
PAIR_SIGMAS = 4.0
#: standard deviations by which averages over low frequencies may differ from a window that is kept
SIGMAS_OF_WINDOW = 2.5
#: the same for bands, of which one must do: rather the noise of a narrow one than the bias of a wide one
SIGMAS_OF_BANDS = 1.0
#: length of a series in autocorrelation times below which its errors are unreliable and its estimate says so
MIN_LENGTH_IN_TAU = 50


@dataclass(frozen=True)
class SeriesErrors:
    """Standard errors of k means and the autocorrelation times behind them, `(k,)` each.

    Attributes:
        error: standard errors, `sqrt(2 tau_int var / N)`.
        tau: integrated autocorrelation times in steps, 0.5 for independent samples. A constant series has
            error 0 and infinite tau.
        tau_error: standard errors of `tau`.
        n_steps: length of each chain.
        n_chains: number of chains.
        reason: why all of these errors may be too small, in words; empty if there is no reason.
        slow: autocorrelation times of the slowest parts, if they have been looked for. A weak slow part below
            a fast one has a larger time than the series as a whole.
    """

    error: Tensor
    tau: Tensor
    tau_error: Tensor
    n_steps: int = 1
    n_chains: int = 1
    reason: str = ""
    slow: Tensor | None = None

    def estimate(self, k: int, mean: float, *, systematic: float = 0.0) -> Estimate:
        """Return the estimate of one mean.

        Args:
            k: its index.
            mean: its value.
            systematic: size of its discretisation error.

        Returns:
            The value with its error and, if finite, its autocorrelation time. Its note says if the series is
            too short for a reliable error.
        """
        tau, tau_error = float(self.tau[k]), float(self.tau_error[k])
        if not math.isfinite(tau):
            return Estimate(mean, float(self.error[k]), systematic=systematic, note=self.note(k))
        return Estimate(
            mean,
            float(self.error[k]),
            systematic=systematic,
            tau_int=tau,
            tau_int_error=tau_error,
            note=self.note(k),
        )

    def note(self, k: int = 0) -> str:
        """Return why the error of a mean may be unreliable; empty if there is no reason.

        Args:
            k: index of the mean.

        Returns:
            A few words, such as "only 12 tau_int long".
        """
        tau = float(self.tau[k])
        if self.n_steps == 1 or self.reason:
            return self.reason
        if not math.isfinite(tau):  # a constant, or a charge that is frozen
            return "the same in all samples"
        total = self.n_steps * self.n_chains
        if total / tau < MIN_LENGTH_IN_TAU:
            return f"only {total / tau:.0f} tau_int long"
        slow = tau if self.slow is None else float(self.slow[k])
        if total / slow < MIN_LENGTH_IN_TAU:
            return f"error from only {total / (2 * slow):.0f} independent stretches"
        # The sum of all autocorrelations that fit into a chain is about n / 2 at most.
        return "tau_int cut by the length of the chains" if tau > self.n_steps / 4 else ""


def error_of_fluctuations(fluctuations: Tensor, *, scale: Tensor | float = 0.0) -> SeriesErrors:
    """Return the errors of means, from the deviations of series from their means.

    For a derived quantity `f(<a>)` pass the deviations `sum_i df/da_i (a_i - <a_i>)`. Its error is then exact
    to leading order, with all correlations between the `a_i` and its own autocorrelation time.

    A slow part that is hidden below a fast one stays unseen in a series of less than about 50 of its own
    autocorrelation times. Then the error is too small without a note.

    Args:
        fluctuations: deviations of k series, `(n, n_chains, k)`, of mean zero. With n < 4, or n < 8 in at
            least 8 chains, the averages of chains count as independent, so `(1, n, k)` are n independent
            samples.
        scale: size of each mean, `(k,)`; fluctuations smaller than its rounding error count as zero.

    Returns:
        Errors and autocorrelation times, `(k,)` each.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if they are complex, of another shape or none.
    """
    fluctuations = real_numbers(fluctuations, "fluctuations", dims=(3,), shape="(n, n_chains, k)", minimum=1)
    n, n_chains, k = fluctuations.shape
    if n * n_chains < 2:
        raise ValueError(f"An error needs two samples or more; got {n} steps of {n_chains} chains.")
    scale = torch.as_tensor(scale).to(fluctuations).expand(k)
    if n < MIN_CHAIN_LENGTH or (n < MIN_WINDOWED_LENGTH and n_chains >= MIN_REPLICAS):
        return SeriesErrors(*_of_replicas(fluctuations, scale), n, n_chains)
    width = max(1, MAX_TRANSFORMED_VALUES // (n * n_chains))
    parts = [
        _gamma_method(part, bound)
        for part, bound in zip(fluctuations.split(width, 2), scale.split(width), strict=True)
    ]
    error, tau, tau_error, slow = (torch.cat(column) for column in zip(*parts, strict=True))
    return SeriesErrors(error, tau, tau_error, n, n_chains, slow=slow)


def tail_factor(deviations: Tensor, n_effective: Tensor | float | None = None) -> Tensor:
    """Return by how much heavy tails widen an error, `1 + (kurtosis - 1) / (2 N)`.

    An error from N fluctuations of kurtosis K has itself the relative error `sqrt((K - 1) / N) / 2`, and it
    is small where the estimate is far off. Student's t distribution would ask for half of the excess. All of
    it keeps the coverage of ratios of high moments and of the forward ESS.

    Args:
        deviations: of N samples or blocks from their mean, `(N, ...)`.
        n_effective: number of independent ones, `(...)`; N by default.

    Returns:
        Factors, `(...)`; 1 where nothing fluctuates.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if they are complex, or none.
    """
    deviations = real_numbers(deviations, "deviations", dims=AT_LEAST_ONE, shape="(N, ...)", minimum=1)
    square = deviations.square().mean(0)
    kurtosis = deviations.pow(4).mean(0) / square.square()
    n_effective = len(deviations) if n_effective is None else n_effective
    return (1 + (kurtosis - 1) / (2 * n_effective)).nan_to_num(nan=1.0)


def _of_replicas(fluctuations: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return errors, tau_int and its errors from the scatter of the averages of independent chains."""
    n, n_chains, _ = fluctuations.shape
    square = fluctuations.mean(0).var(0) / n_chains
    variance = fluctuations.flatten(0, 1).var(0)
    constant = variance <= (ROUNDING * scale) ** 2
    if n == 1:
        tau, tau_error = torch.full_like(square, 0.5), torch.zeros_like(square)
    else:
        tau = 0.5 * n * n_chains * square / variance
        tau_error = tau * math.sqrt(2 / (n_chains - 1))
    tau, tau_error = (torch.where(constant, math.inf, value) for value in (tau, tau_error))
    return square.sqrt(), tau, tau_error


def _gamma_method(fluctuations: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return errors, tau_int, its errors and the times of the slowest parts, `(k,)` each."""
    n, n_chains, _ = fluctuations.shape
    total = n * n_chains
    power = periodogram(fluctuations)
    alternating, variance, window, tau = _windowed(power, n_chains)
    constant = variance <= (ROUNDING * scale) ** 2
    # Noise of an anticorrelated series can push the sum below the smallest possible value.
    tau = tau.clamp(min=0.5 / n)
    tau_error = _error_of_tau(tau, window, total)
    summed, slow = 2 * tau.clamp(min=0.5) * variance, tau.clamp(min=0.5)
    # Averages of neighbours give half a weight to both ends of each chain; this variance is missing.
    ends = 0.5 * variance / n
    antithetic = (alternating < -ANTITHETIC_SIGMAS / math.sqrt(total) * variance) & ~constant
    if n > MIN_CHAIN_LENGTH and bool(antithetic.any()):
        averages = 0.5 * (fluctuations[1:] + fluctuations[:-1])[..., antithetic]
        _, of_averages, window, times = _windowed(periodogram(averages), n_chains, s_tau=S_TAU_OF_AVERAGES)
        times = times.clamp(min=0.25)
        slow[antithetic] = times
        summed[antithetic] = 2 * times * of_averages + ends[antithetic]
        tau[antithetic] = times * of_averages / variance[antithetic]
        tau_error[antithetic] = tau[antithetic] * _error_of_tau(times, window, total) / times
    lowest = LowFrequencies.of(power, n_chains)
    missed = ~lowest.agree(summed, slow, SIGMAS_OF_WINDOW) & ~constant
    if bool(missed.any()):
        sums, _, relative = _in_bands(power[:, missed], lowest.columns(missed), n_chains)
        summed[missed] = sums.maximum(ends[missed])
        # Times of which as many pairs fit into the series as a square of this relative error has.
        slow[missed] = 0.25 * total * relative.square()
        tau[missed] = 0.5 * summed[missed] / variance[missed]
        tau_error[missed] = tau[missed] * relative
    # N / (N - 1) makes the error of independent samples exact.
    error = (summed / max(total - 1, 1)).sqrt()
    infinite = torch.full_like(tau, math.inf)
    return (
        torch.where(constant, 0.0, error),
        torch.where(constant, infinite, tau),
        torch.where(constant, infinite, tau_error),
        torch.where(constant, infinite, slow),
    )


def _in_bands(power: Tensor, lowest: LowFrequencies, n_chains: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return `error^2 N`, times of the slowest parts and relative errors of tau_int, from low frequencies.

    The widest band that agrees with the averages over the lowest frequencies counts, or the narrowest one.
    """
    n = len(power) - 1
    found: tuple[Tensor, Tensor, Tensor] | None = None
    settled = torch.zeros_like(power[0], dtype=torch.bool)
    for gamma in bands(power, n_chains):
        step, total = n / len(gamma), len(gamma) * n_chains
        window, tau = _window(gamma, total, S_TAU)
        tau = tau.clamp(min=0.5)
        new = 2 * tau * gamma[0] * step, tau * step, _error_of_tau(tau, window, total) / tau
        found = new if found is None else _chosen(settled, found, new)
        settled |= lowest.agree(found[0], found[1], SIGMAS_OF_BANDS)
    assert found is not None  # series that are long enough to be tested have a band
    return found


def _chosen(
    old: Tensor, found: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values found before where `old` is true, else the new ones."""
    first, second, third = (torch.where(old, a, b) for a, b in zip(found, new, strict=True))
    return first, second, third


def _error_of_tau(tau: Tensor, window: Tensor, total: int) -> Tensor:
    """Return the standard error of an autocorrelation time (hep-lat/0306017, equation 42)."""
    return 2 * tau * ((window + 0.5 - tau).clamp(min=0.5) / total).sqrt()


def _windowed(power: Tensor, n_chains: int, *, s_tau: float = S_TAU) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a measure of alternation, the variance, the window W and `tau_int = 1/2 + sum_{t <= W} rho(t)`.

    The window is that of `_window`, or the end of the positive pairs if they hold significantly more.
    """
    n = len(power) - 1
    total, end = n * n_chains, max(n // 2, 2)
    gamma = autocovariances(power, n, n_chains)
    window, tau = _window(gamma, total, s_tau)
    longer, pairs = _of_positive_pairs(gamma[:end], total)
    noise = 2 * tau.clamp(min=0.25) * ((longer - window).clamp(min=1) / total).sqrt()
    hidden = (longer > window) & (pairs > tau + PAIR_SIGMAS * noise)
    # Of a series without alternation, rho(1) and rho(1) - rho(2) are negative by noise only.
    alternating = torch.minimum(gamma[1], (gamma[1] - gamma[2]) / math.sqrt(2))
    return alternating, gamma[0], torch.where(hidden, longer, window), torch.where(hidden, pairs, tau)


def _window(gamma: Tensor, total: int, s_tau: float) -> tuple[Tensor, Tensor]:
    """Return the window W and `tau_int = 1/2 + sum_{t <= W} rho(t)` of autocovariances `(n, k)`.

    W is the smallest with `exp(-W / tau_exp) < tau_exp / sqrt(W N)`, where the truncation error falls below
    the statistical error of tau_int (hep-lat/0306017, equations 51 and 52), or half of a chain.
    """
    end = max(len(gamma) // 2, 2)
    windows = torch.arange(1, end, device=gamma.device)[:, None]
    running = 0.5 + (gamma[1:end] / gamma[0]).cumsum(0)
    # For tau_int <= 1/2 the logarithm does not exist: the series has no slow mode.
    slow = running > 0.5
    tau_exp = torch.where(slow, s_tau / ((2 * running + 1) / (2 * running - 1)).log(), 1e-9)
    enough = (-windows / tau_exp).exp() < tau_exp / (windows * total).sqrt()
    last = torch.full_like(enough[:1], True)
    index = torch.cat([enough[:-1], last]).to(torch.uint8).argmax(0)
    window = (index + 1).to(gamma)
    # Subtracting the sample mean has biased rho by about -2 tau / N.
    return window, running.gather(0, index[None])[0] * (1 + (2 * window + 1) / total)


def _of_positive_pairs(gamma: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return the window and tau_int of Geyer's initial monotone sequence of autocovariances `(lag, k)`."""
    pairs = gamma[: len(gamma) // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    falling = pairs.cummin(0).values
    window = 2.0 * (falling > 0).sum(0).to(gamma) - 1
    summed = falling.clamp(min=0).sum(0) / gamma[0] - 0.5
    return window, summed * (1 + (2 * window + 1) / total)
