"""Flow matching: regression of the velocity on straight lines, without solving the flow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.checks import check_count, check_flag, make_plain
from equiflow.runtime.randomness import own_rows, whole
from equiflow.theories.base.action import Action
from equiflow.training.objectives.base import ObjectiveValue, with_vector_field
from equiflow.training.objectives.samples import check_samples, check_samples_fit, digest, draw

PAIRINGS = ("minibatch", "independent")


@dataclass(frozen=True, eq=False, repr=False)
class FlowMatching:
    r"""Flow matching, `mean_t sum_x (v(phi_t, t) - (phi_1 - phi_0))_x^2` on `phi_t = (1-t) phi_0 + t phi_1`.

    `phi_0` is drawn from the prior and `phi_1` from samples of the target (arXiv:2210.02747). At the
    minimum the flow transports one density to the other. Nothing is integrated and no density is evaluated,
    so a step is cheap. The loss in the history is the loss of the regression, whose minimum is above 0, and
    there is no ESS.

    The regression gives the prior's parameters no gradient. They are trained on the same samples by maximum
    likelihood, `-mean log prior(phi_1)`, which brings the prior near the target.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`; a batch is drawn from them with
            replacement.
        pairing: how prior and target samples are paired, minibatch or independent. `"minibatch"` minimises
            the sum of squared distances in the batch (arXiv:2302.00482), which straightens the trajectories.
            `"independent"` pairs at random.
        sigma: standard deviation of Gaussian noise about the line; it blurs the model density.
        fit_prior: whether the prior's parameters are trained.
        n_times: flow times per step, evenly spread from a random start; the batch is divided among them.

    Raises:
        TypeError: if samples or an option are of the wrong type.
        ValueError: for an unknown pairing, a negative or infinite `sigma`, or samples that are empty or not
            finite.
    """

    samples: Tensor
    pairing: str = field(default="minibatch", kw_only=True)
    sigma: float = field(default=0.0, kw_only=True)
    fit_prior: bool = field(default=True, kw_only=True)
    n_times: int = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        make_plain(self, "sigma", "fit_prior", "n_times")  # a checkpoint identifies the objective by its repr
        check_samples(self.samples)
        if self.pairing not in PAIRINGS:
            raise ValueError(f"Unknown pairing {self.pairing!r}; expected one of {', '.join(PAIRINGS)}.")
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma must be >= 0 and finite, got {self.sigma}.")
        check_flag(self.fit_prior, "fit_prior")
        check_count(self.n_times, "n_times")

    def __repr__(self) -> str:
        names = ("pairing", "sigma", "fit_prior", "n_times")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"FlowMatching({digest(self.samples)}, {options})"

    def check_suits(self, flow: Flow, action: Action) -> None:
        """See `Selective.check_suits`."""
        with_vector_field(flow, self, instead="ForwardKL(samples)")
        check_samples_fit(self.samples, flow, action)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`.

        Raises:
            TypeError: if the flow is not an `EquivariantCNF`.
            ValueError: if the samples are not configurations of the flow.
        """
        vector_field = with_vector_field(flow, self, instead="ForwardKL(samples)").vector_field
        with torch.no_grad(), whole(generator):  # pairs are matched within the whole batch
            samples = draw(self.samples, flow, action, batch_size, generator)
            start = flow.prior.rsample(batch_size, generator)
            end = matched(start, samples) if self.pairing == "minibatch" else samples
            end = flow.space.nearest(end, start)  # angles take the shorter way round the circle
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
            residual = vector_field.velocity(phi, t) - (end[rows] - start[rows])
            # The mean over all processes has to give the rows of a part the same weight as one process does.
            loss = loss + residual.square().sum() / (n_times * len(part) * share)
        fitted = samples[own.to(samples.device)]
        surrogate = loss - flow.prior.log_prob(fitted).mean() if self.fit_prior else loss
        return ObjectiveValue(surrogate, None, n_times, value=loss.detach())


def matched(start: Tensor, end: Tensor) -> Tensor:
    """Reorder `end` so that `sum |start - end|^2` is smallest, the optimal assignment of two batches.

    Args:
        start: `(batch, *lattice)`.
        end: `(batch, *lattice)`.

    Returns:
        The rows of `end` in another order, `(batch, *lattice)`.
    """
    from scipy.optimize import linear_sum_assignment  # here, because it takes long and few need it

    # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, and the squares are the same for every assignment.
    overlap = start.flatten(1).double() @ end.flatten(1).double().mT
    _, column = linear_sum_assignment(overlap.cpu().numpy(), maximize=True)
    return end[torch.from_numpy(column).to(end.device)]
