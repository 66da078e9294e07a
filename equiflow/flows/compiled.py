"""A vector field whose methods are compiled by `torch.compile`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from equiflow.runtime.compilation import Compiled
from equiflow.vector_fields import VectorField
from equiflow.vector_fields.base import PathRates


class CompiledField:
    """The methods of a vector field that a solve calls, compiled when they are first needed.

    Args:
        field: the field.
        functions: compiled methods by name, filled by this class. Flows that differ only in their weights
            share them, because the field is an argument of each function.
    """

    by = "torch.compile"

    def __init__(self, field: VectorField, functions: dict[str, Compiled]) -> None:
        self.field = field
        self.functions = functions

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        velocity: Tensor = self._call("velocity", phi, t)
        return velocity

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        velocity, divergence = self._call("velocity_and_divergence", phi, t)
        return velocity, divergence

    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""
        rates: PathRates = self._call("path_rates", phi, t, score)
        return rates

    def _call(self, method: str, *arguments: Any) -> Any:
        if method not in self.functions:
            self.functions[method] = Compiled(getattr(type(self.field), method))
        return self.functions[method](self.field, *arguments)
