"""Estimates with errors: effective sample sizes, autocorrelation times, jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A value with its one-sigma statistical error.

    Attributes:
        mean: the value.
        error: its standard error.
        tau_int: integrated autocorrelation time of the series behind it, in units of its steps
            (0.5 for independent samples); None where no series is behind it.
        systematic: size of the discretisation error of the flow behind it, see `Certificate`.

    >>> print(Estimate(0.21053, 0.00009))
    0.210530 ± 0.000090
    """

    mean: float
    error: float
    tau_int: float | None = None
    systematic: float = 0.0

    @property
    def total_error(self) -> float:
        """Statistical and discretisation error in quadrature."""
        return math.hypot(self.error, self.systematic)

    def __str__(self) -> str:
        # Below a hundredth of the statistical error it changes no digit that is shown.
        shown = self.systematic > 0.01 * self.error
        return self._with_error() + (f" ± {self.systematic:.1g} (solver)" if shown else "")

    def _with_error(self) -> str:
        if not (math.isfinite(self.error) and self.error > 0):
            return f"{self.mean:.6g} ± {self.error:.2g}"
        # Two significant digits of the error, and as many decimals of the mean.
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f}"

    def sigmas_from(self, other: Estimate | float) -> float:
        """Difference in units of the combined total error, for independent estimates."""
        value, error = (other.mean, other.total_error) if isinstance(other, Estimate) else (other, 0.0)
        difference, combined = self.mean - value, math.hypot(self.total_error, error)
        if combined == 0.0:
            return 0.0 if difference == 0.0 else math.copysign(math.inf, difference)
        return difference / combined


def jackknife(
    function: Callable[..., Tensor], *columns: Tensor, n_blocks: int = 128
) -> tuple[Tensor, Tensor]:
    """A function of averages and its error, by leaving out one block of samples at a time.

    Args:
        function: takes the average of each column, `(...)`, and returns a tensor.
        columns: `(n_samples, ...)` each, ordered as sampled, so that blocks absorb autocorrelations.
        n_blocks: number of contiguous blocks (at most the number of samples).

    Returns:
        The function of the full averages and its jackknife error, both shaped like its result.

    Raises:
        ValueError: if there are less than two samples or blocks, or the columns differ in length.
    """
    n_samples = len(columns[0])
    if n_blocks < 2:
        raise ValueError(f"jackknife needs n_blocks >= 2, got {n_blocks}.")
    if n_samples < 2 or any(len(column) != n_samples for column in columns):
        raise ValueError("jackknife needs columns of one length >= 2; got " + str([len(c) for c in columns]))
    n_blocks = min(n_blocks, n_samples)
    blocks = [torch.tensor_split(column.double(), n_blocks) for column in columns]
    totals = [column.double().sum(0) for column in columns]
    full = function(*(total / n_samples for total in totals))
    left_out = torch.stack(
        [
            function(
                *(
                    (total - block[b].sum(0)) / (n_samples - len(block[b]))
                    for total, block in zip(totals, blocks, strict=True)
                )
            )
            for b in range(n_blocks)
        ]
    )
    spread = (left_out - left_out.mean(0)).square().sum(0)
    return full, (spread * (n_blocks - 1) / n_blocks).sqrt()


def jackknife_estimate(function: Callable[..., Tensor], *columns: Tensor, n_blocks: int = 128) -> Estimate:
    """`jackknife` for a scalar function of averages."""
    mean, error = jackknife(function, *columns, n_blocks=n_blocks)
    return Estimate(float(mean), float(error))


