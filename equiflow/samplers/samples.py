"""What an ensemble and a chain have in common, and the solver error that both pass on to their estimates.

Start with `Samples`: code that takes either of them asks its methods instead of looking at its class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.statistics import Estimate
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space

#: configurations that are measured at a time, which bounds the memory
CONFIGURATIONS_PER_BATCH = 1024


class Samples(ABC):
    """Samples that averages over the target `exp(-S)` are estimated from: an `Ensemble` or a `Chain`.

    Attributes:
        certificate: change of the results under a finer solve of the flow behind the samples; None if there
            is no flow or its error is unknown.
        space: of the configurations, which their shape does not tell; None if unknown, as for tensors of
            another program.
    """

    certificate: Certificate | None
    space: Space | None

    @property
    @abstractmethod
    def configurations(self) -> Tensor:
        """All samples in one batch, `(n_samples, *lattice)`."""

    @property
    @abstractmethod
    def configuration_shape(self) -> tuple[int, ...]:
        """Shape of one configuration, such as `(*lattice,)`."""

    @property
    def note(self) -> str:
        """What to know about every estimate from these samples, see `Estimate.note`; empty for nothing."""
        return ""

    def for_averages(self) -> Samples:
        """Return the samples that averages are taken of, these or some of them."""
        return self

    @abstractmethod
    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the average of an observable over the target.

        Args:
            observable: function of a batch `(batch, *lattice)` that returns one value per configuration,
                `(batch,)`.

        Returns:
            The average with its statistical error, and the solver error if there is a certificate.
        """

    @abstractmethod
    def mean_and_fluctuations(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Average k numbers per configuration, and return the deviation of every sample from the averages.

        The error of a derived quantity `f(<a>)` follows from these deviations: its own fluctuations are
        `sum_i df/da_i (a_i - <a_i>)`, and `statistics.error_of_fluctuations` turns them into an error.

        Args:
            function: function of a batch `(batch, *lattice)` that returns `(batch, k)` in float64.

        Returns:
            The averages over the target, `(k,)`, and the fluctuations `(n, n_chains, k)` of mean zero, in the
            order in which the samples were drawn.

        Raises:
            ValueError: if there are too few samples for an error, or a weight is NaN or infinite.
        """


def only_lattice_of(shape: tuple[int, ...]) -> Lattice:
    """Return the lattice of scalar fields of this shape, if nothing else is known about them.

    Args:
        shape: of one configuration.

    Returns:
        The lattice, which has equal sides.

    Raises:
        ValueError: if the first axis could just as well count components or particles.

    >>> only_lattice_of((8, 8))
    Lattice(shape=(8, 8))
    """
    if len(set(shape)) > 1:
        raise ValueError(
            f"Configurations of shape {shape} can be those of a Lattice, of a Multiplet or of Particles, and "
            f"the samples do not say which. Give space=Lattice({shape}), space=Multiplet(...) or action=..., "
            "to the function, or space=... to the Chain or Ensemble."
        )
    return Lattice(shape)


def per_configuration(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """Apply a function to a large batch, a few configurations at a time.

    Args:
        function: function of a batch `(batch, *lattice)` that returns one row per configuration.
        phi: `(n_samples, *lattice)`.

    Returns:
        All rows, `(n_samples, ...)`.
    """
    return torch.cat([function(part) for part in phi.split(CONFIGURATIONS_PER_BATCH)])


def certificate_of(
    flow: Flow | None, action: Action, n_samples: int, generator: torch.Generator | None
) -> Certificate | None:
    """Measure the discretisation error of a flow, if there is a flow and the caller wants to know.

    Args:
        flow: the flow behind some samples, or None.
        action: the target, `exp(-S)`.
        n_samples: on how many fresh samples; 0 skips the measurement.
        generator: source of randomness, on the flow's device.

    Returns:
        The certificate, or None if nothing was measured.
    """
    if flow is None or n_samples == 0:
        return None
    return flow.certificate(n_samples, action=action, generator=generator)


def with_shift(
    estimate: Estimate,
    certificate: Certificate | None,
    functional: Callable[[Tensor, Tensor], Tensor],
) -> Estimate:
    """Add the solver error to an estimate, see `Certificate.error_of`.

    Args:
        estimate: value with its statistical error.
        certificate: of the flow behind it; None leaves the estimate unchanged.
        functional: the same quantity as a function of `phi`, `(n, *lattice)`, and `log_weight`, `(n,)`.

    Returns:
        The estimate with its `systematic`.
    """
    if certificate is None:
        return estimate
    return replace(estimate, systematic=certificate.error_of(functional))


def reweighted_mean(values: Tensor, log_weight: Tensor) -> Tensor:
    """Return the reweighted average `sum w O / sum w`, 0-d in float64.

    Args:
        values: of the observable O, `(n_samples,)`.
        log_weight: `log w`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        The average over the target.
    """
    return torch.softmax(log_weight.double(), 0) @ where_weighted(values, log_weight).double()


def where_weighted(values: Tensor, log_weight: Tensor) -> Tensor:
    """Return the values of samples that have a weight, and 0 for the others, whatever their values are.

    Args:
        values: `(n_samples, ...)`; NaN or infinite where the target has no density, perhaps.
        log_weight: `log w`, `(n_samples,)`; -inf is a weight of zero.

    Returns:
        `(n_samples, ...)`.
    """
    given = ~log_weight.isneginf()
    return torch.where(given.reshape(-1, *(1,) * (values.dim() - 1)), values, torch.zeros_like(values))
