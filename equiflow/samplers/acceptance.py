"""How proposals are accepted, and how the size of a step follows from the acceptance.

`metropolis` accepts or rejects, `Outcome` records what happened, `log_step_change` tunes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """What happened to the proposals of one update.

    Attributes:
        accepted: fraction of the proposals that were accepted, `(n_chains,)` in float64.
        probability: mean acceptance probability of the proposals, `(n_chains,)`. It has the mean of
            `accepted` and less noise, so tuning uses it.
        parts: outcomes of the updates that this one consists of, if any.
    """

    accepted: Tensor
    probability: Tensor
    parts: tuple[Outcome, ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        """Return the sum over two updates: the numbers of accepted and of expected moves of each chain."""
        return summed([self, other])


def summed(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum of several outcomes of the same chains, and of their parts."""
    return Outcome(
        torch.stack([outcome.accepted for outcome in outcomes]).sum(0),
        torch.stack([outcome.probability for outcome in outcomes]).sum(0),
        tuple(map(summed, zip(*(outcome.parts for outcome in outcomes), strict=True))),
    )


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the mean of several outcomes of the same chains, without their parts."""
    return Outcome(
        torch.stack([outcome.accepted for outcome in outcomes]).mean(0),
        torch.stack([outcome.probability for outcome in outcomes]).mean(0),
    )


def metropolis(
    log_ratio: Tensor, proposal: Tensor, phi: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Outcome]:
    """Accept `proposal` with probability `min(1, exp(log_ratio))`, chain by chain.

    Args:
        log_ratio: `(n_chains,)`; NaN stands for a proposal of zero density.
        proposal: `(n_chains, *lattice)`.
        phi: `(n_chains, *lattice)`, kept where the proposal is rejected.
        generator: source of randomness.

    Returns:
        The new fields `(n_chains, *lattice)`, and what happened to the proposals.
    """
    probability = torch.nan_to_num(log_ratio.double(), nan=-torch.inf).clamp(max=0.0).exp()
    uniform = torch.rand(len(phi), generator=generator, dtype=torch.float64, device=phi.device)
    moved = uniform < probability
    chosen = torch.where(moved.reshape(-1, *(1,) * (phi.dim() - 1)), proposal, phi)
    return chosen, Outcome(moved.double(), probability)


def log_step_change(outcome: Outcome, target: float, n: int) -> float:
    """Return the change of the log of a step that brings the acceptance nearer to its target.

    Args:
        outcome: of the last update.
        target: acceptance to reach, between 0 and 1.
        n: number of the update, from 0.

    Returns:
        What to add to the log of the step.
    """
    # Robbins-Monro: the changes shrink, so that the step settles.
    return (float(outcome.probability.mean()) - target) / (1 + n / 10) ** 0.6


def mean_acceptance(phi: Tensor, log_weight: Tensor) -> Tensor:
    """Return the mean of `min(1, w'/w)` for `w` drawn from the target and `w'` from the model.

    Args:
        phi: not used; so that this is a functional, see `Certificate.error_of`.
        log_weight: `log w` of samples of the model, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The acceptance of independent proposals, 0-d in float64.
    """
    log_weight = log_weight.double()
    present = log_weight[~log_weight.isneginf()]  # the target draws no other samples, the model does
    ratio = (log_weight[None, :] - present[:, None]).clamp(max=0.0).exp()
    return torch.softmax(present, 0) @ ratio.mean(1)
