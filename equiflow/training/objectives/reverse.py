"""The reverse Kullback-Leibler divergence, by reparametrisation and by path gradients.

`ReverseKL` works for every flow, `PathGradient` is for flows that integrate, and `InversePathGradient` for
exact maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from equiflow.flows import Flow
from equiflow.ode.solver import Solver
from equiflow.runtime.autograd import as_leaf
from equiflow.runtime.checks import check_type, make_plain
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import ObjectiveValue, that_integrates


@dataclass(frozen=True)
class ReverseKL:
    """Reverse KL by reparametrisation, `mean(log q(phi) + S(phi))`; works for every flow.

    The variance of its gradient stays positive at the optimum, where that of `PathGradient` vanishes.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`."""
        check_type(action, Action, "action")
        phi, log_q = flow.rsample_and_log_prob(batch_size, generator=generator)
        divergence = log_q + action(phi)
        return ObjectiveValue(divergence.mean(), -divergence.detach(), 0)


@dataclass(frozen=True)
class PathGradient:
    """Reverse KL by its path gradient, `mean((grad log q + grad S) . dphi/dtheta)` (arXiv:2206.09016).

    Without the score term the variance vanishes at the optimum. The kinetic energy of the trajectories
    can be added with a small weight, because straight, slow trajectories are cheap to integrate.

    Args:
        kinetic_penalty: weight of `mean int sum_x v^2 dt`; 0 turns it off. If the norm of the gradient
            grows during training, the field has become too stiff for the solver. Then take 1e-2, which
            is needed near the critical point, or a finer solver.
        solver: how to integrate during training, instead of the flow's own solver.

    Raises:
        ValueError: if the penalty is negative or NaN.
    """

    kinetic_penalty: float = 1e-3
    solver: Solver | None = None

    def __post_init__(self) -> None:
        make_plain(self, "kinetic_penalty")  # a checkpoint identifies the objective by its repr
        if not self.kinetic_penalty >= 0:
            raise ValueError(f"kinetic_penalty must be >= 0, got {self.kinetic_penalty}.")

    def check_suits(self, flow: Flow, action: Action) -> None:
        """See `Selective.check_suits`."""
        that_integrates(flow, self, instead="ReverseKL()")

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`.

        Raises:
            TypeError: if the flow is not an `IntegratedFlow`.
        """
        check_type(action, Action, "action")
        continuous = that_integrates(flow, self, instead="ReverseKL()")
        path = continuous.rsample_path(batch_size, generator=generator, solver=self.solver)
        phi = path.phi.detach()
        force = path.score + action.grad(phi)
        surrogate = (flow.space.displacement(path.phi) * force).flatten(1).sum(1).mean()
        if self.kinetic_penalty:
            surrogate = surrogate + self.kinetic_penalty * path.kinetic_energy.mean()
        return ObjectiveValue(surrogate, -action(phi) - path.log_q, path.nfe)


@dataclass(frozen=True)
class InversePathGradient:
    """Reverse KL by `mean((grad log q + grad S) . dphi/dtheta)`, with the score from the inverse map.

    `grad log q(phi)` is taken through `log_prob` at fixed parameters, which costs one inverse and its
    gradient. At the optimum the variance vanishes (arXiv:2207.08219). Use it for flows with an exact
    inverse. For a flow that integrates, `PathGradient` is cheaper.
    """

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`."""
        check_type(action, Action, "action")
        phi, log_q = flow.rsample_and_log_prob(batch_size, generator=generator)
        leaf = as_leaf(phi)
        (score,) = torch.autograd.grad(flow.log_prob(leaf).sum(), leaf)
        force = score + action.grad(phi.detach())
        surrogate = (phi * force).flatten(1).sum(1).mean()
        return ObjectiveValue(surrogate, -action(phi.detach()) - log_q.detach(), 0)
