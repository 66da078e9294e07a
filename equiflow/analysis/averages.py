"""Quantities of your own, with the errors that all results here have.

Describe a quantity by an `Observable` and give it to `measure(..., observables=[...])`, or to
`estimate_observables` for samples of any theory. `Averages` measures once what several of them need.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.analysis.columns import Average, Columns, solver_shift
from equiflow.runtime.checks import check_type
from equiflow.runtime.progress import progress_as
from equiflow.samplers.importance import Ensemble
from equiflow.samplers.samples import Samples
from equiflow.statistics import (
    Estimate,
    SeriesErrors,
    error_of_fluctuations,
    error_of_weighted_fluctuations,
    few_effective_samples,
    heavy_tails,
    heavy_weights_factor,
    noted,
    tail_factor,
    warn_if_few_effective_samples,
)

#: one number, 0-d, or several: `(k,)` or a sequence of 0-d tensors
Quantity = Tensor | Sequence[Tensor]
#: what becomes of a `Quantity`
Estimates = Estimate | tuple[Estimate, ...]


@dataclass(frozen=True)
class Observable:
    """A quantity to measure: averages over the target, or a function of such averages.

        value = derived(<average_1>, <average_2>, ...)

    Write `derived` for everything that is no plain average, such as a ratio, a cumulant or a mass. Its error
    follows from the fluctuations of all averages together, by linear propagation.

    Attributes:
        name: of the result.
        average: function of a batch `(batch, *lattice)` that returns one number per configuration,
            `(batch,)`, or k numbers, `(batch, k)`. Several functions are given as a tuple.
        derived: differentiable function, by torch operations, of the average of each function: 0-d for
            `(batch,)`, `(k,)` for `(batch, k)`. It returns one number, 0-d, or several, `(m,)` or a sequence.
            By default the value is the average itself.
        heavy_tails: whether to widen the error for heavy tails of the fluctuations, as ratios of high moments
            need it with a few hundred samples, see `statistics.tail_factor`.

    Raises:
        TypeError: if `name` is no text, or something else is no function.
        ValueError: if there are several averages and no `derived`.

    >>> import torch
    >>> from equiflow import Chain
    >>> from equiflow.observables import phi_fourth, phi_squared
    >>> kurtosis = Observable("kurtosis", (phi_squared, phi_fourth), lambda two, four: four / two**2)
    >>> noise = torch.randn(500, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> estimate = estimate_observables(Chain(noise, torch.ones(500, 8)), [kurtosis])["kurtosis"]
    >>> abs(estimate.sigmas_from(3.0)) < 3  # 3 for a Gaussian
    True
    """

    name: str
    average: Average | tuple[Average, ...]
    derived: Callable[..., Quantity] | None = None
    heavy_tails: bool = False

    def __post_init__(self) -> None:
        check_type(self.name, str, "name")
        for function in (*self.averages, *([] if self.derived is None else [self.derived])):
            if not callable(function):
                raise TypeError(f"{self.name!r} needs functions, got {function!r}.")
        if self.derived is None and len(self.averages) != 1:
            raise ValueError(
                f"{self.name!r} has {len(self.averages)} averages; expected one, or a function `derived` "
                "that says what to compute from them."
            )

    @property
    def averages(self) -> tuple[Average, ...]:
        """The functions to average, as a tuple."""
        return self.average if isinstance(self.average, tuple) else (self.average,)

    def value(self, *averages: Tensor) -> Quantity:
        """Return the quantity as a function of the average of each function, see `derived`."""
        return averages[0] if self.derived is None else self.derived(*averages)


@torch.inference_mode(False)
@torch.no_grad()
def estimate_observables(
    samples: Samples, observables: Sequence[Observable], *, progress: bool | None = None
) -> dict[str, Estimates]:
    """Estimate quantities of your own on samples of any theory.

    Errors are computed as in `measure`, with weights or autocorrelations, and with the solver error.

    Args:
        samples: an ensemble or a chain.
        observables: what to measure, each with its name.
        progress: whether to show a bar, see `fit`.

    Returns:
        The estimate of every observable by its name, a tuple of estimates for several numbers.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if two observables share a name, a function returns values of a wrong shape or NaN, there
            are too few samples for an error, or a weight is NaN or infinite.
    """
    check_names(observables)
    functions = [function for observable in observables for function in observable.averages]
    if not functions:
        return {}
    with progress_as(progress):
        averages = Averages.over(samples, functions)
    for observable in observables:
        if not all(bool(averages.mean_of(function).isfinite().all()) for function in observable.averages):
            raise ValueError(f"{observable.name!r} has NaN or infinite values; expected finite ones.")
    return averages.estimates(observables)


def check_names(observables: Sequence[Observable], taken: Sequence[str] = ()) -> None:
    """Raise unless observables have names of their own.

    Args:
        observables: what was given.
        taken: names that they may not have.

    Raises:
        TypeError: if something else than an observable is among them.
        ValueError: if a name occurs twice or is taken.
    """
    seen = set(taken)
    for observable in observables:
        check_type(observable, Observable, "observable", "Write Observable(name, average, derived).")
        if observable.name in seen:
            raise ValueError(f"There is another observable called {observable.name!r}. Give another name.")
        seen.add(observable.name)


@dataclass(frozen=True)
class Linear:
    """Numbers that are computed from averages, to first order in the fluctuations of these.

    Attributes:
        values: k numbers, `(k,)` in float64.
        fluctuations: of each, `sum_i df/da_i (a_i - <a_i>)`, `(n, n_chains, k)`.
        scale: size of the terms that each consists of, `sum_i |df/da_i <a_i>|`, `(k,)`.
    """

    values: Tensor
    fluctuations: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Averages:
    """Averages over the target of several functions, measured on the same configurations.

    Attributes:
        means: a averages, `(a,)` in float64.
        fluctuations: deviations of every sample from them, `(n, n_chains, a)`, see `Samples`.
        shift: their solver error, `(a,)`, see `Certificate.error_of`; 0 where no flow is involved.
        columns: where the averages of each function are.
        log_weight: of the samples of an ensemble, `(n,)`; None for a chain.
        note: what to know about all results, see `Samples.note`.
    """

    means: Tensor
    fluctuations: Tensor
    shift: Tensor
    columns: Columns
    log_weight: Tensor | None = None
    note: str = ""

    @classmethod
    def over(cls, samples: Samples, functions: Sequence[Average]) -> Averages:
        """Measure functions of configurations.

        A `LowEffectiveSampleSizeWarning` says if few samples carry the weight.

        Args:
            samples: an ensemble or a chain.
            functions: see `Average`; a function that occurs twice is evaluated once.

        Returns:
            The averages.

        Raises:
            TypeError: if `samples` is of another type.
            ValueError: if a function returns values of a wrong shape, there are too few samples for an error,
                or a weight is NaN or infinite.
        """
        check_type(samples, Samples, "samples", "Give an Ensemble or a Chain.")
        note, samples = samples.note, samples.for_averages()
        columns = Columns(functions)
        means, fluctuations = samples.mean_and_fluctuations(columns)
        shift = solver_shift(samples.certificate, columns, means)
        if not isinstance(samples, Ensemble):
            return cls(means, fluctuations, shift, columns, note=note)
        log_weight = samples.independent_log_weight
        warn_if_few_effective_samples(log_weight, stacklevel=6)
        return cls(means, fluctuations, shift, columns, log_weight, note)

    def mean_of(self, function: Average) -> Tensor:
        """Return the average of one of the functions, 0-d or `(k,)`."""
        return self.means[self.columns.place_of(function)]

    def fluctuations_of(self, function: Average) -> Tensor:
        """Return the fluctuations of one of the functions, `(n, n_chains)` or `(n, n_chains, k)`."""
        return self.fluctuations[..., self.columns.place_of(function)]

    def estimates(self, observables: Sequence[Observable]) -> dict[str, Estimates]:
        """Estimate observables that are computed from these averages.

        The error of `f(<a>)` follows from its fluctuations `sum_i df/da_i (a_i - <a_i>)`, along a chain by
        the Gamma method (hep-lat/0306017). Its solver error is `f(<a> + shift) - f(<a>)`.

        Args:
            observables: what to compute.

        Returns:
            The estimate of every observable by its name, a tuple of estimates for several numbers.

        Raises:
            ValueError: if a quantity is no differentiable function of the averages, or no number.
        """
        linear = self.linear(observables)
        values, fluctuations = linear.values, linear.fluctuations
        errors = self.errors(fluctuations, scale=linear.scale)
        shifted = self._quantities(observables, self.means + self.shift)
        tails = {o.name: o.heavy_tails for o in observables}
        heavy = [k for k, (name, _) in enumerate(_numbers(shifted)) if tails[name]]
        # The error grows by the uncertainty of the variance behind it.
        n_effective = fluctuations[..., 0].numel() / (2 * errors.tau[heavy].clamp(min=0.5))
        n_effective = n_effective.clamp(min=2)  # also of a constant, whose tau is infinite
        factor = tail_factor(fluctuations[..., heavy].flatten(0, 1), n_effective)
        if self.log_weight is not None:  # uneven weights have widened the error already
            factor /= heavy_weights_factor(fluctuations[0][:, heavy], self.log_weight)
        errors.error[heavy] *= factor.clamp(min=1)
        shift = torch.stack([number for _, number in _numbers(shifted)]) - values
        if not bool(self.shift.isfinite().all()):  # a solve that has not converged bounds no quantity
            shift = torch.full_like(shift, math.inf)
        # Errors of few effective samples say so themselves.
        of_tails = "" if self.log_weight is None or errors.reason else heavy_tails(self.log_weight)
        estimates = (
            noted(errors.estimate(k, mean, systematic=abs(change)), self.note, of_tails)
            for k, (mean, change) in enumerate(zip(values.tolist(), shift.tolist(), strict=True))
        )
        return {
            name: next(estimates)
            if _is_single(quantity)
            else tuple(itertools.islice(estimates, len(quantity)))
            for name, quantity in shifted.items()
        }

    def linear(self, observables: Sequence[Observable]) -> Linear:
        """Return all numbers of some observables, to first order in the fluctuations of these averages.

        Raises:
            ValueError: see `estimates`.
        """
        values, slopes = self._with_slopes(observables)
        return Linear(values, self.fluctuations @ slopes.T, slopes.abs() @ self.means.abs())

    def errors(self, fluctuations: Tensor, *, scale: Tensor) -> SeriesErrors:
        """Return the errors of k linear combinations of these averages.

        Args:
            fluctuations: the same combinations of `self.fluctuations`, `(n, n_chains, k)`.
            scale: size of each combination, `(k,)`.

        Returns:
            Errors with autocorrelations along a chain. For an ensemble they know whether few samples carry
            the weight.
        """
        few = "" if self.log_weight is None else few_effective_samples(self.log_weight)
        if self.log_weight is None or not few:
            errors = error_of_fluctuations(fluctuations, scale=scale)
            if self.log_weight is not None:
                errors.error.mul_(heavy_weights_factor(fluctuations[0], self.log_weight))
            return errors
        error = error_of_weighted_fluctuations(fluctuations[0], self.log_weight)
        return SeriesErrors(error, torch.full_like(error, 0.5), torch.zeros_like(error), reason=few)

    def _quantities(self, observables: Sequence[Observable], means: Tensor) -> dict[str, Quantity]:
        """Return the value of every observable for given averages, by name."""
        places = {o.name: [self.columns.place_of(f) for f in o.averages] for o in observables}
        return {o.name: o.value(*(means[place] for place in places[o.name])) for o in observables}

    def _with_slopes(self, observables: Sequence[Observable]) -> tuple[Tensor, Tensor]:
        """Return all numbers, `(k,)`, and their derivatives in the averages, `(k, a)`.

        The derivatives are taken one at a time. In a common backward pass one NaN would spoil all others.
        """
        values, slopes = [], []
        with torch.inference_mode(False), torch.enable_grad():
            leaf = self.means.clone().requires_grad_()
            for name, number in _numbers(self._quantities(observables, leaf)):
                if number.dim() or not number.requires_grad:
                    raise ValueError(
                        f"{name!r} must be one number or several, computed from the averages by torch "
                        f"operations that are differentiable; got {number}."
                    )
                values.append(number.detach())
                slopes.append(torch.autograd.grad(number, leaf, retain_graph=True)[0])
        return torch.stack(values), torch.stack(slopes)


def _is_single(quantity: Quantity) -> bool:
    """Whether a quantity is one number."""
    return not isinstance(quantity, Sequence) and torch.as_tensor(quantity).dim() == 0


def _numbers(quantities: dict[str, Quantity]) -> Iterator[tuple[str, Tensor]]:
    """Yield every number with the name of its observable."""
    for name, quantity in quantities.items():
        for number in [quantity] if _is_single(quantity) else quantity:
            yield name, torch.as_tensor(number)
