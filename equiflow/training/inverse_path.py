"""The path gradient of any flow whose inverse is exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from equiflow.actions import Action
from equiflow.autograd import as_leaf
from equiflow.flows import Flow
from equiflow.training.objectives import ObjectiveValue


@dataclass(frozen=True)
class InversePathGradient:
    """Reverse KL by `mean((grad log q + grad S) . dphi/dtheta)`, the score from the inverse map.

    `grad log q(phi)` is taken through `log_prob` at fixed parameters, which costs one inverse and its
    gradient; at the optimum the variance vanishes (arXiv:2207.08219). For flows whose inverse is
    exact; a flow that integrates has the cheaper `PathGradient`.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`."""
        phi, log_q = flow.rsample_and_log_prob(batch_size, generator=generator)
        leaf = as_leaf(phi)
        (score,) = torch.autograd.grad(flow.log_prob(leaf).sum(), leaf)
        force = score + action.grad(phi.detach())
        surrogate = (phi * force).flatten(1).sum(1).mean()
        return ObjectiveValue(surrogate, -action(phi.detach()) - log_q.detach(), 0)
