"""The Ising model by enumeration of all spins, from its definition."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def spins(shape: tuple[int, ...]) -> Tensor:
    """Return all configurations of spins, `(2^V, *shape)`."""
    values = list(itertools.product((-1.0, 1.0), repeat=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *shape)


def sum_of_links(s: Tensor) -> Tensor:
    """Return `sum_x sum_mu s_x s_{x+mu}` of each configuration."""
    axes = range(1, s.dim())
    return torch.stack([(s * s.roll(-1, axis)).flatten(1).sum(1) for axis in axes]).sum(0)


def enumerated(shape: tuple[int, ...], temperature: float) -> tuple[float, float]:
    """Return log Z, and the mean of `s_x s_{x+mu}` over x and mu."""
    links = sum_of_links(spins(shape))
    log_weight = links / temperature
    mean = (log_weight.softmax(0) * links).sum() / (len(shape) * math.prod(shape))
    return float(log_weight.logsumexp(0)), float(mean)


def couplings(shape: tuple[int, ...], temperature: float) -> Tensor:
    """Return `K = A / T + c` as a dense matrix, link by link, with 0.1 as its smallest eigenvalue."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    dense = torch.zeros(index.numel(), index.numel(), dtype=torch.float64)
    for axis in range(len(shape)):
        for x, y in zip(index.flatten(), index.roll(-1, axis).flatten(), strict=True):
            dense[x, y] += 1 / temperature
            dense[y, x] += 1 / temperature
    return dense + (0.1 - torch.linalg.eigvalsh(dense).min()) * torch.eye(len(dense), dtype=torch.float64)
