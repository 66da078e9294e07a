"""Heavy tails of importance weights, which make errors too small without leaving few effective samples.

Start with `heavy_tails`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.statistics.inputs import zero_or_finite_logs

#: shape of the tail above which errors mislead: from 1/2 on, the weights have no variance, and estimates of
#: the shape scatter by 0.1
LARGEST_SHAPE = 0.6
#: fewest weights in the tail for a statement about its shape
FEWEST_IN_TAIL = 20
#: the shape is drawn toward one half as if by so many weights, which steadies it where the tail has few
PRIOR_WEIGHTS = 10


def pareto_shape(log_weight: Tensor) -> float:
    """Return the shape k of the tail of importance weights, `P(w > x) ~ x^(-1/k)` (arXiv:1507.02646).

    The variance of the weights is finite for `k < 1/2`, their mean for `k < 1`. A generalised Pareto
    distribution is fitted to the M largest of N weights, `M = min(N / 5, 3 sqrt N)`, by the estimator of
    Zhang and Stephens (2009), and k is drawn toward 1/2 by `(M k + 5) / (M + 10)`.

    Args:
        log_weight: `-S(phi) - log q(phi)` on independent model samples, `(n_samples,)`; -inf is a weight of
            zero.

    Returns:
        The shape; NaN if less than 20 weights make the tail, or they are equal.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if a weight is NaN or +inf, or all are zero.

    >>> log_weight = -0.3 * torch.arange(1, 2001).double().log()  # quantiles of a tail with k = 0.3
    >>> round(pareto_shape(log_weight), 1)
    0.3
    """
    log_weight = zero_or_finite_logs(log_weight)
    n = len(log_weight)
    count = int(min(n / 5, 3 * math.sqrt(n)))
    if count < FEWEST_IN_TAIL:
        return math.nan
    largest = log_weight.sort().values[-count - 1 :]
    weight = (largest - largest[-1]).exp()
    excess = weight[1:] - weight[0]
    if not excess[0] > 0:
        return math.nan
    return (count * _shape_of_excess(excess) + PRIOR_WEIGHTS / 2) / (count + PRIOR_WEIGHTS)


def heavy_tails(log_weight: Tensor) -> str:
    """Return "heavy tail of the weights, k = 0.9" if the tail is so heavy that errors mislead, else "".

    Args:
        log_weight: see `pareto_shape`.

    Returns:
        The text, which becomes a note of estimates.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if a weight is NaN or +inf, or all are zero.
    """
    shape = pareto_shape(log_weight)
    return f"heavy tail of the weights, k = {shape:.1f}" if shape > LARGEST_SHAPE else ""


def _shape_of_excess(excess: Tensor) -> float:
    """Return the shape of a generalised Pareto distribution fitted to sorted, positive numbers.

    With `b = -k / sigma` the likelihood has its maximum in k at `k(b) = mean log(1 - b x)`. The mean of b
    over its profile likelihood, on a grid of quantiles of a prior, replaces a search for the maximum.
    """
    n = len(excess)
    grid = torch.arange(1, 31 + math.isqrt(n), dtype=torch.float64) - 0.5
    quartile = excess[max(0, round(n / 4) - 1)]
    b = 1 / excess[-1] + (1 - (len(grid) / grid).sqrt()) / (3 * quartile)
    k = torch.log1p(-b[:, None] * excess).mean(1)
    log_likelihood = n * ((-b / k).log() - k - 1)
    mean = torch.softmax(log_likelihood, 0) @ b
    return float(torch.log1p(-mean * excess).mean())