def jackknife_of_logs(function: Callable[..., Tensor], *log_columns: Tensor, n_blocks: int = 128) -> Estimate:
    """`jackknife` of a function of log-averages `log mean exp(column)`: no weight is too large for it.

    Args:
        function: takes the log-average of each column, elementwise, and returns a tensor.
        log_columns: `(n_samples,)` each, finite, ordered as sampled.
        n_blocks: number of contiguous blocks (at most the number of samples).
    """
    columns = [_finite_logs(column) for column in log_columns]
    n_samples = len(columns[0])
    if n_samples < 2 or n_blocks < 2:
        raise ValueError(f"Expected n_samples >= 2 and n_blocks >= 2, got {n_samples} and {n_blocks}.")
    n_blocks = min(n_blocks, n_samples)
    sizes = torch.tensor([len(block) for block in torch.tensor_split(columns[0], n_blocks)])
    left = (n_samples - sizes).to(columns[0]).log()
    left_out = []
    for column in columns:
        blocks = torch.stack([block.logsumexp(0) for block in torch.tensor_split(column, n_blocks)])
        others = blocks.expand(n_blocks, n_blocks).clone().fill_diagonal_(-math.inf)
        left_out.append(others.logsumexp(1) - left)
    full = function(*(column.logsumexp(0) - math.log(n_samples) for column in columns))
    values = function(*left_out)
    variance = (values - values.mean()).square().sum() * (n_blocks - 1) / n_blocks
    return Estimate(float(full), float(variance.sqrt()))


def _finite_logs(log_weight: Tensor) -> Tensor:
    log_weight = log_weight.detach().double()
    if not bool(log_weight.isfinite().all()):
        raise ValueError("log_weight has NaN or infinite values; expected finite ones.")
    return log_weight


def normalised_weights(log_weight: Tensor) -> Tensor:
    """`exp(log_weight)` scaled so that the largest is 1, in float64."""
    log_weight = _finite_logs(log_weight)
    return (log_weight - log_weight.max()).exp() if len(log_weight) else log_weight


def effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Reverse ESS per sample, `(sum w)^2 / (N sum w^2)`, on independent samples of the model.

    It cannot see a mode that the model has dropped: look at `forward_effective_sample_size` too.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`.
        n_blocks: for the jackknife error.
    """
    log_weight = _finite_logs(log_weight)
    # Relative to the largest: log-averages that share a huge offset would lose their difference.
    log_weight = log_weight - log_weight.max() if len(log_weight) else log_weight
    return jackknife_of_logs(
        lambda log_m1, log_m2: (2 * log_m1 - log_m2).exp(), log_weight, 2 * log_weight, n_blocks=n_blocks
    )


def forward_effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Forward ESS per sample, `1 / (mean_p[w] mean_p[1/w])`, on samples of the target.

    Args:
        log_weight: `-S(phi) - log q(phi)` on target samples, `(n_samples,)`, ordered as sampled.
        n_blocks: for the jackknife error; blocks should be longer than the autocorrelation time.
    """
    return jackknife_of_logs(
        lambda log_w, log_inverse: (-log_w - log_inverse).exp(), log_weight, -log_weight, n_blocks=n_blocks
    )


def log_mean_exp(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """`log Z = log mean exp(log_weight)` with its error, on independent samples of the model."""
    return jackknife_of_logs(lambda log_mean: log_mean, log_weight, n_blocks=n_blocks)


def bridge_log_z(model_log_weight: Tensor, target_log_weight: Tensor, *, n_blocks: int = 64) -> Estimate:
    """`log Z` from samples of both densities, by Bennett's acceptance ratio (1976).

    Solves `sum_model f(C - log w) = sum_target f(log w - C)` with `f(x) = 1 / (1 + exp(x))` and
    `C = log Z + log(n_model / n_target)`: the least-variance combination of both directions.

    Args:
        model_log_weight: `-S - log q` on samples of the model, `(n_model,)`.
        target_log_weight: `-S - log q` on samples of the target, `(n_target,)`, ordered as sampled.
        n_blocks: for the jackknife over blocks of both.
    """
    model, target = _finite_logs(model_log_weight), _finite_logs(target_log_weight)
    n_blocks = min(n_blocks, len(model), len(target))
    mean = _bennett(model, target)
    model_blocks = torch.arange(len(model)) * n_blocks // len(model)
    target_blocks = torch.arange(len(target)) * n_blocks // len(target)
    left_out = torch.tensor(
        [_bennett(model[model_blocks != b], target[target_blocks != b]) for b in range(n_blocks)],
        dtype=torch.float64,
    )
    variance = float((left_out - left_out.mean()).square().sum()) * (n_blocks - 1) / n_blocks
    return Estimate(mean, math.sqrt(variance))


def _bennett(model: Tensor, target: Tensor) -> float:
    """Root of Bennett's equation by bisection: its left side falls and its right side rises with C."""
    low, high = float(min(model.min(), target.min())), float(max(model.max(), target.max()))
    offset = math.log(len(model) / len(target))
    for _ in range(100):
        log_z = 0.5 * (low + high)
        c = log_z + offset
        excess = float(torch.sigmoid(model - c).sum() - torch.sigmoid(c - target).sum())
        low, high = (log_z, high) if excess > 0 else (low, log_z)
    return 0.5 * (low + high)


def integrated_autocorrelation_time(series: Tensor, *, s_tau: float = 1.5) -> Estimate:
    """`tau_int = 1/2 + sum_t rho(t)` by the Gamma method with automatic window (hep-lat/0306017).

    Args:
        series: `(n,)`, or `(n, n_chains)` for independent chains of the same process.
        s_tau: assumed ratio of exponential to integrated autocorrelation time.

    Returns:
        tau_int in units of the series' steps, with its error. A constant series has no fluctuation to
        speak of: its tau_int is reported as infinite.
    """
    values = _as_chains(series)
    n, n_chains = values.shape
    rho = _autocorrelation(values)
    if rho is None:
        return Estimate(math.inf, math.inf)
    total = n * n_chains
    tau = 0.5
    for window in range(1, n // 2):
        tau = 0.5 + float(rho[1 : window + 1].sum())
        tau_exp = s_tau / math.log((2 * tau + 1) / (2 * tau - 1)) if tau > 0.5 else 1e-9
        if math.exp(-window / tau_exp) - tau_exp / math.sqrt(window * total) < 0:
            break
    else:
        window = max(1, n // 2 - 1)
    # The subtraction of the sample mean biases rho by about -2 tau / N.
    tau *= 1 + (2 * window + 1) / total
    # Anticorrelated noise can push the sum below what any process has; one sample is the least.
    tau = max(tau, 0.5 / n)
    return Estimate(tau, 2 * tau * math.sqrt(max(window + 0.5 - tau, 0.5) / total))


def mean_of_series(series: Tensor) -> Estimate:
    """Mean of a Markov chain with its autocorrelation in the error: `error^2 = 2 tau_int var / N`.

    Args:
        series: `(n,)` or `(n, n_chains)`.
    """
    values = _as_chains(series)
    mean = float(values.mean())
    variance = float(values.var())
    tau = integrated_autocorrelation_time(series).mean
    if math.isinf(tau):
        return Estimate(mean, 0.0)
    return Estimate(mean, math.sqrt(2 * max(tau, 0.5) * variance / values.size), tau)


def _as_chains(series: Tensor) -> np.ndarray:
    values = torch.as_tensor(series).detach().double().cpu().numpy()
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) < 4:
        raise ValueError(
            f"A series must be (n,) or (n, n_chains) with n >= 4; got shape {tuple(series.shape)}."
        )
    if not np.isfinite(values).all():
        raise ValueError("The series has NaN or infinite values; expected finite ones.")
    return values


def _autocorrelation(values: np.ndarray) -> np.ndarray | None:
    """Normalised autocorrelation averaged over chains, around the common mean; None if constant."""
    n, n_chains = values.shape
    centred = values - values.mean()
    padded = np.fft.rfft(centred, 2 * n, axis=0)
    gamma = np.fft.irfft(np.abs(padded) ** 2, 2 * n, axis=0)[:n].sum(1)
    gamma /= n_chains * np.arange(n, 0, -1)
    rounding = (1e-14 * np.abs(values).max()) ** 2
    return None if gamma[0] <= rounding else gamma / gamma[0]
