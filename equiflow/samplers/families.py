"""Families of samples: those that descend from one sample by resampling, and so depend on each other.

Families are independent where samples are not: sums over each go into any formula for independent samples
(arXiv:1312.5114, 1509.00394). Only log Z needs more, see `log_z_of_families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.statistics import Estimate, log_mean_exp


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


def log_z_of_families(family: Tensor, log_weight: Tensor, surplus: Tensor) -> Estimate:
    """Return `log Z = log mean w` with its error from independent families.

    That a family has grown by more than its weight asked for changes no mean weight at that moment, since
    others have grown by less. So the error is that of `W_f / Z - surplus_f`, with the weight W_f of the
    family (arXiv:1312.5114).

    Args:
        family: see `weights_of_families`.
        log_weight: `log w`, `(n_samples,)`.
        surplus: of each family, in units of the mean weight, `(n_samples,)`.

    Returns:
        The estimate, with the notes of `log_mean_exp` of the families.

    Raises:
        ValueError: see `log_mean_exp`.
    """
    of_families = weights_of_families(family, log_weight)
    estimate = log_mean_exp(of_families)
    weight = (of_families - estimate.mean).exp()
    spread = (weight - 1).square().sum()
    scale = ((weight - surplus - 1).square().sum() / spread).sqrt() if spread > 0 else spread
    return replace(estimate, error=float(scale) * estimate.error)


def joined_surplus(parts: Sequence[Tensor], log_weights: Sequence[Tensor]) -> Tensor:
    """Return the surplus of several parts in units of the mean weight of all.

    Args:
        parts: surplus of each part, in units of its own mean weight.
        log_weights: log weights of each part.

    Returns:
        The surplus of all families.
    """
    totals = torch.stack([log_weight.double().logsumexp(0) for log_weight in log_weights])
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.float64, device=totals.device)
    scale = torch.softmax(totals, 0) * sizes.sum() / sizes
    return torch.cat([part * size for part, size in zip(parts, scale.nan_to_num(0.0), strict=True)])


def joined_families(parts: Sequence[Tensor]) -> Tensor:
    """Return the families of several parts, one after the other, by numbers of which no two parts share one.

    Args:
        parts: families of each part, whose numbers are below its length.

    Returns:
        The families of all samples.
    """
    starts = [sum(map(len, parts[:n])) for n in range(len(parts))]
    return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
