"""Averages over the target from weighted samples, and their errors where few samples carry the weight.

Start with `weighted_mean`. Code that reweights in another way calls `warn_if_few_effective_samples`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.gamma_method import tail_factor
from equiflow.statistics.inputs import check_same_length, real_numbers, zero_or_finite_logs
from equiflow.statistics.jackknife import jackknife_estimate
from equiflow.statistics.tails import heavy_tails

#: number of effective samples, `(sum w)^2 / sum w^2`, below which reweighted averages are unreliable. There
#: one-sigma errors cover the truth in 30 to 60 % instead of 68 % if the observable goes with the weights.
MIN_EFFECTIVE_SAMPLES = 50
#: effective fraction of the samples from which the weights are not to blame for a small number
MIN_FRACTION = 0.25
#: number of effective samples below which essentially one sample contributes, which says nothing of an error
ONE_SAMPLE = 2.0
#: effective fraction of the samples below which heavy tails of the weights widen errors
UNEVEN_FRACTION = 0.5
#: number of samples that the spread in a lower bound of the error is taken from
N_CONTRIBUTING = 10


class LowEffectiveSampleSizeWarning(UserWarning):
    """Warns that a reweighted average rests on few effective samples, so that its error may be too small."""


def effective_number(log_weight: Tensor) -> float:
    """Return the number of effective samples, `(sum w)^2 / sum w^2`.

    Args:
        log_weight: `log w`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The number; 0 without samples.

    Raises:
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    weight = normalised_weights(log_weight)
    return float(weight.sum() ** 2 / weight.square().sum()) if len(weight) else 0.0


def few_effective_samples(log_weight: Tensor) -> str:
    """Return "only 3.2 effective samples" if weights leave too few of them, else an empty text.

    Few are less than `MIN_EFFECTIVE_SAMPLES` and less than a quarter of the samples. A small ensemble of
    even weights has honest errors.

    Args:
        log_weight: `-S(phi) - log q(phi)`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The text, which becomes the note of an estimate.

    Raises:
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    count = effective_number(log_weight)
    few = count < min(MIN_EFFECTIVE_SAMPLES, MIN_FRACTION * len(log_weight))
    return f"only {count:.{0 if count > 10 else 1}f} effective samples" if few else ""


def warn_if_few_effective_samples(log_weight: Tensor, *, stacklevel: int = 3) -> None:
    """Warn with a `LowEffectiveSampleSizeWarning` if weights leave too few samples, see above.

    Args:
        log_weight: `-S(phi) - log q(phi)`, `(n_samples,)`; -inf is a weight of zero.
        stacklevel: whose line the warning shows, as in `warnings.warn`; 3 is the caller of the function that
            calls this one.

    Raises:
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    found = few_effective_samples(log_weight)
    if found:
        warnings.warn(
            f"The weights leave {found} of {len(log_weight)}; expected {MIN_EFFECTIVE_SAMPLES} or more. The "
            "average may be further from the truth than its error says. Train the flow longer, draw more "
            "samples, or use the flow in a Markov chain.",
            LowEffectiveSampleSizeWarning,
            stacklevel=stacklevel,
        )


def normalised_weights(log_weight: Tensor) -> Tensor:
    """Return `exp(log_weight)` in float64, scaled so that the largest weight is 1.

    Args:
        log_weight: `log w`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The weights, `(n_samples,)`.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if a weight is NaN or infinite, or all are zero.
    """
    log_weight = zero_or_finite_logs(log_weight)
    return (log_weight - log_weight.max()).exp() if len(log_weight) else log_weight


def weighted_mean(values: Tensor, log_weight: Tensor) -> Estimate:
    """Return the reweighted mean `sum w O / sum w` with its jackknife error.

    Where few samples carry the weight, the error is larger, see `error_of_weighted_fluctuations`, and the
    note of the estimate says so, or else if `heavy_tails` does. Nothing is warned of, see
    `warn_if_few_effective_samples`. Where weights are uneven, the error is widened by `heavy_weights_factor`.

    Args:
        values: of the observable O, `(n_samples,)`.
        log_weight: `log w` of independent samples, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The estimate.

    Raises:
        TypeError: if values or weights are no numbers.
        ValueError: if there are fewer than two samples, there are more values than weights or fewer, the
            values are complex, NaN or infinite, a weight is NaN or infinite, or all weights are zero.
    """
    values = real_numbers(values, "values", minimum=2)
    log_weight = zero_or_finite_logs(log_weight)
    check_same_length(values=values, log_weight=log_weight)
    if not bool(values.isfinite().all()):
        raise ValueError(
            "values has NaN or infinite values; expected finite ones. Give 0 where the weight is zero."
        )
    weight, note = normalised_weights(log_weight), few_effective_samples(log_weight)
    if not note:
        estimate = jackknife_estimate(lambda wo, w: wo / w, weight * values, weight)
        factor = heavy_weights_factor((weight * (values - estimate.mean))[:, None], log_weight)
        return replace(estimate, error=estimate.error * float(factor), note=heavy_tails(log_weight))
    fraction = weight / weight.sum()
    # Relative to the heaviest sample, so that no rounding error of a constant looks like a fluctuation.
    heaviest = values[fraction.argmax()]
    values = values - heaviest
    mean = heaviest + fraction @ values
    fluctuations = len(weight) * fraction * (values - fraction @ values)
    error = error_of_weighted_fluctuations(fluctuations[:, None], log_weight)
    return Estimate(float(mean), float(error), note=note)


