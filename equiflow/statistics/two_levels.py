"""Two levels: weighted samples of a cheap approximation, and a few of them computed again without its error.

`log_mean_of_two_levels` and `mean_of_two_levels` estimate what the fine computation of all samples would
give. Both add the change that the few pairs show to the result of all coarse samples. If the two weights of a
sample differ by nearly the same factor for all samples, the change has a small error, however large it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.jackknife import zero_or_finite_logs
from equiflow.statistics.reweighting import (
    error_of_weighted_fluctuations,
    few_effective_samples,
    normalised_weights,
)


def log_mean_of_two_levels(
    coarse: Tensor,
    fine: Tensor,
    rows: Tensor,
    *,
    function: Callable[..., Tensor] = lambda log_mean: log_mean,
    powers: tuple[float, ...] = (1.0,),
) -> Estimate:
    """Return `log mean w` of fine weights, or a function of `log mean w^p`, from coarse ones and a few pairs.

        log mean w = log mean_n w_coarse + log (mean_m w_fine / mean_m w_coarse)

    The ratio makes the error of the change that of the spread of `log w_fine - log w_coarse`. The bias is of
    first order in 1 / m and vanishes with the spread. The jackknife leaves out one sample at a time, in the
    average of all and in the pairs. Leaving out one of m pairs moves the change by 1 / (m - 1) of its
    deviation, which makes its error larger by `sqrt(m / (m - 1))`: Student's factor at one sigma, up to
    1 / m^2.

    Args:
        coarse: coarse `log w` of all samples, `(n_samples,)`; -inf is a weight of zero.
        fine: fine `log w` of some of them, `(n_pairs,)`.
        rows: which samples these are, `(n_pairs,)` of integers without repetition.
        function: takes `log mean w^p` for every power and returns a tensor; it must work elementwise.
        powers: the powers p.

    Returns:
        The estimate. Its note says if few samples carry the weight.

    Raises:
        ValueError: if there are fewer than two samples or pairs, a weight is NaN or +inf, or all are zero.
    """
    coarse, fine = _checked(coarse, fine, rows)
    full, left_out = [], []
    for power in powers:
        of_all = _logs_without_one(power * coarse)
        of_pairs = _change_of_logs(power * coarse[rows], power * fine)
        change = torch.full_like(coarse, float(of_pairs[0]))
        change[rows] = of_pairs[1]
        full.append(of_all[0] + of_pairs[0])
        left_out.append(of_all[1] + change)
    note = few_effective_samples(coarse) or few_effective_samples(fine)
    return Estimate(float(function(*full)), _jackknife_error(function(*left_out)), note=note)


def change_of_log_mean(coarse: Tensor, fine: Tensor) -> Estimate:
    """Return the change of `log mean w` from coarse to fine weights of the same samples.

    Args:
        coarse: coarse `log w`, `(n_pairs,)`.
        fine: fine `log w` of the same samples, `(n_pairs,)`.

    Returns:
        Fine minus coarse, with the error of the pairs.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    coarse, fine = _checked(coarse, fine, torch.arange(len(coarse)))
    change, left_out = _change_of_logs(coarse, fine)
    return Estimate(float(change), _jackknife_error(left_out))


def mean_of_two_levels(
    values: Tensor, log_weight: Tensor, fine_values: Tensor, fine_log_weight: Tensor, rows: Tensor
) -> Estimate:
    """Return a reweighted mean of fine samples from all coarse samples and a few pairs.

        <O> = <O>_coarse,n + (<O>_fine,m - <O>_coarse,m)

    The change is taken as it is: on trained flows, a regression coefficient in front of the coarse means
    would save 0 to 2 % of the work. For the error see `log_mean_of_two_levels`.

    Args:
        values: of the observable on coarse samples, `(n_samples,)`.
        log_weight: coarse `log w`, `(n_samples,)`; -inf is a weight of zero.
        fine_values: of the observable on fine samples, `(n_pairs,)`.
        fine_log_weight: fine `log w`, `(n_pairs,)`.
        rows: which samples were computed twice, `(n_pairs,)` of integers without repetition.

    Returns:
        The estimate. Its note says if few samples carry the weight; then the coarse part has the larger error
        of `error_of_weighted_fluctuations`.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    log_weight, fine_log_weight = _checked(log_weight, fine_log_weight, rows)
    mean, changes = _means_without_one(values, log_weight)
    correction = change_of_mean(values[rows], log_weight[rows], fine_values, fine_log_weight)
    note = few_effective_samples(log_weight) or few_effective_samples(fine_log_weight)
    if note:
        weight = normalised_weights(log_weight)
        deviations = (weight / weight.mean() * (values.double() - mean))[:, None]
        error = float(error_of_weighted_fluctuations(deviations, log_weight))
        return Estimate(float(mean) + correction.mean, math.hypot(error, correction.error), note=note)
    of_coarse = _means_without_one(values[rows], log_weight[rows])[1]
    of_fine = _means_without_one(fine_values, fine_log_weight)[1]
    changes = changes.index_add(0, rows, of_fine - of_coarse)
    return Estimate(float(mean) + correction.mean, _jackknife_error(changes))


def change_of_mean(
    values: Tensor, log_weight: Tensor, fine_values: Tensor, fine_log_weight: Tensor
) -> Estimate:
    """Return the change of a reweighted mean from coarse to fine values and weights of the same samples.

    Args:
        values: of the observable on coarse samples, `(n_pairs,)`.
        log_weight: coarse `log w`, `(n_pairs,)`.
        fine_values: of the observable on fine samples, `(n_pairs,)`.
        fine_log_weight: fine `log w`, `(n_pairs,)`.

    Returns:
        Fine minus coarse, with the error of the pairs.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    log_weight, fine_log_weight = _checked(log_weight, fine_log_weight, torch.arange(len(log_weight)))
    coarse, of_coarse = _means_without_one(values, log_weight)
    fine, of_fine = _means_without_one(fine_values, fine_log_weight)
    return Estimate(float(fine - coarse), _jackknife_error(of_fine - of_coarse))


