"""Importance weights: effective sample sizes and log Z."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.jackknife import finite_logs, jackknife_of_logs
from equiflow.statistics.series import mean_of_series


def normalised_weights(log_weight: Tensor) -> Tensor:
    """`exp(log_weight)` scaled so that the largest is 1, in float64."""
    log_weight = finite_logs(log_weight)
    return (log_weight - log_weight.max()).exp() if len(log_weight) else log_weight


def effective_sample_size(log_weight: Tensor, *, n_blocks: int = 128) -> Estimate:
    """Reverse ESS per sample, `(sum w)^2 / (N sum w^2)`, on independent samples of the model.

    It cannot see a mode that the model has dropped: look at `forward_effective_sample_size` too.

    Args:
        log_weight: `-S(phi) - log q(phi)` on model samples, `(n_samples,)`.
        n_blocks: for the jackknife error.
    """
    log_weight = finite_logs(log_weight)
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


def bridge_log_z(model_log_weight: Tensor, target_log_weight: Tensor) -> Estimate:
    """`log Z` from samples of both densities, by Bennett's acceptance ratio (1976).

    Solves `sum_model f(C - log w) = sum_target f(log w - C)` with `f(x) = 1 / (1 + exp(x))` and
    `C = log Z + log(n_model / n_target)`: the least-variance combination of both directions. The error
    is that of the two sums over the slope of their difference, with the target's autocorrelations.

    Args:
        model_log_weight: `-S - log q` on independent samples of the model, `(n_model,)`.
        target_log_weight: `-S - log q` on samples of the target, `(n,)` in the order they were drawn
            or `(n, n_chains)` from several chains.
    """
    model, target = finite_logs(model_log_weight), finite_logs(target_log_weight)
    chains = target[:, None] if target.dim() == 1 else target
    log_z = _bennett(model, chains.flatten())
    c = log_z + math.log(len(model) / chains.numel())
    from_model, from_target = torch.sigmoid(model - c), torch.sigmoid(c - chains)
    slope = sum(float((f * (1 - f)).sum()) for f in (from_model, from_target))
    if slope == 0.0:  # not even one weight that both sides know
        return Estimate(log_z, math.inf)
    square = float(from_model.var()) * len(model)
    square += (mean_of_series(from_target).error * chains.numel()) ** 2
    return Estimate(log_z, math.sqrt(square) / slope)


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
