"""What a Markov chain Monte Carlo run returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiflow.flows import Certificate
from equiflow.samplers.importance import reweighted_mean, with_shift
from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series

if TYPE_CHECKING:
    from equiflow.samplers.kernel import Kernel


@dataclass(frozen=True)
class Chain:
    """Samples of independent Markov chains, in the order they were drawn.

    Attributes:
        samples: `(n_samples, n_chains, *lattice)`.
        acceptance: accepted fraction of the proposals behind each sample, `(n_samples, n_chains)`. Where
            independence Metropolis starts, the sample has none, and there are as many fewer.
        step_size: integration step that was used, for samplers that have one.
        certificate: of the flow that made the proposals, for samplers that have one.
        log_weight: `-S - log q` of each sample, for independence Metropolis, `(n_samples, n_chains)`.
        kernel: the update that made the chains, as tuned; `chain.kernel.sample(n, start=chain)` goes on.
        annealed: whether the log weights are those of an annealed ensemble, work along paths.
    """

    samples: Tensor
    acceptance: Tensor
    step_size: float | None = None
    certificate: Certificate | None = None
    log_weight: Tensor | None = None
    kernel: Kernel | None = field(default=None, repr=False, compare=False)
    annealed: bool = False

    def followed_by(self, more: Chain) -> Chain:
        """One chain of this one and its continuation, which was sampled with `start=` this one.

        Its certificate is that of the first of the two that has one.
        """
        log_weight = None
        if self.log_weight is not None and more.log_weight is not None:
            log_weight = torch.cat([self.log_weight, more.log_weight])
        samples = torch.cat([self.samples, more.samples])
        acceptance = torch.cat([self.acceptance, more.acceptance])
        certificate = more.certificate if self.certificate is None else self.certificate
        return replace(
            self, samples=samples, acceptance=acceptance, log_weight=log_weight, certificate=certificate
        )

    @property
    def acceptance_rate(self) -> Estimate:
        """Fraction of accepted proposals, its error including autocorrelations.

        The solver error is known for independence Metropolis with the flow alone; elsewhere it is left out.
        """
        known = self.log_weight is not None and not self.annealed
        return with_shift(mean_of_series(self.acceptance), self.certificate if known else None, _acceptance)

    @property
    def configurations(self) -> Tensor:
        """All samples in one batch, chain after chain, `(n_samples * n_chains, *lattice)`.

        Each chain stays contiguous, so that jackknife blocks absorb autocorrelations.
        """
        return self.samples.transpose(0, 1).flatten(0, 1)

    def series(self, observable: Callable[[Tensor], Tensor]) -> Tensor:
        """Values of an observable along the chains, `(n_samples, n_chains)`."""
        return observable(self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Mean of an observable with autocorrelations in its error."""
        return with_shift(
            mean_of_series(self.series(observable)),
            self.certificate,
            lambda phi, log_w: reweighted_mean(observable(phi), log_w),
        )

    def tau_int(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Integrated autocorrelation time of an observable, in units of samples."""
        return integrated_autocorrelation_time(self.series(observable))


def _acceptance(phi: Tensor, log_weight: Tensor) -> Tensor:
    """Mean of `min(1, w'/w)` when `w` is drawn from the target and `w'` from the model."""
    log_weight = log_weight.double()
    ratio = (log_weight[None, :] - log_weight[:, None]).clamp(max=0.0).exp()
    return torch.softmax(log_weight, 0) @ ratio.mean(1)
