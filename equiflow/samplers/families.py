"""Families of samples: those that descend from one sample by resampling, and so depend on each other.

Families are independent where samples are not: sums over each go into any formula for independent samples
(arXiv:1312.5114, 1509.00394).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def weights_of_families(family: Tensor, log_weight: Tensor) -> Tensor:
    """Return the log of the sum of the weights in each family, so that their mean is that of the samples.

    Args:
        family: number of the family of each sample, from 0 to n_samples - 1, `(n_samples,)`.
        log_weight: `log w`, `(n_samples,)`.

    Returns:
        `(n_samples,)` in float64, one entry for each number; -inf for families without samples.
    """
    log_weight = log_weight.double()
    largest = log_weight.max() if len(log_weight) else log_weight.new_zeros(())
    if not bool(largest.isfinite()):  # all weights are zero, or an estimate is to refuse them
        return log_weight
    weight = (log_weight - largest).exp()
    return torch.zeros_like(weight).index_add_(0, family, weight).log() + largest


def means_of_families(family: Tensor, log_weight: Tensor, values: Tensor) -> Tensor:
    """Return the weighted mean of each family, `sum w O / sum w`; 0 for families without a weight.

    Args:
        family: see `weights_of_families`.
        log_weight: `log w`, `(n_samples,)`.
        values: `(n_samples, ...)`.

    Returns:
        `(n_samples, ...)` in float64.
    """
    total = weights_of_families(family, log_weight)[family]
    # A sum is also zero if its weights are too small beside the largest one.
    share = torch.where(total.isneginf(), 0.0, (log_weight.double() - total).exp())
    share = share.reshape(-1, *(1,) * (values.dim() - 1))
    values = values.double()
    return torch.zeros_like(values).index_add_(0, family, share * values)


def joined_families(parts: Sequence[Tensor]) -> Tensor:
    """Return the families of several parts, one after the other, by numbers of which no two parts share one.

    Args:
        parts: families of each part, whose numbers are below its length.

    Returns:
        The families of all samples.
    """
    starts = [sum(map(len, parts[:n])) for n in range(len(parts))]
    return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
