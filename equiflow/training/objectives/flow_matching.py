"""Flow matching: the velocity by regression on straight lines, without solving the flow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from equiflow.flows import EquivariantCNF, Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.randomness import own_rows, whole
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import ObjectiveValue
from equiflow.training.objectives.samples import check_samples, digest, draw

COUPLINGS = ("minibatch", "independent")


@dataclass(frozen=True, eq=False, repr=False)
class FlowMatching:
    r"""`mean_t sum_x (v(phi_t, t) - (phi_1 - phi_0))_x^2` on `phi_t = (1 - t) phi_0 + t phi_1`.

    From the prior's `phi_0` to the target's `phi_1` (arXiv:2210.02747): at the minimum the flow carries
    one density to the other. Nothing is integrated and no density evaluated, so a step is cheap; the
    history's loss is the regression's and keeps a floor above 0, and it has no ESS.

    The regression gives the prior's parameters no gradient. They are trained besides by maximum likelihood
    on the same samples, `-mean log prior(phi_1)`, which brings the prior near the target.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`; a batch is drawn from them with
            replacement.
        coupling: `"independent"` pairs at random; `"minibatch"` pairs so that the batch's sum of squared
            distances is smallest (arXiv:2302.00482), which straightens the trajectories.
        sigma: standard deviation of Gaussian noise about the line; it blurs what the flow ends at.
        fit_prior: whether the prior's parameters are trained at all.
        n_times: flow times per step, evenly spread from a random start; the batch is divided among them.

    Raises:
        ValueError: for an unknown coupling, or a negative or infinite `sigma`.
    """

    samples: Tensor
    coupling: str = field(default="minibatch", kw_only=True)
    sigma: float = field(default=0.0, kw_only=True)
    fit_prior: bool = field(default=True, kw_only=True)
    n_times: int = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        check_samples(self.samples)
        if self.coupling not in COUPLINGS:
            raise ValueError(f"Unknown coupling {self.coupling!r}; expected one of {', '.join(COUPLINGS)}.")
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma must be >= 0 and finite, got {self.sigma}.")
        check_type(self.fit_prior, bool, "fit_prior")
        check_count(self.n_times, "n_times")

    def __repr__(self) -> str:
        names = ("coupling", "sigma", "fit_prior", "n_times")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"FlowMatching({digest(self.samples)}, {options})"

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective`; the flow must be an `EquivariantCNF`."""
        if not isinstance(flow, EquivariantCNF):
            raise TypeError(
                f"FlowMatching needs an EquivariantCNF, got {type(flow).__name__}; use ForwardKL(samples)."
            )
        with torch.no_grad(), whole(generator):  # pairs are matched within the whole batch
            samples = draw(self.samples, flow, action, batch_size, generator)
            start = flow.prior.rsample(batch_size, generator)
            end = matched(start, samples) if self.coupling == "minibatch" else samples
            end = flow.space.nearest(end, start)  # angles go the shorter way round
            n_times = min(self.n_times, batch_size)
            offset = torch.rand((), generator=generator, device=end.device, dtype=end.dtype)
            noise = torch.zeros_like(end)
            if self.sigma:
                noise.normal_(generator=generator).mul_(self.sigma)
        own = own_rows(torch.arange(batch_size), generator)
        loss, share = end.new_zeros(()), len(own) / batch_size
        for i, part in enumerate(torch.arange(batch_size).tensor_split(n_times)):
            rows = part[torch.isin(part, own)].to(end.device)
            if not len(rows):
                continue
            t = (i + offset) / n_times
            phi = torch.lerp(start[rows], end[rows], t) + noise[rows]
            residual = flow.vector_field.velocity(phi, t) - (end[rows] - start[rows])
            # A mean over our share of the batch, in which the rows of a part weigh as they do in all of it.
            loss = loss + residual.square().sum() / (n_times * len(part) * share)
        fitted = samples[own.to(samples.device)]
        surrogate = loss - flow.prior.log_prob(fitted).mean() if self.fit_prior else loss
        return ObjectiveValue(surrogate, None, n_times, value=loss.detach())


def matched(start: Tensor, end: Tensor) -> Tensor:
    """Reorder `end` so that `sum |start - end|^2` is smallest: the optimal assignment of two batches."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, and the squares are the same for every assignment.
    overlap = start.flatten(1).double() @ end.flatten(1).double().mT
    _, column = linear_sum_assignment(overlap.cpu().numpy(), maximize=True)
    return end[torch.from_numpy(column).to(end.device)]
