"""Independent samples of a flow with their importance weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.actions import Action
from equiflow.flows import Flow
from equiflow.statistics import (
    Estimate,
    effective_sample_size,
    jackknife_estimate,
    log_mean_exp,
    normalised_weights,
)


@dataclass(frozen=True)
class Ensemble:
    """Model samples weighted towards the target, `w = exp(-S) / q`.

    Attributes:
        phi: `(n_samples, *lattice)`.
        log_q: absolute model log-density, `(n_samples,)`.
        log_weight: `-S(phi) - log_q`, `(n_samples,)`.
    """

    phi: Tensor
    log_q: Tensor
    log_weight: Tensor

    def effective_sample_size(self) -> Estimate:
        """Reverse ESS per sample."""
        return effective_sample_size(self.log_weight)

    def log_z(self) -> Estimate:
        """`log Z` of the target."""
        return log_mean_exp(self.log_weight)

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Reweighted mean `sum w O / sum w` with jackknife error."""
        weight = normalised_weights(self.log_weight)
        return jackknife_estimate(lambda wo, w: wo / w, weight * observable(self.phi).double(), weight)


@torch.no_grad()
def importance_sample(
    flow: Flow,
    action: Action,
    n_samples: int,
    *,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
) -> Ensemble:
    """Draw independent samples of a flow with their weights.

    Args:
        flow: any flow.
        action: the target, `exp(-S)`.
        n_samples: how many.
        batch_size: how many at a time, which bounds the memory.
        generator: source of randomness, on the flow's device.

    Raises:
        ValueError: if `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    drawn = [
        flow.sample_and_log_prob(min(batch_size, n_samples - start), generator=generator)
        for start in range(0, max(n_samples, 1), batch_size)
    ]
    phi = torch.cat([batch[0] for batch in drawn])
    log_q = torch.cat([batch[1] for batch in drawn])
    return Ensemble(phi, log_q, -action(phi) - log_q)


@torch.no_grad()
def log_weights(flow: Flow, action: Action, phi: Tensor, *, batch_size: int = 1024) -> Tensor:
    """`-S(phi) - log q(phi)` of given configurations, for instance of the target, `(batch,)`."""
    return torch.cat([-action(part) - flow.log_prob(part) for part in phi.split(batch_size)])
