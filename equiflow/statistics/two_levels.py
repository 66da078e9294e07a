"""Two levels: weighted samples of a cheap approximation, and a few of them computed again without its error.

`log_mean_of_two_levels` and `mean_of_two_levels` estimate what the fine computation of all samples would
give. Both add the change that the few pairs show to the result of all coarse samples. If the two weights of a
sample differ by nearly the same factor for all samples, the change has a small error, however large it is. If
the weights have little to do with each other, the fine samples alone know more, and are taken alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate, noted
from equiflow.statistics.inputs import check_same_length, zero_or_finite_logs
from equiflow.statistics.reweighting import (
    effective_number,
    error_of_weighted_fluctuations,
    few_effective_samples,
    normalised_weights,
    weighted_mean,
)
from equiflow.statistics.weights import (
    effective_sample_size,
    ess_fluctuations,
    log_mean_exp,
    widened_ess,
)

#: slope of the regression of fine on coarse weights above which coarse ones make log Z better
MIN_SLOPE = 0.5
#: effective fraction of the samples, weighted by fine over coarse weights, below which levels are unrelated
MIN_RELATED_FRACTION = 0.5


def unrelated_levels(coarse: Tensor, fine: Tensor) -> str:
    """Return why the coarse weights of pairs say little of the fine ones; empty if they say much.

    The ratios `w_fine / w_coarse` count as weights: if they leave less than half of the samples, up to a
    change of log w that scatters by about 0.8, the coarse solver draws other samples than the fine one.

    Args:
        coarse: coarse `log w`, `(n_pairs,)`; -inf is a weight of zero.
        fine: fine `log w` of the same samples, `(n_pairs,)`.

    Returns:
        A text that becomes the note of an estimate, with the correlation of both log weights.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    coarse, fine = _checked(coarse, fine, torch.arange(len(fine)))
    check_same_length(coarse=coarse, fine=fine)
    given = coarse.isfinite() & fine.isfinite()
    if int(given.sum()) < 2:
        return f"from the {len(fine)} fine samples alone: the coarse ones have other weights"
    change = fine[given] - coarse[given]
    # Either direction: a wide tail on one side shows in the ratios of that direction only.
    ratio = min(effective_number(change), effective_number(-change))
    if ratio >= MIN_RELATED_FRACTION * len(fine):
        return ""
    correlation = float(torch.corrcoef(torch.stack([coarse[given], fine[given]]))[0, 1])
    return _alone(len(fine), correlation)


def _alone(n_pairs: int, correlation: float) -> str:
    """Return the note of an estimate from the fine samples alone."""
    return f"from the {n_pairs} fine samples alone: correlation {correlation:.2f} with coarse weights"


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


def log_z_of_two_levels(coarse: Tensor, fine: Tensor, rows: Tensor) -> Estimate:
    """Return `log Z = log mean w` of fine weights, from two levels or from the fine samples alone.

    Coarse weights that lie at random around the fine ones make the estimate worse. They are used if the
    regression of fine on coarse weights has a slope of at least `MIN_SLOPE`: from there on the variance of
    `log_mean_of_two_levels` is smaller than that of the pairs alone.

    Args:
        coarse: coarse `log w` of all samples, `(n_samples,)`; -inf is a weight of zero.
        fine: fine `log w` of some of them, `(n_pairs,)`.
        rows: which samples these are, `(n_pairs,)` of integers without repetition.

    Returns:
        The estimate. Its note says if few samples carry the weight, or if the coarse ones are not used.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    alone = _fine_alone(coarse, fine, rows)
    if alone:
        return noted(log_mean_exp(fine), alone)
    return log_mean_of_two_levels(coarse, fine, rows)


def ess_of_two_levels(coarse: Tensor, fine: Tensor, rows: Tensor) -> Estimate:
    """Return the reverse ESS per sample of fine weights, from two levels or from the fine samples alone.

    Both means in `(mean w)^2 / mean w^2` are those of `log_mean_of_two_levels`, and the choice is that of
    `log_z_of_two_levels`. The error is widened as in `effective_sample_size`.

    Args:
        coarse: coarse `log w` of all samples, `(n_samples,)`; -inf is a weight of zero.
        fine: fine `log w` of some of them, `(n_pairs,)`.
        rows: which samples these are, `(n_pairs,)` of integers without repetition.

    Returns:
        The estimate, between 0 and 1, with a note like that of `log_z_of_two_levels`.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    alone = _fine_alone(coarse, fine, rows)
    if alone:
        return noted(effective_sample_size(fine, n_blocks=max(2, len(fine))), alone)
    coarse, fine = _checked(coarse, fine, rows)
    largest = coarse.max()  # without it, the difference of two logarithms would drown in a huge offset
    estimate = log_mean_of_two_levels(
        coarse - largest,
        fine - largest,
        rows,
        function=lambda log_m1, log_m2: (2 * log_m1 - log_m2).exp(),
        powers=(1.0, 2.0),
    )
    change = ess_fluctuations(fine) - ess_fluctuations(coarse[rows])
    share = len(coarse) / (len(rows) - 1)
    fluctuations = ess_fluctuations(coarse).index_add(0, rows, share * change)
    widened = widened_ess(estimate, coarse, fluctuations)
    return replace(widened, note=widened.note or estimate.note)


def _fine_alone(coarse: Tensor, fine: Tensor, rows: Tensor) -> str:
    """Return why log Z and ESS come from the fine samples alone; empty if coarse ones make them better."""
    coarse, fine = _checked(coarse, fine, rows)
    found = unrelated_levels(coarse[rows], fine)
    if found:
        return found
    x, y = (normalised_weights(log_weight) for log_weight in (coarse[rows], fine))
    x, y = x / x.mean() - 1, y / y.mean() - 1
    if float((x * y).sum()) >= MIN_SLOPE * float(x.square().sum()):
        return ""
    return _alone(len(fine), float(torch.corrcoef(torch.stack([x, y]))[0, 1]))


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
        of `error_of_weighted_fluctuations`. If `unrelated_levels` says so, it is the mean of the fine samples
        alone, and the note says that.

    Raises:
        ValueError: see `log_mean_of_two_levels`.
    """
    log_weight, fine_log_weight = _checked(log_weight, fine_log_weight, rows)
    alone = unrelated_levels(log_weight[rows], fine_log_weight)
    if alone:
        return noted(weighted_mean(fine_values, fine_log_weight), alone)
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
    coarse, fine = zero_or_finite_logs(coarse, "coarse"), zero_or_finite_logs(fine, "fine")
    if len(coarse) < 2 or len(fine) < 2:
        raise ValueError(f"Expected >= 2 samples and >= 2 of them twice, got {len(coarse)} and {len(fine)}.")
    if not isinstance(rows, Tensor) or rows.shape != fine.shape:
        got = tuple(rows.shape) if isinstance(rows, Tensor) else repr(rows)
        raise ValueError(f"Expected one row per pair, a tensor {tuple(fine.shape)} of integers; got {got}.")
    return coarse, fine


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
