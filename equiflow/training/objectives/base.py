"""What training minimises. An objective is a callable that anyone's training loop can use.

| objective | flows | needs | minimises | history.ess |
|---|---|---|---|---|
| `ReverseKL` | all | action | `mean_q(log q + S)` | reverse |
| `PathGradient` | `EquivariantCNF` | action, its gradient | the same | reverse |
| `InversePathGradient` | all, if the inverse is exact | action, its gradient | the same | reverse |
| `ForwardKL` | all | samples of the target | `-mean_p log q` | forward |
| `FlowMatching` | `EquivariantCNF` | samples of the target | regression of the velocity | None |
| `Mixture` | those of its parts | what its parts need | the weighted sum | of its parts |

One that does not suit a flow raises a TypeError that names another. What draws model samples sees only
the modes that the flow has; what draws target samples only those that the samples have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class ObjectiveValue:
    """One evaluation of an objective on a batch.

    Attributes:
        surrogate: 0-d tensor whose gradient is the gradient estimate; its value may mean nothing.
        log_weight: `-S(phi) - log q(phi)` of a batch of model samples, detached, `(batch,)`, or
            `(coupling, batch)` where each row has a Z of its own; None if the objective draws none.
        nfe: evaluations of the vector field in the forward solve, 0 where it does not apply.
        value: what is minimised, 0-d, detached; None if that is `mean(log q + S)` of the model samples.
        target_log_weight: like `log_weight`, of a batch of target samples; None if there is none.
    """

    surrogate: Tensor
    log_weight: Tensor | None
    nfe: int
    value: Tensor | None = None
    target_log_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.log_weight is None and self.value is None:
            raise ValueError("An objective without the log weights of model samples must give its value.")

    @property
    def loss(self) -> Tensor:
        """`value`; by default `mean(log q + S)`, the reverse Kullback-Leibler divergence minus `log Z`."""
        if self.value is not None:
            return self.value
        assert self.log_weight is not None
        return -self.log_weight.mean()

    @property
    def ess(self) -> Tensor | None:
        """Effective sample size on the batch: the reverse one, else the forward one, else None."""
        if self.log_weight is not None:
            log_weight = _comparable(self.log_weight.double())
            log_n = math.log(len(log_weight))
            return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0) - log_n).exp()
        if self.target_log_weight is not None:
            log_weight = self.target_log_weight.double()
            log_n = math.log(len(log_weight))
            return (2 * log_n - log_weight.logsumexp(0) - (-log_weight).logsumexp(0)).exp()
        return None


def _comparable(log_weight: Tensor) -> Tensor:
    """Flattened; `log Z` of each row, as estimated, is replaced by the average of all."""
    if log_weight.dim() == 1:
        return log_weight
    log_z = log_weight.logsumexp(1, keepdim=True) - math.log(log_weight.shape[1])
    return (log_weight - log_z + log_z.mean()).flatten()


class Objective(Protocol):
    """Anything that turns a flow, an action and a batch size into a gradient estimate.

    Where several processes train one flow, `batch_size` is that of all, and what the library draws with
    `generator` is this one's share of it: average over the samples that come, whose number is smaller.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """Evaluate on a fresh batch."""
