"""Markov chains: errors that know their autocorrelations, by the Gamma method (hep-lat/0306017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate

#: assumed ratio of exponential to integrated autocorrelation time
S_TAU = 1.5
#: chains shorter than this have no autocorrelation to speak of: their averages are compared
SHORTEST = 4
#: numbers that are Fourier transformed at a time, which bounds the memory
AT_ONCE = 2**22


@dataclass(frozen=True)
class SeriesErrors:
    """Standard errors of means and the autocorrelation times behind them, `(k,)` each.

    Attributes:
        error: `sqrt(2 tau_int var / N)`.
        tau: integrated autocorrelation time in steps, 0.5 for independent samples; infinite for a
            constant series, whose error is 0.
        tau_error: of `tau`.
    """

    error: Tensor
    tau: Tensor
    tau_error: Tensor

    def estimate(self, k: int, mean: float, *, systematic: float = 0.0) -> Estimate:
        """The `k`-th as an `Estimate`."""
        tau, tau_error = float(self.tau[k]), float(self.tau_error[k])
        known = {"tau_int": tau, "tau_int_error": tau_error} if math.isfinite(tau) else {}
        return Estimate(mean, float(self.error[k]), systematic=systematic, **known)


def error_of_fluctuations(fluctuations: Tensor, *, scale: Tensor | float = 0.0) -> SeriesErrors:
    """Errors of means from the deviations of a series from its mean.

    Of a derived quantity `f(<a>)` the deviations are `sum_i df/da_i (a_i - <a_i>)`: its error to
    leading order, with all correlations between the `a_i`, and with an autocorrelation time of its own.

    Args:
        fluctuations: `(n, n_chains, k)`, of mean zero. With n < 4 the chains' averages are taken for
            independent; `(1, n, k)` are n independent samples.
        scale: size of the mean, `(k,)`, which tells fluctuations from rounding.
    """
    n, n_chains, k = fluctuations.shape
    scale = torch.as_tensor(scale).to(fluctuations).expand(k)
    if n < SHORTEST:
        return _of_replicas(fluctuations, scale)
    width = max(1, AT_ONCE // (n * n_chains))
    parts = [
        _gamma_method(part, bound)
        for part, bound in zip(fluctuations.split(width, 2), scale.split(width), strict=True)
    ]
    return SeriesErrors(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_replicas(fluctuations: Tensor, scale: Tensor) -> SeriesErrors:
    """From the scatter of independent chains."""
    n, n_chains, _ = fluctuations.shape
    square = fluctuations.mean(0).var(0) / n_chains
    variance = fluctuations.flatten(0, 1).var(0)
    constant = variance <= (1e-14 * scale) ** 2
    if n == 1:
        tau, tau_error = torch.full_like(square, 0.5), torch.zeros_like(square)
    else:
        tau = 0.5 * n * n_chains * square / variance
        tau_error = tau * math.sqrt(2 / (n_chains - 1))
    tau, tau_error = (torch.where(constant, math.inf, value) for value in (tau, tau_error))
    return SeriesErrors(square.sqrt(), tau, tau_error)


def _gamma_method(fluctuations: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`tau_int = 1/2 + sum_{t <= W} rho(t)` with W where statistical and systematic error balance."""
    n, n_chains, _ = fluctuations.shape
    total = n * n_chains
    power = torch.fft.rfft(fluctuations, 2 * n, dim=0).abs().square().sum(1)
    gamma = torch.fft.irfft(power, 2 * n, dim=0)[:n]
    gamma /= n_chains * torch.arange(n, 0, -1).to(gamma)[:, None]
    variance = gamma[0]
    constant = variance <= (1e-14 * scale) ** 2
    windows = torch.arange(1, n // 2, device=gamma.device)[:, None]
    running = 0.5 + (gamma[1 : n // 2] / variance).cumsum(0)
    # Up to 1/2 the ratio below has no logarithm: there is nothing to wait for.
    slow = running > 0.5
    tau_exp = torch.where(slow, S_TAU / ((2 * running + 1) / (2 * running - 1)).log(), 1e-9)
    enough = (-windows / tau_exp).exp() < tau_exp / (windows * total).sqrt()
    last = torch.full_like(enough[:1], True)
    index = torch.cat([enough[:-1], last]).to(torch.uint8).argmax(0)
    window = (index + 1).to(gamma)
    # The subtraction of the sample mean biases rho by about -2 tau / N.
    tau = running.gather(0, index[None])[0] * (1 + (2 * window + 1) / total)
    # Anticorrelated noise can push the sum below what any process has; one sample is the least.
    tau = tau.clamp(min=0.5 / n)
    tau_error = 2 * tau * ((window + 0.5 - tau).clamp(min=0.5) / total).sqrt()
    # N / (N - 1): exact for independent samples.
    error = (2 * tau.clamp(min=0.5) * variance / max(total - 1, 1)).sqrt()
    infinite = torch.full_like(tau, math.inf)
    return (
        torch.where(constant, 0.0, error),
        torch.where(constant, infinite, tau),
        torch.where(constant, infinite, tau_error),
    )


def integrated_autocorrelation_time(series: Tensor) -> Estimate:
    """`tau_int = 1/2 + sum_t rho(t)` by the Gamma method with automatic window (hep-lat/0306017).

    Args:
        series: `(n,)`, or `(n, n_chains)` for independent chains of the same process.

    Returns:
        tau_int in units of the series' steps, with its error. A constant series has no fluctuation to
        speak of: its tau_int is reported as infinite.
    """
    values = _as_chains(series)
    errors = error_of_fluctuations((values - values.mean())[..., None], scale=values.abs().max())
    return Estimate(float(errors.tau), float(errors.tau_error))


def mean_of_series(series: Tensor) -> Estimate:
    """Mean of a Markov chain with its autocorrelation in the error: `error^2 = 2 tau_int var / N`.

    Args:
        series: `(n,)` or `(n, n_chains)`.
    """
    return estimate_of_series(lambda mean: mean, series)


def estimate_of_series(function: Callable[..., Tensor], *series: Tensor) -> Estimate:
    """A function of the means of series, its error by linear propagation and the Gamma method.

    The fluctuations `sum_i df/da_i (a_i - <a_i>)` are a series with an autocorrelation of its own
    (hep-lat/0306017, section 3), so that no block length has to be chosen.

    Args:
        function: takes the mean of each series, 0-d tensors, and returns one; differentiable.
        series: measured on the same configurations, `(n,)` or `(n, n_chains)` each.

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


def block_count(series: Tensor, *, most: int = 128) -> int:
    """How many jackknife blocks of equal length absorb the autocorrelation of a series.

    A block shorter than the autocorrelation makes the error too small, by a fraction
    `tau_int / length`; few blocks make it noisy. Both are balanced by the length
    `(4 tau_int^2 N)^(1/3)`, and it is at least `10 tau_int`. No block is longer than a chain.

    Args:
        series: `(n,)` or `(n, n_chains)`.
        most: blocks.

    Returns:
        Number of blocks of the chains laid end to end: a multiple of the number of chains wherever a
        chain is longer than one block.
    """
    values = _as_chains(series)
    n, n_chains = values.shape
    tau = integrated_autocorrelation_time(values).mean
    if math.isinf(tau):
        return max(2, min(n_chains, most))
    length = max((4 * tau**2 * n * n_chains) ** (1 / 3), 10 * tau)
    per_chain = max(1, int(n / length))
    return max(2, min(per_chain * n_chains, most - most % n_chains if n_chains <= most else most))


def _as_chains(series: Tensor) -> Tensor:
    values = torch.as_tensor(series).detach().double()
    values = values[:, None] if values.dim() == 1 else values
    if values.dim() != 2 or (len(values) < SHORTEST and values.shape[1] < 2) or not values.numel():
        raise ValueError(
            f"A series must be (n,) or (n, n_chains) with n >= {SHORTEST}, or several chains; got shape "
            f"{tuple(series.shape)}."
        )
    if not bool(values.isfinite().all()):
        raise ValueError("The series has NaN or infinite values; expected finite ones.")
    return values
