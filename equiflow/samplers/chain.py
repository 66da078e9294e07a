"""What a Markov chain Monte Carlo run returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series


@dataclass(frozen=True)
class Chain:
    """Samples of independent Markov chains, in the order they were drawn.

    Attributes:
        samples: `(n_samples, n_chains, *lattice)`.
        acceptance: accepted fraction of the proposals behind each sample, `(n_samples, n_chains)`.
        step_size: integration step that was used, for samplers that have one.
    """

    samples: Tensor
    acceptance: Tensor
    step_size: float | None = None

    @property
    def acceptance_rate(self) -> Estimate:
        """Fraction of accepted proposals, its error including autocorrelations."""
        return mean_of_series(self.acceptance)

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
        return mean_of_series(self.series(observable))

    def tau_int(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Integrated autocorrelation time of an observable, in units of samples."""
        return integrated_autocorrelation_time(self.series(observable))