def error_of_weighted_fluctuations(fluctuations: Tensor, log_weight: Tensor) -> Tensor:
    """Return errors that stay honest if few samples carry the weight.

    It is the largest one of three. The first is the jackknife error. The second is
    `spread / sqrt(effective samples)`; a single heavy sample defines the average, so it has no distance from
    it, and the spread comes from the same samples with flattened weights `w^a`, with the largest a <= 1 that
    leaves 10 effective samples. The third is the distance from the average without weights: the target may
    be as far beyond the heaviest samples as these are from the others.

    Args:
        fluctuations: `w / mean w (O - <O>)` of k averages, `(n_samples, k)`, of mean zero.
        log_weight: `log w` of independent samples, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        Standard errors, `(k,)`; infinite if there are less than `ONE_SAMPLE` effective samples, but 0 where
        nothing fluctuates.

    Raises:
        TypeError: if fluctuations or weights are no numbers.
        ValueError: if they differ in length, a weight is NaN or infinite, or all are zero.
    """
    fluctuations, log_weight = _of_weights(fluctuations, log_weight)
    fraction = torch.softmax(log_weight, 0)
    given = fraction > 0
    fraction, log_weight, weighted = fraction[given], log_weight[given], fluctuations[given] / len(given)
    if len(fraction) < 2:
        return torch.full_like(fluctuations[0], math.inf)
    # Differences from 1, and from the average, that would drown in rounding errors for the heaviest sample.
    heaviest = int(fraction.argmax())
    others = torch.ones_like(fraction, dtype=torch.bool)
    others[heaviest] = False
    rest = 1 - fraction
    rest[heaviest] = fraction[others].sum()
    weighted[heaviest] = -weighted[others].sum(0)
    changes = weighted / rest[:, None]  # of the average, without one sample each
    n = len(given)
    jackknife = (changes.square().sum(0) - changes.sum(0).square() / n) * (n - 1) / n
    deviation = weighted / fraction[:, None]
    flat = torch.softmax(_flattening(log_weight) * log_weight, 0)
    centred = deviation - flat @ deviation
    spread = flat @ centred.square() / (1 - flat.square().sum())
    square = torch.maximum(jackknife, fraction.square().sum() * spread).clamp(min=0)
    error = torch.maximum(square.sqrt(), deviation.mean(0).abs())
    if fraction.square().sum() > 1 / ONE_SAMPLE:
        error = torch.where(spread > 0, math.inf, error)
    return error


def heavy_weights_factor(fluctuations: Tensor, log_weight: Tensor) -> Tensor:
    """Return by how much uneven weights widen an error, see `tail_factor`.

    The largest weights are rare, so the scatter of an average is too small where they are missing. The number
    of effective samples counts as that of independent ones.

    Args:
        fluctuations: `w (O - <O>)` of k averages, in any unit, `(n_samples, k)`.
        log_weight: `log w` of independent samples, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        Factors, `(k,)`; 1 if at least half of the samples are effective.

    Raises:
        TypeError: if fluctuations or weights are no numbers.
        ValueError: if they differ in length, a weight is NaN or infinite, or all are zero.
    """
    fluctuations, log_weight = _of_weights(fluctuations, log_weight)
    weight = normalised_weights(log_weight)
    count = weight.sum() ** 2 / weight.square().sum()
    if count >= UNEVEN_FRACTION * len(weight):
        return torch.ones_like(fluctuations[0])
    return tail_factor(fluctuations, count)


def _of_weights(fluctuations: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return fluctuations `(n_samples, k)` and as many log weights in float64, or raise."""
    fluctuations = real_numbers(fluctuations, "fluctuations", dims=(2,), shape="(n_samples, k)", minimum=1)
    log_weight = zero_or_finite_logs(log_weight)
    check_same_length(fluctuations=fluctuations, log_weight=log_weight)
    return fluctuations, log_weight


def _flattening(log_weight: Tensor) -> float:
    """Return the largest power a <= 1 for which `w^a` leaves `N_CONTRIBUTING` samples, or all there are."""
    wanted = min(N_CONTRIBUTING, len(log_weight) - 1)
    low, high = 0.0, 1.0
    if 1 / float(torch.softmax(log_weight, 0).square().sum()) >= wanted:
        return 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        enough = 1 / float(torch.softmax(middle * log_weight, 0).square().sum()) >= wanted
        low, high = (middle, high) if enough else (low, middle)
    return low