def fluctuations_of_two_levels(
    values: Tensor, log_weight: Tensor, fine_values: Tensor, fine_log_weight: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return k means as `mean_of_two_levels` does, and the deviation of every sample from them.

    A sample i has the deviation `u_i` in the coarse mean, `w / mean w (O - <O>)`. One of the m pairs has
    another `n / (m - 1) (v_i - u_i)` in the change, with its deviations v and u in the means of the pairs. So
    the mean of n squares, divided by n, is the variance of the estimate, with Student's factor of
    `log_mean_of_two_levels`.

    Args:
        values: of k functions on coarse samples, `(n_samples, k)`.
        log_weight: coarse `log w`, `(n_samples,)`; -inf is a weight of zero.
        fine_values: of the functions on fine samples, `(n_pairs, k)`.
        fine_log_weight: fine `log w`, `(n_pairs,)`.
        rows: which samples were computed twice, `(n_pairs,)` of integers without repetition.

    Returns:
        The means, `(k,)`, and the deviations `(n_samples, k)` of mean zero, in float64.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    log_weight, fine_log_weight = _checked(log_weight, fine_log_weight, rows)
    means, deviations = _deviations(values, log_weight)
    coarse, u = _deviations(values[rows], log_weight[rows])
    fine, v = _deviations(fine_values, fine_log_weight)
    share = len(values) / (len(rows) - 1)
    return means + fine - coarse, deviations.index_add(0, rows, share * (v - u))


def _checked(coarse: Tensor, fine: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return log weights in float64, or raise."""
    if len(coarse) < 2 or len(fine) < 2:
        raise ValueError(f"Expected >= 2 samples and >= 2 of them twice, got {len(coarse)} and {len(fine)}.")
    if rows.shape != fine.shape:
        raise ValueError(f"Expected one row per pair; got {tuple(rows.shape)} and {tuple(fine.shape)}.")
    return zero_or_finite_logs(coarse), zero_or_finite_logs(fine)


def _logs_without_one(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log mean w`, 0-d, and the same without each of the samples, `(n,)`."""
    n, log_sum = len(log_weight), log_weight.logsumexp(0)
    rest = log_sum + torch.log1p(-(log_weight - log_sum).exp().clamp(max=1))
    return log_sum - math.log(n), rest - math.log(n - 1)


def _change_of_logs(coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log mean w` of fine minus coarse, 0-d, and the same without each of the samples, `(m,)`."""
    before, after = _logs_without_one(coarse), _logs_without_one(fine)
    return after[0] - before[0], after[1] - before[1]


def _means_without_one(values: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a reweighted mean, 0-d, and its change without each of the samples, `(n,)`."""
    fraction = torch.softmax(log_weight, 0)
    mean = fraction @ values.double()
    return mean, fraction * (mean - values.double()) / (1 - fraction)


def _deviations(values: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return reweighted means, `(k,)`, and the deviations `w / mean w (O - <O>)`, `(n, k)`."""
    weight = torch.softmax(log_weight, 0)[:, None] * len(log_weight)
    means = (weight * values.double()).mean(0)
    return means, weight * (values.double() - means)


def _jackknife_error(left_out: Tensor) -> float:
    """Return the error from estimates that lack one of n samples each; infinite if one is not finite."""
    if not bool(left_out.isfinite().all()):
        return math.inf
    n = len(left_out)
    return float(((left_out - left_out.mean()).square().sum() * (n - 1) / n).sqrt())
