"""Importance weights `w = exp(-S(phi) - log q(phi))`: effective sample sizes and log Z."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.jackknife import jackknife_of_logs, zero_or_finite_logs
from equiflow.statistics.reweighting import few_effective_samples
from equiflow.statistics.series import mean_of_series


def effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return the reverse ESS per sample, `(sum w)^2 / (N sum w^2)`, on independent samples of the model.

    It cannot see a mode that the model has dropped: look at `forward_effective_sample_size` too.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`; -inf is a weight of zero.
        n_blocks: number of blocks for the jackknife error.

    Returns:
        The estimate, between 0 and 1.

    Raises:
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight)
    # Without the largest weight's logarithm: the difference of two log-averages would drown in a huge offset.
    log_weight = log_weight - log_weight.max() if len(log_weight) else log_weight
    return jackknife_of_logs(
        lambda log_m1, log_m2: (2 * log_m1 - log_m2).exp(), log_weight, 2 * log_weight, n_blocks=n_blocks
    )


def forward_effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return the forward ESS per sample, `1 / (mean_p[w] mean_p[1/w])`, on samples of the target.

    Args:
        log_weight: `-S(phi) - log q(phi)` on target samples, `(n_samples,)`, in the order of sampling.
        n_blocks: number of blocks for the jackknife error. Blocks should be longer than the
            autocorrelation time.

    Returns:
        The estimate, between 0 and 1; 0 without an error if a weight is zero.

    Raises:
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight)
    if bool(log_weight.isneginf().any()):  # the mean of 1/w is infinite
        return Estimate(0.0, 0.0)
    return jackknife_of_logs(
        lambda log_w, log_inverse: (-log_w - log_inverse).exp(),
        log_weight,
        -log_weight,
        n_blocks=n_blocks,
        widen=True,
    )


def log_mean_exp(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Return `log Z = log mean w` with its error, on independent samples of the model.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`; -inf is a weight of zero.
        n_blocks: number of blocks for the jackknife error.

    Returns:
        The estimate. Its note says if few samples carry the weight.

    Raises:
        ValueError: if there are fewer than two samples, or a weight is NaN or +inf, or all are zero.
    """
    estimate = jackknife_of_logs(lambda log_mean: log_mean, log_weight, n_blocks=n_blocks)
    return replace(estimate, note=few_effective_samples(log_weight))


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
    model, target = zero_or_finite_logs(model_log_weight), zero_or_finite_logs(target_log_weight)
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
