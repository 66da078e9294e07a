"""A test whether estimates are unbiased."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def chi2(samples: Tensor, exact: Tensor) -> Tensor:
    """Return `sum_i ((mean_i - exact_i) / error_i)^2` of samples.

    Args:
        samples: independent estimates of several numbers, `(n, i)`.
        exact: the numbers, `(i,)`.
    """
    error = samples.std(0) / len(samples) ** 0.5
    return ((samples.mean(0) - exact) / error).square().sum()
