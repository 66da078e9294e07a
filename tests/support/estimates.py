"""Quality of errors: how often many estimates cover the truth, and how errors compare to the scatter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.statistics import Estimate, error_of_fluctuations


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers in float64 that depend on the seed only."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(series: Tensor, *, seed: int = 0) -> Tensor:
    """Return the numbers of a series, `(n * n_chains,)`, without their order."""
    numbers = series.flatten()
    return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))]


def means_of_runs(runs: Tensor) -> list[Estimate]:
    """Return `mean_of_series` of each of many runs, `(n, n_chains, n_runs)`, all computed at once."""
    means = runs.mean((0, 1))
    errors = error_of_fluctuations(runs - means, scale=runs.abs().amax((0, 1)))
    return [errors.estimate(k, mean) for k, mean in enumerate(means.tolist())]


def coverage(estimates: Sequence[Estimate], truth: float) -> float:
    """Return the fraction of estimates whose one-sigma interval contains the truth; 0.68 is right."""
    return sum(abs(e.mean - truth) <= e.error for e in estimates) / len(estimates)


def covers(estimates: Sequence[Estimate], truth: float) -> bool:
    """Return whether about 68 % of 200 estimates cover the truth; the fraction scatters by 3.3 %."""
    return 0.60 <= coverage(estimates, truth) <= 0.76


def error_ratio(estimates: Sequence[Estimate]) -> float:
    """Return the mean claimed error divided by the scatter of the means; 1 is right."""
    means = torch.tensor([e.mean for e in estimates])
    return float(torch.tensor([e.error for e in estimates]).mean() / means.std())
