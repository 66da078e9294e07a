"""Maximum likelihood: the forward Kullback-Leibler divergence from given configurations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import ObjectiveValue
from equiflow.training.objectives.samples import check_samples, check_samples_fit, digest, draw


@dataclass(frozen=True, eq=False, repr=False)
class ForwardKL:
    r"""Maximum likelihood on given samples of the target, `-mean_p log q(phi)`; works for every flow.

    It is the forward Kullback-Leibler divergence plus the entropy of p. It punishes a flow that misses modes
    of the samples, where the reverse divergence punishes a flow that has modes beside them. Alone or in a
    `Mixture` it cures a dropped mode. It knows no more than the samples, and the variance of its gradient
    stays positive at the optimum.

    An equivariant flow gains nothing from samples that are transformed by its group, because its log q is
    invariant. A flow with less symmetry than the target gains from them:
    `torch.cat([g(phi) for g in group.elements()])`.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`, such as `chain.configurations`; a
            batch is drawn from them with replacement. For a flow of field and momentum give the fields;
            momenta are drawn afresh.
        solver: how to integrate during training, instead of the flow's own solver; for flows that
            integrate.

    Raises:
        TypeError: if the samples are not a tensor of floats.
        ValueError: if the samples are empty or not finite.
    """

    samples: Tensor
    solver: Solver | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def __repr__(self) -> str:
        return f"ForwardKL({digest(self.samples)}, solver={self.solver!r})"

    def check_suits(self, flow: Flow, action: Action) -> None:
        """See `Selective.check_suits`."""
        check_samples_fit(self.samples, flow, action)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`.

        Raises:
            TypeError: if there is a solver and the flow does not integrate.
            ValueError: if the samples are not configurations of the flow.
        """
        check_type(action, Action, "action")
        phi = draw(self.samples, flow, action, batch_size, generator)
        log_q, nfe = flow.log_prob_to_train(phi, solver=self.solver, generator=generator)
        fixed = log_q.detach()
        return ObjectiveValue(
            -log_q.mean(), None, nfe, value=-fixed.mean(), target_log_weight=-action(phi) - fixed
        )
