"""What training minimises: the protocol `Objective` and its result, `ObjectiveValue`.

An objective is a callable that works in any training loop. Start with `ReverseKL` in `reverse.py`.

| objective | flows | needs | minimises | history.ess |
|---|---|---|---|---|
| `ReverseKL` | all | action | `mean_q(log q + S)` | reverse |
| `PathGradient` | `EquivariantCNF`, `MultiscaleFlow` | action, its gradient | the same | reverse |
| `AdaptivePathGradient`, the default | the same, exact trace | action, its gradient | the same | reverse |
| `InversePathGradient` | all, if the inverse is exact | action, its gradient | the same | reverse |
| `ForwardKL` | all | samples of the target | `-mean_p log q` | forward |
| `FlowMatching` | `EquivariantCNF` | samples of the target | regression of the velocity | None |
| `Mixture` | those of its parts | what its parts need | the weighted sum | of its parts |

An objective that does not suit a flow raises a TypeError that names another one. An objective on model
samples sees only the modes that the flow has. An objective on target samples sees only the modes that the
samples have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF, Flow, IntegratedFlow
from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class ObjectiveValue:
    """One evaluation of an objective on a batch.

    Attributes:
        surrogate: 0-d tensor whose gradient is the gradient estimate; its value may be meaningless.
        log_weight: `-S(phi) - log q(phi)` of a batch of model samples, detached, `(batch,)`, or
            `(coupling, batch)` if each row has its own Z; None if the objective draws no model samples.
        nfe: evaluations of the vector field in the forward solve; 0 if nothing is solved.
        value: what is minimised, 0-d, detached; None if that is `mean(log q + S)` of the model samples.
        target_log_weight: `-S(phi) - log q(phi)` of a batch of target samples, detached, `(batch,)`; None
            if the objective draws no target samples.

    Raises:
        ValueError: if both `log_weight` and `value` are None.
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
        """What is minimised: `value`, by default `mean(log q + S)`.

        The default is the reverse Kullback-Leibler divergence minus `log Z`.
        """
        if self.value is not None:
            return self.value
        assert self.log_weight is not None
        return -self.log_weight.mean()

    @property
    def ess(self) -> Tensor | None:
        """Effective sample size on the batch, 0-d, in float64.

        A log weight of -inf is a weight of zero; if all are zero, the ESS is 0. It is the
        reverse ESS `(sum w)^2 / (n sum w^2)` if there are model samples, else the forward ESS
        `1 / (mean w mean 1/w)` if there are target samples, else None.
        """
        if self.log_weight is not None:
            log_weight = _comparable(self.log_weight.double())
            log_n = math.log(len(log_weight))
            ess = (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0) - log_n).exp()
            return ess.masked_fill(log_weight.isneginf().all(), 0.0)
        if self.target_log_weight is not None:
            log_weight = self.target_log_weight.double()
            log_n = math.log(len(log_weight))
            return (2 * log_n - log_weight.logsumexp(0) - (-log_weight).logsumexp(0)).exp()
        return None


def _comparable(log_weight: Tensor) -> Tensor:
    """Flatten log weights, after replacing the estimated `log Z` of each row by the average over rows."""
    if log_weight.dim() == 1:
        return log_weight
    log_z = log_weight.logsumexp(1, keepdim=True) - math.log(log_weight.shape[1])
    weighed = ~log_z.isneginf()  # a row without any weight has no log Z, and stays without
    mean = log_z.masked_fill(~weighed, 0.0).sum() / weighed.sum()
    return (log_weight - log_z + mean).masked_fill(~weighed, -math.inf).flatten()


class Objective(Protocol):
    """Any callable that turns a flow, an action and a batch size into a gradient estimate.

    If several processes train one flow, each of them evaluates the objective on its share of the batch. The
    library's functions draw only this share, so average over the samples that were drawn. An objective that
    suits only some flows or actions may also have the method of `Selective`.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """Evaluate on a fresh batch.

        Args:
            flow: what is trained.
            action: its target.
            batch_size: samples per step, over all processes.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            An `ObjectiveValue` whose surrogate has the gradient estimate.
        """


@runtime_checkable
class Selective(Protocol):
    """An objective that can say before any training whether it suits a flow and an action."""

    def check_suits(self, flow: Flow, action: Action) -> None:
        """Raise unless the objective can train a flow on an action.

        Args:
            flow: what is to be trained.
            action: its target.

        Raises:
            TypeError: if the objective is for flows of another kind.
            ValueError: if it holds samples of another space.
        """


def check_suits(objective: object, flow: Flow, action: Action) -> None:
    """Raise unless an objective can train a flow on an action; plain callables are not checked.

    Args:
        objective: any `Objective`.
        flow: what is to be trained.
        action: its target.

    Raises:
        TypeError: if the objective is for flows of another kind.
        ValueError: if it holds samples of another space.
    """
    if isinstance(objective, Selective):
        objective.check_suits(flow, action)


def that_integrates(flow: Flow, objective: object, *, instead: str) -> IntegratedFlow:
    """Return a flow that integrates vector fields, or raise.

    Args:
        flow: any flow.
        objective: the objective that needs their paths.
        instead: the objective to use for other flows, as text.

    Returns:
        The flow itself.

    Raises:
        TypeError: if the flow is not an `IntegratedFlow`.
    """
    if not isinstance(flow, IntegratedFlow):
        raise _needs("an EquivariantCNF or a MultiscaleFlow", flow, objective, instead)
    return flow


def with_vector_field(flow: Flow, objective: object, *, instead: str) -> EquivariantCNF:
    """Return a flow that has a vector field, or raise.

    Args:
        flow: any flow.
        objective: the objective that needs the vector field.
        instead: the objective to use for other flows, as text.

    Returns:
        The flow itself.

    Raises:
        TypeError: if the flow is not an `EquivariantCNF`.
    """
    if not isinstance(flow, EquivariantCNF):
        raise _needs("an EquivariantCNF", flow, objective, instead)
    return flow


def _needs(what: str, flow: Flow, objective: object, instead: str) -> TypeError:
    """Return the error to raise where an objective does not suit a flow."""
    return TypeError(f"{type(objective).__name__} needs {what}, got {type(flow).__name__}; use {instead}.")
