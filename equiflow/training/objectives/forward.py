"""Maximum likelihood: the forward Kullback-Leibler divergence from given configurations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF, Flow
from equiflow.ode.solver import Solver
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import ObjectiveValue
from equiflow.training.objectives.samples import check_samples, digest, draw


@dataclass(frozen=True, eq=False, repr=False)
class ForwardKL:
    r"""`-mean_p log q(phi)`, maximum likelihood on given samples of the target; for every flow.

    It punishes a flow that misses what the samples have, where the reverse divergence punishes what
    they lack: the cure for a dropped mode, alone or in a `Mixture`. It can know no more than the
    samples, and its gradient keeps a variance at the optimum.

    An equivariant flow gains nothing from samples transformed by its group: its log q is invariant.
    One with less symmetry than the target does: `torch.cat([g(phi) for g in group.elements()])`.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`, such as `chain.configurations`;
            a batch is drawn from them with replacement. A flow of field and momentum takes fields and
            draws momenta besides.
        solver: how to integrate while training, instead of the flow's own solver; for flows that
            integrate.
    """

    samples: Tensor
    solver: Solver | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def __repr__(self) -> str:
        return f"ForwardKL({digest(self.samples)}, solver={self.solver!r})"

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`."""
        phi = draw(self.samples, flow, action, batch_size, generator)
        log_q, nfe = self._log_prob(flow, phi, generator)
        fixed = log_q.detach()
        return ObjectiveValue(
            -log_q.mean(), None, nfe, value=-fixed.mean(), target_log_weight=-action(phi) - fixed
        )

    def _log_prob(self, flow: Flow, phi: Tensor, generator: torch.Generator | None) -> tuple[Tensor, int]:
        if isinstance(flow, EquivariantCNF):
            solution = flow.solve(phi, 1.0, 0.0, solver=self.solver, generator=generator)
            z, log_det = solution.state
            return flow.prior.log_prob(z) + log_det, solution.nfe
        if self.solver is not None:
            raise TypeError(
                f"A solver is for an EquivariantCNF; {type(flow).__name__} does not integrate. Leave it out."
            )
        return flow.log_prob(phi), 0
