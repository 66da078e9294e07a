"""Importance weights `w = exp(-S(phi) - log q(phi))`: effective sample sizes and log Z."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.gamma_method import tail_factor
from equiflow.statistics.inputs import zero_or_finite_logs
from equiflow.statistics.jackknife import jackknife_of_logs
from equiflow.statistics.reweighting import (
    MIN_FRACTION,
    N_CONTRIBUTING,
    ONE_SAMPLE,
    effective_number,
    few_effective_samples,
    normalised_weights,
)
from equiflow.statistics.series import mean_of_series
from equiflow.statistics.tails import heavy_tails

#: least error of an ESS R from N effective values, in units of `R (1 - R) / (N - 1)`
LEAST_ERROR = 5.0


def effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return the reverse ESS per sample, `(sum w)^2 / (N sum w^2)`, on independent samples of the model.

    It cannot see a mode that the model has dropped: look at `forward_effective_sample_size` too.

    The mean of `w^2` rests on the `N_2 = (sum w^2)^2 / sum w^4` samples of large weight, and the largest ones
    are rare. So the jackknife error is widened by the kurtosis K of the fluctuations of R and by the number
    of effective samples, see `tail_factor`:

        error = max(jackknife * (1 + (K - 1) / (2 N R)), min(R, 5 R (1 - R) / (N_2 - 1)))

    The second term is for few samples, whose scatter says little. As R is between 0 and 1, no error exceeds
    `max(R, 1 - R)`, and it is that large where essentially one sample has all of the weight.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`; -inf is a weight of zero.
        n_blocks: number of blocks for the jackknife error.

    Returns:
        The estimate, between 0 and 1. Its error is infinite if a single sample has a weight. Its note says if
        few samples carry the weight, or the mean of `w^2`.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight, minimum=2)
    # Without the largest weight's logarithm: the difference of two log-averages would drown in a huge offset.
    log_weight = log_weight - log_weight.max()
    estimate = jackknife_of_logs(
        lambda log_m1, log_m2: (2 * log_m1 - log_m2).exp(), log_weight, 2 * log_weight, n_blocks=n_blocks
    )
    return widened_ess(estimate, log_weight, ess_fluctuations(log_weight))


def ess_fluctuations(log_weight: Tensor) -> Tensor:
    """Return `2 w / mean w - w^2 / mean w^2 - 1`, the relative fluctuations of the reverse ESS.

    Args:
        log_weight: `log w`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        `(n_samples,)` in float64, of mean zero.

    Raises:
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    weight = normalised_weights(log_weight)
    return 2 * weight / weight.mean() - weight.square() / weight.square().mean() - 1


