"""Samples of Markov chains: `Chain`, which every kernel returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.samplers.acceptance import mean_acceptance
from equiflow.samplers.samples import (
    Samples,
    per_configuration,
    reweighted_mean,
    values_of,
    with_shift,
)
from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series, noted
from equiflow.statistics.tables import ShownAsTable, attempted
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space


class MadeChain(Protocol):
    """What a chain knows about the kernel that made it."""

    action: Action
    flow: Flow | None
    note: str

    @property
    def sample(self) -> Callable[..., Chain]:
        """Run the kernel, see `Kernel.sample`."""


@dataclass(frozen=True, repr=False)
class Chain(ShownAsTable, Samples):
    """Samples of independent Markov chains, in the order they were drawn.

    Attributes:
        samples: `(n_samples, n_chains, *lattice)`.
        acceptance: accepted fraction of the proposals before each sample, `(n_samples, n_chains)`. The first
            sample of independence Metropolis has no proposals before it, so its `acceptance` is shorter by
            one.
        step_size: integration step, for samplers that have one.
        certificate: of the flow that made the proposals, for samplers that have one.
        log_weight: `-S - log q` of each sample, for independence Metropolis, `(n_samples, n_chains)`.
        kernel: the update that made the chains, tuned; `chain.kernel.sample(n, start=chain)` continues them.
        annealed: whether the log weights come from an annealed ensemble, as work along paths.
        space: of the configurations, see `Samples`.
    """

    samples: Tensor
    acceptance: Tensor
    step_size: float | None = None
    certificate: Certificate | None = None
    log_weight: Tensor | None = None
    kernel: MadeChain | None = field(default=None, repr=False, compare=False)
    annealed: bool = False
    space: Space | None = None

    def followed_by(self, more: Chain) -> Chain:
        """Join this chain and its continuation, sampled with `start=` this chain.

        Args:
            more: the continuation.

        Returns:
            One chain. Its certificate is this chain's, or the continuation's if this chain has none.
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
        """Fraction of accepted proposals, with autocorrelations in its error.

        The solver error is known for `IndependenceMetropolis` only; other chains leave it out.
        """
        certificate = None if self.log_weight is None or self.annealed else self.certificate
        return with_shift(mean_of_series(self.acceptance), certificate, mean_acceptance)

    @property
    def configurations(self) -> Tensor:
        """All samples in one batch, chain after chain, `(n_samples * n_chains, *lattice)`.

        Each chain stays contiguous, so that jackknife blocks absorb autocorrelations.
        """
        return self.samples.transpose(0, 1).flatten(0, 1)

    @property
    def configuration_shape(self) -> tuple[int, ...]:
        """See `Samples.configuration_shape`."""
        return tuple(self.samples.shape[2:])

    def series(self, observable: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of an observable along the chains, `(n_samples, n_chains)`."""
        return values_of(observable, self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the mean of an observable, with autocorrelations in its error. See `Samples.mean`."""
        mean = noted(mean_of_series(self.series(observable)), self.note)
        return with_shift(mean, self.certificate, lambda phi, log_w: reweighted_mean(observable(phi), log_w))

    def mean_and_fluctuations(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """See `Samples.mean_and_fluctuations`; the fluctuations are `O - <O>`."""
        n, n_chains = self.samples.shape[:2]
        if n < 4 and n_chains < 2:
            raise ValueError(
                f"An error needs n >= 4 samples of a chain, or several chains; got n = {n} of one."
            )
        values = per_configuration(function, self.samples.flatten(0, 1)).unflatten(0, (n, n_chains))
        means = values.mean((0, 1))
        return means, values - means

    def _rows(self) -> dict[str, object]:
        n, n_chains = self.samples.shape[:2]
        unnamed = "unknown" if self.log_weight is None else "independence Metropolis"
        rows: dict[str, object] = {
            "sampler": unnamed if self.kernel is None else type(self.kernel).__name__,
            "chains": f"{n_chains} of {n} samples each",
            "configurations": self.space or f"shape {self.configuration_shape}",
            "acceptance": attempted(lambda: self.acceptance_rate),
        }
        if self.step_size is not None:
            rows["step size"] = f"{self.step_size:.4g}"
        rows |= {} if self.certificate is None else {"certificate": self.certificate}
        return rows | ({"note": self.note} if self.note else {})

    def tau_int(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the integrated autocorrelation time of an observable, in units of samples."""
        return integrated_autocorrelation_time(self.series(observable))
