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

from equiflow.actions import Action
from equiflow.flows import EquivariantCNF, Flow
from equiflow.solvers import Solver


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


@dataclass(frozen=True)
class ReverseKL:
    """`mean(log q(phi) + S(phi))` by reparametrisation; works for every flow.

    Its gradient keeps a variance at the optimum, where `PathGradient` has none.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`."""
        phi, log_q = flow.rsample_and_log_prob(batch_size, generator=generator)
        divergence = log_q + action(phi)
        return ObjectiveValue(divergence.mean(), -divergence.detach(), 0)


@dataclass(frozen=True)
class PathGradient:
    """Reverse KL by its path gradient, `mean((grad log q + grad S) . dphi/dtheta)` (arXiv:2206.09016).

    Without the score term the variance vanishes at the optimum. The kinetic energy of the
    trajectories can be added with a small weight: straight, slow trajectories are cheap to integrate.

    Args:
        kinetic_penalty: weight of `mean int sum_x v^2 dt`; 0 turns it off. Where the norm of the gradient
            grows while training, the field has become too stiff for the solver: take 1e-2 (near the
            critical point it is needed) or a finer solver.
        solver: how to integrate while training, instead of the flow's own solver.
    """

    kinetic_penalty: float = 1e-3
    solver: Solver | None = None

    def __post_init__(self) -> None:
        if not self.kinetic_penalty >= 0:
            raise ValueError(f"kinetic_penalty must be >= 0, got {self.kinetic_penalty}.")

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`; the flow must be an `EquivariantCNF`."""
        if not isinstance(flow, EquivariantCNF):
            raise TypeError(
                f"PathGradient needs an EquivariantCNF, got {type(flow).__name__}; use ReverseKL()."
            )
        path = flow.rsample_path(batch_size, generator=generator, solver=self.solver)
        phi = path.phi.detach()
        force = path.score + action.grad(phi)
        surrogate = (path.phi * force).flatten(1).sum(1).mean()
        if self.kinetic_penalty:
            surrogate = surrogate + self.kinetic_penalty * path.kinetic_energy.mean()
        return ObjectiveValue(surrogate, -action(phi) - path.log_q, path.nfe)
