"""Samples driven along a path of densities: `travel` collects their weights and resamples them.

A path is a series of `Leg`s. Each carries the samples to the next density, which is work, and moves them by
updates that leave this density invariant. `StochasticFlow` and annealed importance sampling are made of legs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type

#: samples on their way: the configurations, and what a leg remembers of them, each with one row per sample
State = tuple[Tensor, ...]


class Leg(ABC):
    """The way from one density of a path to the next."""

    @abstractmethod
    def work(self, state: State) -> tuple[State, Tensor]:
        """Carry samples to the next density.

        Args:
            state: samples at the density before.

        Returns:
            The samples there, and the change of their log weights, `(n_samples,)` in float64; -inf where the
            next density is zero.
        """

    @abstractmethod
    def move(self, state: State, generator: torch.Generator | None) -> State:
        """Update samples such that the density at the end of the leg stays as it is.

        Args:
            state: samples there.
            generator: source of randomness.

        Returns:
            Other samples of the same density.
        """


@dataclass(frozen=True)
class Arrival:
    """Samples at the end of a path.

    Attributes:
        state: of the last leg.
        log_weight: log weights, `(n_samples,)` in float64; the mean of w is an unbiased estimate of Z.
        family: row at the start from which each sample descends, `(n_samples,)`.
        surplus: by how many samples more than its weight asked for each family has grown in all resampling,
            `(n_samples,)`; they add up to 0.
    """

    state: State
    log_weight: Tensor
    family: Tensor
    surplus: Tensor


def travel(
    legs: Sequence[Leg], state: State, *, resample: float | None, generator: torch.Generator | None
) -> Arrival:
    """Drive samples along a path.

    A sample collects the changes of its log weight. Where the effective sample size falls below a threshold,
    samples are drawn anew in proportion to their weights, and all get the mean weight (sequential Monte
    Carlo, Del Moral et al. 2006). Then the mean of w stays an unbiased estimate of Z.

    Args:
        legs: the path.
        state: samples at its start, whose weights are 1.
        resample: effective sample size per sample below which samples are drawn anew; None for never. After
            the last leg they are not.
        generator: source of randomness.

    Returns:
        The samples at the end.
    """
    log_weight = torch.zeros(len(state[0]), dtype=torch.float64, device=state[0].device)
    family = torch.arange(len(state[0]), device=state[0].device)
    surplus = torch.zeros_like(log_weight)
    for leg in legs:
        state, change = leg.work(state)
        # A weight of zero stays one: the change of such a sample may be infinite or NaN.
        log_weight = torch.where(log_weight.isneginf(), -torch.inf, log_weight + change)
        if leg is legs[-1]:
            state = leg.move(state, generator)
            break
        if resample is not None and _effective_part(log_weight) < resample:
            surplus.index_add_(0, family, -len(family) * torch.softmax(log_weight, 0))
            rows, log_weight = resampled(log_weight, generator)
            state, family = tuple(part[rows] for part in state), family[rows]
            surplus.index_add_(0, family, torch.ones_like(log_weight))
        state = leg.move(state, generator)
    return Arrival(state, log_weight, family, surplus)


def resampled(log_weight: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw samples in proportion to their weights, by systematic resampling (Kitagawa 1996).

    A sample of the weight w is drawn `floor(N w / sum w)` times or once more, and `N w / sum w` times on
    average.

    Args:
        log_weight: `log w`, `(n_samples,)`, not all -inf.
        generator: source of randomness.

    Returns:
        The rows that are drawn, `(n_samples,)`, and their new log weights: all the logarithm of the mean
        weight.
    """
    n = len(log_weight)
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=log_weight.device)
    # The last entry is 1 exactly, so that rounding draws nothing beyond the end.
    upper = torch.softmax(log_weight, 0).cumsum(0)
    upper = upper / upper[-1]
    points = ((torch.arange(n, device=log_weight.device) + uniform) / n).clamp(max=1 - 1e-15)
    log_mean = log_weight.logsumexp(0) - math.log(n)
    return torch.searchsorted(upper, points, right=True), log_mean.expand(n).clone()


def check_resample(resample: float | None) -> None:
    """Raise unless a threshold for resampling is None or in (0, 1]."""
    if resample is None:
        return
    check_type(resample, (float, int), "resample")
    if not 0 < resample <= 1:
        raise ValueError(
            f"resample must be an effective sample size per sample, in (0, 1], or None; got {resample}."
        )


def _effective_part(log_weight: Tensor) -> float:
    """Return the effective sample size per sample; 1 if there is nothing to draw from."""
    if not len(log_weight) or bool(log_weight.isneginf().all()):
        return 1.0
    return float(1 / (len(log_weight) * torch.softmax(log_weight, 0).square().sum()))