def widened_ess(estimate: Estimate, log_weight: Tensor, fluctuations: Tensor) -> Estimate:
    """Widen the jackknife error of a reverse ESS where few samples carry the weight.

    Args:
        estimate: the ESS, see `effective_sample_size`.
        log_weight: `log w` of the samples behind it, `(n_samples,)`.
        fluctuations: of the ESS, in any unit, `(n_samples,)`.

    Returns:
        The ESS, at most 1, with the larger error and a note. An infinite error stays infinite.

    Raises:
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    few = few_effective_samples(log_weight)
    count, of_squares = effective_number(log_weight), effective_number(2 * log_weight)
    if not few and of_squares < min(N_CONTRIBUTING, MIN_FRACTION * len(log_weight)):
        few = f"only {of_squares:.1f} effective samples of w^2"
    ess = min(estimate.mean, 1.0)
    if math.isinf(estimate.error):
        return replace(estimate, mean=ess, note=few)
    error = max(estimate.error * float(tail_factor(fluctuations, count)), _least_error(ess, of_squares))
    largest = max(ess, 1 - ess)
    error = largest if few and count < ONE_SAMPLE else min(error, largest)
    return replace(estimate, mean=ess, error=error, note=few)


def _least_error(ess: float, count: float) -> float:
    """Return the least error of an ESS from a number of effective values; at most the ESS itself."""
    return min(ess, LEAST_ERROR * ess * (1 - ess) / max(count - 1, 1e-12))


def forward_effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return the forward ESS per sample, `1 / (mean_p[w] mean_p[1/w])`, on samples of the target.

    The jackknife error is widened by the kurtosis K of the fluctuations `w / mean w + w^-1 / mean w^-1 - 2`,

        error = max(jackknife * (1 + (K - 1) tau / sqrt(N N_e)), min(F, 5 F (1 - F) / (N_e - 1))),

    where N_e is the smaller number of effective samples for w and for 1/w, and `2 tau` the square of the
    jackknife error of blocks over that of independent samples, at least 1. It is at most `max(F, 1 - F)`.

    Args:
        log_weight: `-S(phi) - log q(phi)` on target samples, `(n_samples,)`, in the order of sampling.
        n_blocks: number of blocks for the jackknife error. Blocks should be longer than the
            autocorrelation time.

    Returns:
        The estimate, between 0 and 1; 0 without an error if a weight is zero. Its note says if few samples
        carry the mean of w or that of 1/w.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight, minimum=2)
    if bool(log_weight.isneginf().any()):  # the mean of 1/w is infinite
        return Estimate(0.0, 0.0)
    estimate = jackknife_of_logs(
        lambda log_w, log_inverse: (-log_w - log_inverse).exp(), log_weight, -log_weight, n_blocks=n_blocks
    )
    n, ess = len(log_weight), min(estimate.mean, 1.0)
    weight, inverse = normalised_weights(log_weight), normalised_weights(-log_weight)
    fluctuations = weight / weight.mean() + inverse / inverse.mean() - 2
    independent = ess * float(fluctuations.square().sum().sqrt()) / n
    twice_tau = max(1.0, (estimate.error / independent) ** 2) if independent > 0 else 1.0
    count = min(effective_number(log_weight), effective_number(-log_weight))
    factor = float(tail_factor(fluctuations, math.sqrt(n * count) / twice_tau))
    error = min(max(estimate.error * factor, _least_error(ess, count)), max(ess, 1 - ess))
    note = few_effective_samples(log_weight) or few_effective_samples(-log_weight)
    return Estimate(ess, error, note=note)


def log_mean_exp(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return `log Z = log mean w` with its error, on independent samples of the model.

    The jackknife error is widened by `1 + (K - 1) / (2 sqrt(N N_e))`, with the kurtosis K of the weights and
    the number N_e of effective samples: the largest weights are rare, and the scatter is too small without
    them.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`; -inf is a weight of zero.
        n_blocks: number of blocks for the jackknife error.

    Returns:
        The estimate. Its note says if few samples carry the weight, or if its tail is heavy, see
        `heavy_tails`.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight, minimum=2)
    estimate = jackknife_of_logs(lambda log_mean: log_mean, log_weight, n_blocks=n_blocks)
    weight = normalised_weights(log_weight)
    count = math.sqrt(len(weight) * effective_number(log_weight))
    factor = float(tail_factor(weight - weight.mean(), count))
    note = few_effective_samples(log_weight) or heavy_tails(log_weight)
    return replace(estimate, error=estimate.error * factor, note=note)


def bridge_log_z(model_log_weight: Tensor, target_log_weight: Tensor) -> Estimate:
    """Return `log Z` from samples of both densities, by Bennett's acceptance ratio (1976).

    This is the combination of both directions with the smallest variance. It solves

        sum_model f(C - log w) = sum_target f(log w - C),    f(x) = 1 / (1 + exp(x)),
        C = log Z + log(n_model / n_target).

    The error of the two sums, with the autocorrelations of the target, is divided by the slope of their
    difference.

    Args:
        model_log_weight: `-S - log q` on independent samples of the model, `(n_model,)`.
        target_log_weight: `-S - log q` on samples of the target, `(n,)` in the order of sampling, or
            `(n, n_chains)` from several chains.

    Returns:
        The estimate. Its error is infinite if no weight is likely under both densities.

    Raises:
        ValueError: if a weight is NaN or +inf, all of one side are zero, or the target's series is too short.
    """
    model = zero_or_finite_logs(model_log_weight, "model_log_weight", minimum=2)
    target = zero_or_finite_logs(
        target_log_weight, "target_log_weight", dims=(1, 2), shape="(n,) or (n, n_chains)", minimum=1
    )
    chains = target[:, None] if target.dim() == 1 else target
    log_z = _bennett(model, chains.flatten())
    c = log_z + math.log(len(model) / chains.numel())
    from_model, from_target = torch.sigmoid(model - c), torch.sigmoid(c - chains)
    slope = sum(float((f * (1 - f)).sum()) for f in (from_model, from_target))
    if slope == 0.0:  # the two densities do not overlap
        return Estimate(log_z, math.inf)
    square = float(from_model.var()) * len(model)
    square += (mean_of_series(from_target).error * chains.numel()) ** 2
    return Estimate(log_z, math.sqrt(square) / slope)


def _bennett(model: Tensor, target: Tensor) -> float:
    """Solve Bennett's equation by bisection; its left side falls with C and its right side rises."""
    logs = torch.cat([model, target])
    finite = logs[logs.isfinite()]
    low, high = float(finite.min()), float(finite.max())
    if len(finite) < len(logs):  # weights of zero can take Z below the smallest other one
        low -= math.log(len(logs))
    offset = math.log(len(model) / len(target))
    for _ in range(100):
        log_z = 0.5 * (low + high)
        c = log_z + offset
        excess = float(torch.sigmoid(model - c).sum() - torch.sigmoid(c - target).sum())
        low, high = (log_z, high) if excess > 0 else (low, log_z)
    return 0.5 * (low + high)
