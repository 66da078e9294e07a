"""Several functions of configurations, side by side in one table: `Columns`, and the solver error of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equiflow.flows import Certificate
from equiflow.samplers.samples import check_each_alone, per_configuration

#: function of a batch `(batch, *lattice)` that returns `(batch,)` or `(batch, k)`
Average = Callable[[Tensor], Tensor]


class Columns:
    """Function of a batch that returns the values of several functions side by side, `(batch, a)`."""

    def __init__(self, functions: Sequence[Average]) -> None:
        self.functions = [f for k, f in enumerate(functions) if f not in functions[:k]]
        #: columns of each function, known after the first call; an integer for a function of one number
        self.places: list[int | slice] = []

    def __call__(self, phi: Tensor) -> Tensor:
        """Return all columns, `(batch, a)` in float64."""
        values = [self._checked(function, phi) for function in self.functions]
        if not self.places:
            for function, value in zip(self.functions, values, strict=True):
                check_each_alone(function, phi, value)
            ends = itertools.accumulate(1 if v.dim() == 1 else v.shape[1] for v in values)
            for end, value in zip(ends, values, strict=True):
                self.places.append(end - 1 if value.dim() == 1 else slice(end - value.shape[1], end))
        return torch.cat([value.double().reshape(len(phi), -1) for value in values], 1)

    def place_of(self, function: Average) -> int | slice:
        """Return the columns of one function."""
        return self.places[self.functions.index(function)]

    @staticmethod
    def _checked(function: Average, phi: Tensor) -> Tensor:
        """Return the values of a function if they are `(batch,)` or `(batch, k)`."""
        values = function(phi)
        if not isinstance(values, Tensor) or values.dim() not in (1, 2) or len(values) != len(phi):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"The average of an observable returned {got}; expected one value per configuration, "
                f"({len(phi)},), or several, ({len(phi)}, k)."
            )
        if values.is_complex():
            raise ValueError("The average of an observable is complex; give its real and imaginary part.")
        return values


def solver_shift(certificate: Certificate | None, function: Average, means: Tensor) -> Tensor:
    """Return the solver error of averages, see `Certificate.error_of`.

    Args:
        certificate: of the flow behind the samples; None if there is none.
        function: whose averages they are.
        means: the averages, `(a,)`.

    Returns:
        The errors, `(a,)`; 0 where no flow is involved, infinite if its solve has not converged.
    """
    if certificate is None or certificate.n_samples == 0:
        return torch.zeros_like(means)
    twice = certificate.samples
    before = torch.softmax(twice.log_weight.double(), 0) @ per_configuration(function, twice.phi)
    after = torch.softmax(twice.refined_log_weight.double(), 0) @ per_configuration(
        function, twice.refined_phi
    )
    if not certificate.converged:
        return torch.full_like(means, math.inf)
    return certificate.error_factor * (after - before).to(means)
