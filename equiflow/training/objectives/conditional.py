"""Training a conditional flow: `OverCouplings` averages an objective over couplings."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from equiflow.flows import ConditionalFlow
from equiflow.runtime.checks import check_count, check_type, make_plain
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.objectives.base import Objective, ObjectiveValue


@dataclass(frozen=True)
class OverCouplings:
    r"""An objective of ordinary flows, averaged over couplings that are drawn anew at each step.

    The objective is evaluated on an ordinary flow at each coupling. The weights are linear in the modes,
    `theta(c) = sum_k P_k(c) theta_k`, so that the chain rule is `d/dtheta_k = sum_c P_k(c) d/dtheta(c)`.

    Args:
        objective: objective of one flow and one action, such as `PathGradient()`.
        n_couplings: number of couplings per step; each gets the same number of samples.

    Raises:
        ValueError: if `n_couplings` is not positive.
    """

    objective: Objective
    n_couplings: int = 4

    def __post_init__(self) -> None:
        make_plain(self, "n_couplings")
        check_count(self.n_couplings, "n_couplings")

    def __call__(
        self,
        flow: ConditionalFlow,
        action: ActionFamily,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> ObjectiveValue:
        """Evaluate on fresh batches.

        The loss is the average over the couplings, and the ESS is the harmonic mean.

        Args:
            flow: the flow to be trained.
            action: its targets.
            batch_size: number of samples at all couplings together.
            generator: source of randomness, on the flow's device.

        Returns:
            A value whose `log_weight` is `(coupling, batch)`.

        Raises:
            TypeError: if the flow is not conditional, the action no `ActionFamily`, or the objective draws
                no model samples.
            ValueError: if the couplings cannot share the batch evenly.
        """
        check_type(flow, ConditionalFlow, "flow", "OverCouplings is for conditional flows.")
        check_type(action, ActionFamily, "action")
        each, rest = divmod(batch_size, self.n_couplings)
        if rest or not each:
            raise ValueError(
                f"batch_size = {batch_size} cannot be shared evenly by {self.n_couplings} couplings; "
                f"give a multiple of {self.n_couplings}."
            )
        modes = flow.modes()
        gradients = {name: torch.zeros_like(torch.cat([z[None], s])) for name, (z, s) in modes.items()}
        log_weights, nfe = [], 0
        for couplings in action.draw(self.n_couplings, generator):
            flow_here = flow.sharing(**couplings)
            value = self.objective(flow_here, action.at(**couplings), each, generator)
            if value.log_weight is None:
                raise TypeError(
                    f"OverCouplings needs an objective on model samples, got {self.objective!r}, whose "
                    "target samples belong to one coupling. Use PathGradient() or ReverseKL()."
                )
            weights = dict(flow_here.named_parameters())
            # One coupling after the other, so that only one graph is in memory.
            found = torch.autograd.grad(
                value.surrogate, [weights[name] for name in modes], allow_unused=True, materialize_grads=True
            )
            basis = flow.basis(**couplings)
            for name, gradient in zip(modes, found, strict=True):
                gradients[name] += torch.tensordot(gradient.new_tensor(basis), gradient / self.n_couplings, 0)
            log_weights.append(value.log_weight)
            nfe = max(nfe, value.nfe)
        # A surrogate that is linear in the modes and has these gradients.
        terms = [
            (zero * gradients[name][0]).sum() + (stack * gradients[name][1:]).sum()
            for name, (zero, stack) in modes.items()
        ]
        return ObjectiveValue(torch.stack(terms).sum(), torch.stack(log_weights), nfe)
