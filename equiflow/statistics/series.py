"""Markov chains: errors that include autocorrelations, by the Gamma method (hep-lat/0306017).

Start with `mean_of_series`, or with `estimate_of_series` for a function of means. Both rest on
`error_of_fluctuations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate

#: assumed ratio of exponential to integrated autocorrelation time, S in the paper
S_TAU = 1.5
#: length of the shortest chain with a measurable autocorrelation; of shorter chains the averages are compared
MIN_CHAIN_LENGTH = 4
#: number of values that are Fourier transformed at a time, which bounds the memory
MAX_TRANSFORMED_VALUES = 2**22
#: fluctuations below this fraction of the mean are rounding errors
ROUNDING = 1e-14


@dataclass(frozen=True)
class SeriesErrors:
    """Standard errors of k means and the autocorrelation times behind them, `(k,)` each.

    Attributes:
        error: standard errors, `sqrt(2 tau_int var / N)`.
        tau: integrated autocorrelation times in steps, 0.5 for independent samples. A constant series has
            error 0 and infinite tau.
        tau_error: standard errors of `tau`.
    """

    error: Tensor
    tau: Tensor
    tau_error: Tensor

    def estimate(self, k: int, mean: float, *, systematic: float = 0.0) -> Estimate:
        """Return the estimate of one mean.

        Args:
            k: its index.
            mean: its value.
            systematic: size of its discretisation error.

        Returns:
            The value with its error and, if finite, its autocorrelation time.
        """
        tau, tau_error = float(self.tau[k]), float(self.tau_error[k])
        known = {"tau_int": tau, "tau_int_error": tau_error} if math.isfinite(tau) else {}
        return Estimate(mean, float(self.error[k]), systematic=systematic, **known)


def error_of_fluctuations(fluctuations: Tensor, *, scale: Tensor | float = 0.0) -> SeriesErrors:
    """Return the errors of means, from the deviations of series from their means.

    For a derived quantity `f(<a>)` pass the deviations `sum_i df/da_i (a_i - <a_i>)`. Its error is then exact
    to leading order, with all correlations between the `a_i` and its own autocorrelation time.

    Args:
        fluctuations: deviations of k series, `(n, n_chains, k)`, of mean zero. With n < 4 the averages of
            chains count as independent, so `(1, n, k)` are n independent samples.
        scale: size of each mean, `(k,)`; fluctuations smaller than its rounding error count as zero.

    Returns:
        Errors and autocorrelation times, `(k,)` each.
    """
    n, n_chains, k = fluctuations.shape
    scale = torch.as_tensor(scale).to(fluctuations).expand(k)
    if n < MIN_CHAIN_LENGTH:
        return _of_replicas(fluctuations, scale)
    width = max(1, MAX_TRANSFORMED_VALUES // (n * n_chains))
    parts = [
        _gamma_method(part, bound)
        for part, bound in zip(fluctuations.split(width, 2), scale.split(width), strict=True)
    ]
    return SeriesErrors(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_replicas(fluctuations: Tensor, scale: Tensor) -> SeriesErrors:
    """Return errors from the scatter of the averages of independent chains."""
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
    return SeriesErrors(square.sqrt(), tau, tau_error)


def _gamma_method(fluctuations: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return errors, tau_int and its errors, `(k,)` each, from `tau_int = 1/2 + sum_{t <= W} rho(t)`.

    The window W is the smallest with `exp(-W / tau_exp) < tau_exp / sqrt(W N)`, where the truncation error
    falls below the statistical error of tau_int (hep-lat/0306017, equations 51 and 52).
    """
    n, n_chains, _ = fluctuations.shape
    total = n * n_chains
    power = torch.fft.rfft(fluctuations, 2 * n, dim=0).abs().square().sum(1)
    gamma = torch.fft.irfft(power, 2 * n, dim=0)[:n]
    gamma /= n_chains * torch.arange(n, 0, -1).to(gamma)[:, None]
    variance = gamma[0]
    constant = variance <= (ROUNDING * scale) ** 2
    windows = torch.arange(1, n // 2, device=gamma.device)[:, None]
    running = 0.5 + (gamma[1 : n // 2] / variance).cumsum(0)
    # For tau_int <= 1/2 the logarithm does not exist: the series has no slow mode.
    slow = running > 0.5
    tau_exp = torch.where(slow, S_TAU / ((2 * running + 1) / (2 * running - 1)).log(), 1e-9)
    enough = (-windows / tau_exp).exp() < tau_exp / (windows * total).sqrt()
    last = torch.full_like(enough[:1], True)
    index = torch.cat([enough[:-1], last]).to(torch.uint8).argmax(0)
    window = (index + 1).to(gamma)
    # Subtracting the sample mean has biased rho by about -2 tau / N.
    tau = running.gather(0, index[None])[0] * (1 + (2 * window + 1) / total)
    # Noise of an anticorrelated series can push the sum below the smallest possible value.
    tau = tau.clamp(min=0.5 / n)
    tau_error = 2 * tau * ((window + 0.5 - tau).clamp(min=0.5) / total).sqrt()
    # N / (N - 1) makes the error of independent samples exact.
    error = (2 * tau.clamp(min=0.5) * variance / max(total - 1, 1)).sqrt()
    infinite = torch.full_like(tau, math.inf)
    return (
        torch.where(constant, 0.0, error),
        torch.where(constant, infinite, tau),
        torch.where(constant, infinite, tau_error),
    )


def integrated_autocorrelation_time(series: Tensor) -> Estimate:
    """Return `tau_int = 1/2 + sum_t rho(t)` by the Gamma method with automatic window (hep-lat/0306017).

    Args:
        series: `(n,)`, or `(n, n_chains)` for independent chains of the same process.

    Returns:
        The time in units of the steps of the series, with its error; infinite for a constant series.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    values = _as_chains(series)
    errors = error_of_fluctuations((values - values.mean())[..., None], scale=values.abs().max())
    return Estimate(float(errors.tau), float(errors.tau_error))


def mean_of_series(series: Tensor) -> Estimate:
    """Return the mean of a Markov chain with its autocorrelation in the error, `error^2 = 2 tau_int var / N`.

    Args:
        series: `(n,)` or `(n, n_chains)`.

    Returns:
        The estimate, with `tau_int` in units of the steps of the series.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    return estimate_of_series(lambda mean: mean, series)


def estimate_of_series(function: Callable[..., Tensor], *series: Tensor) -> Estimate:
    """Return a function of the means of series, with its error by linear propagation and the Gamma method.

    The fluctuations `sum_i df/da_i (a_i - <a_i>)` are a series with its own autocorrelation
    (hep-lat/0306017, section 3), so no block length has to be chosen.

    Args:
        function: takes the mean of each series, 0-d tensors, and returns a 0-d tensor; it must be
            differentiable.
        series: measurements on the same configurations, `(n,)` or `(n, n_chains)` each.

    Returns:
        The estimate, with `tau_int` in units of the steps of the series.

    Raises:
        ValueError: if a series is too short, or has NaN or infinite values.

    >>> magnetisation = torch.tensor([1.0, -1.0, 2.0, -2.0])
    >>> estimate_of_series(lambda m2, m4: 1 - m4 / (3 * m2**2), magnetisation**2, magnetisation**4).mean
    0.5466666666666666
    """
    columns = torch.stack([_as_chains(one) for one in series], -1)
    means = columns.mean((0, 1)).requires_grad_()
    with torch.enable_grad():
        value = function(*means.unbind())
    (slopes,) = torch.autograd.grad(value, means)
    means = means.detach()
    fluctuations = ((columns - means) @ slopes)[..., None]
    scale = (slopes.abs() * columns.abs().amax((0, 1))).sum()
    return error_of_fluctuations(fluctuations, scale=scale).estimate(0, float(value.detach()))


def block_count(series: Tensor, *, max_blocks: int = 128) -> int:
    """Return how many jackknife blocks of equal length absorb the autocorrelation of a series.

    Blocks that are too short make the error too small, by a fraction `tau_int / length`; too few blocks make
    it noisy. The length `(4 tau_int^2 N)^(1/3)` balances both. It is at least `10 tau_int`, and at most the
    length of a chain.

    Args:
        series: `(n,)` or `(n, n_chains)`.
        max_blocks: largest number of blocks.

    Returns:
        Number of blocks for the chains laid end to end. It is a multiple of the number of chains if a chain
        is longer than one block.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    values = _as_chains(series)
    n, n_chains = values.shape
    tau = integrated_autocorrelation_time(values).mean
    if math.isinf(tau):
        return max(2, min(n_chains, max_blocks))
    length = max((4 * tau**2 * n * n_chains) ** (1 / 3), 10 * tau)
    per_chain = max(1, int(n / length))
    limit = max_blocks - max_blocks % n_chains if n_chains <= max_blocks else max_blocks
    return max(2, min(per_chain * n_chains, limit))


def _as_chains(series: Tensor) -> Tensor:
    """Return the series in float64 as `(n, n_chains)`, or raise a ValueError."""
    values = torch.as_tensor(series).detach().double()
    values = values[:, None] if values.dim() == 1 else values
    if values.dim() != 2 or (len(values) < MIN_CHAIN_LENGTH and values.shape[1] < 2) or not values.numel():
        raise ValueError(
            f"A series must be (n,) or (n, n_chains) with n >= {MIN_CHAIN_LENGTH}, or several chains; "
            f"got shape {tuple(series.shape)}."
        )
    if not bool(values.isfinite().all()):
        raise ValueError("The series has NaN or infinite values; expected finite ones.")
    return values
