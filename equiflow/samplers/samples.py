"""What an ensemble and a chain have in common, and the solver error that both pass on to their estimates.

Start with `Samples`: code that takes either of them asks its methods instead of looking at its class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.progress import progress_bar
from equiflow.statistics import Estimate
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space

#: configurations that are measured at a time, which bounds the memory
CONFIGURATIONS_PER_BATCH = 1024
#: values of one configuration, alone and among others, are the same if they differ by less than this part of
#: the largest value
SAME_VALUE = 1e-3
#: a first axis of so many entries may well count components
FEW_COMPONENTS = 3
#: from so many numbers on their distribution is looked at
FEWEST_NUMBERS = 1000


class HasNote(Protocol):
    """Whatever makes samples and says what to know about averages over them."""

    note: str


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
    kernel: HasNote | None = None

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
        """What to know about every average over these samples, see `Estimate.note`; empty for nothing."""
        return "" if self.kernel is None else self.kernel.note

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


def only_lattice_of(phi: Tensor) -> Lattice:
    """Return the lattice of scalar fields of this shape, if nothing else is known about them.

    It is a guess where it is not refused: angles on a square lattice, and eight components on a line of
    eight sites, have the same shape. Results say so, see `Measurements.read_as`.

    Args:
        phi: configurations, `(n_samples, *shape)`.

    Returns:
        The lattice, which has equal sides.

    Raises:
        ValueError: if the first axis could just as well count components or particles, or the numbers are
            spread like angles.

    >>> only_lattice_of(torch.zeros(5, 8, 8))
    Lattice(shape=(8, 8))
    """
    shape = tuple(phi.shape[1:])
    if len(set(shape)) > 1 or (len(shape) > 1 and shape[0] <= FEW_COMPONENTS):
        raise ValueError(
            f"Configurations of shape {shape} can be those of a Lattice, of a Multiplet or of Particles, and "
            f"the samples do not say which. Give space=Lattice({shape}), space=Multiplet(...) or action=..., "
            "to the function, or space=... to the Chain or Ensemble."
        )
    if _look_like_angles(phi):
        raise ValueError(
            "The numbers fill an interval of 2 pi, as angles do, and the samples do not say what they are. "
            f"Give space=Lattice({shape}) if they are real fields; for angles take estimate_observables."
        )
    return Lattice(shape)


def _look_like_angles(phi: Tensor) -> bool:
    """Return whether numbers fill [-pi, pi) or [0, 2 pi) up to the ends and none lies beyond."""
    if phi.numel() < FEWEST_NUMBERS:
        return False
    for middle in (0.0, math.pi):
        half_turns = (phi.double() - middle) / math.pi
        ends = [float((side > 0.9).double().mean()) for side in (half_turns, -half_turns)]
        if float(half_turns.abs().max()) < 1 + 1e-6 and min(ends) > 0.005:
            return True
    return False


def per_configuration(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """Apply a function to a large batch, a few configurations at a time.

    Args:
        function: function of a batch `(batch, *lattice)` that returns one row per configuration.
        phi: `(n_samples, *lattice)`.

    Returns:
        All rows, `(n_samples, ...)`.
    """
    found = []
    with progress_bar(len(phi), "measuring", "configuration") as bar:
        for part in phi.split(CONFIGURATIONS_PER_BATCH):
            found.append(function(part))
            bar.update(len(part))
    return torch.cat(found)


def values_of(observable: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """Return the values of an observable, or raise unless it is one number per configuration.

    Args:
        observable: function of a batch `(n, *lattice)`, expected to return a tensor `(n,)`.
        phi: `(n, *lattice)`.

    Returns:
        The values, `(n,)`.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they have another shape, or the value of a configuration depends on the others.
    """
    values, n = observable(phi), len(phi)
    if not isinstance(values, Tensor):
        raise TypeError(f"The observable returned {type(values).__name__}; expected a tensor, ({n},).")
    if values.shape != (n,):
        raise ValueError(
            f"The observable returned shape {tuple(values.shape)}; expected one value per configuration, "
            f"({n},)."
        )
    check_each_alone(observable, phi, values)
    return values


def check_each_alone(observable: Callable[[Tensor], Tensor], phi: Tensor, values: Tensor) -> None:
    """Raise if an observable gives the first or the middle configuration another value without the others.

    One that subtracts the mean of the batch would be averaged without the weights of the samples, and depend
    on how many are measured at a time.

    Args:
        observable: function of a batch `(n, *lattice)`.
        phi: `(n, *lattice)`.
        values: what it returned for them, `(n, ...)`.

    Raises:
        ValueError: if a value differs by more than a thousandth of the largest one.
    """
    if len(phi) < 2 or values.is_complex():  # the caller refuses complex ones
        return
    values = values.double()
    for k in {0, len(phi) // 2}:
        alone = torch.as_tensor(observable(phi[k : k + 1])).double()
        if alone.shape == values[k : k + 1].shape and _differ(alone, values[k : k + 1], values):
            raise ValueError(
                "The observable depends on the other configurations of the batch: alone, one has the value "
                f"{alone.flatten()[0]:.6g}, among {len(phi)} {values[k].flatten()[0]:.6g}. Sum over the axes "
                "of the lattice only. For <(O - <O>)^2> measure O and O^2, see analysis.Observable."
            )


def _differ(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Return whether numbers differ by more than rounding; NaN and infinity are not compared."""
    known = one.isfinite() & other.isfinite()
    finite = scale[scale.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return bool(((one - other).abs()[known] > SAME_VALUE * largest).any())


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
