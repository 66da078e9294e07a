"""Whether an update leaves `exp(-S)` invariant, tested on exact samples before and after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import chi2, ks_2samp
from torch import Tensor

from equiflow import Kernel, Phi4
from equiflow.theories.scalar.observables import (
    abs_magnetisation,
    magnetisation,
    nearest_neighbour,
    phi_squared,
)


def exact_samples(action: Phi4, n: int, *, seed: int = 0) -> Tensor:
    """Return independent samples of `exp(-S)`: independent sites by inversion, then links by rejection."""
    line = np.linspace(-4, 4, 40_001)
    density = np.exp(-action.m2 * line**2 - action.lam * line**4)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    random, found, missing = np.random.default_rng(seed), [], n
    while missing > 0:
        uniform = random.random((200_000, *action.lattice.shape))
        phi = torch.from_numpy(np.interp(uniform, cumulative / cumulative[-1], line))
        potential = (action.m2 * phi**2 + action.lam * phi**4).sum(action.lattice.axes)
        links = action(phi) - potential
        found.append(phi[torch.from_numpy(random.random(len(phi))) < (-links).exp()])
        missing -= len(found[-1])
    return torch.cat(found)[:n]


def observables(action: Phi4) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return functions with one number per configuration; not all of them have a symmetry of the action."""
    return {
        "phi_0": lambda phi: phi.flatten(1)[:, 0],
        "M": magnetisation,
        "|M|": abs_magnetisation,
        "phi^2": phi_squared,
        "neighbours": nearest_neighbour,
        "S": action,
    }


def updated(kernel: Kernel, n: int, *, times: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return exact samples before and after the update."""
    assert isinstance(kernel.action, Phi4)
    before = exact_samples(kernel.action, n, seed=seed)
    generator, after = torch.Generator().manual_seed(seed + 1), before
    for _ in range(times):
        after, _ = kernel.update(after, generator)
    return before, after


def invariance_pvalue(kernel: Kernel, n: int = 20_000, *, times: int = 1, seed: int = 0) -> float:
    """Return the least Kolmogorov-Smirnov p-value of updated against fresh samples.

    It is multiplied by the number of observables, since the least of several is taken (Bonferroni).
    """
    assert isinstance(kernel.action, Phi4)
    after, fresh = updated(kernel, n, times=times, seed=seed)[1], exact_samples(kernel.action, 4 * n, seed=99)
    functions = observables(kernel.action).values()
    return len(functions) * min(
        ks_2samp(function(after).numpy(), function(fresh).numpy()).pvalue for function in functions
    )


def balance_pvalue(kernel: Kernel, n: int = 20_000, *, n_bins: int = 6, seed: int = 0) -> float:
    """Return the least chi-square p-value of detailed balance, times the number of observables.

    In detailed balance there are as many moves from one bin of an observable to another as back.
    """
    assert isinstance(kernel.action, Phi4)
    before, after = updated(kernel, n, seed=seed)
    functions = observables(kernel.action).values()
    pvalues = []
    for function in functions:
        then, now = function(before).contiguous(), function(after).contiguous()
        edges = torch.quantile(then, torch.linspace(0, 1, n_bins + 1)[1:-1])
        moves = torch.zeros(n_bins, n_bins)
        moves.index_put_(
            (torch.bucketize(then, edges), torch.bucketize(now, edges)), torch.ones(n), accumulate=True
        )
        both, excess = moves + moves.T, moves - moves.T
        pairs = torch.triu(both >= 10, 1)
        statistic = float((excess[pairs].square() / both[pairs]).sum())
        pvalues.append(chi2.sf(statistic, int(pairs.sum())) if pairs.any() else 1.0)
    return len(pvalues) * min(pvalues)
