"""What configurations are: real numbers in an array of one shape, a batch of them first."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from equiflow.runtime.precision import FIELD_DTYPES


class Space:
    """The space of configurations, `R^shape`: what a flow, its prior and its action have in common.

    Subclasses are frozen dataclasses; two spaces are the same if they compare equal. `of_shape` builds
    one from its shape, which is how a saved flow names it.

    Attributes:
        shape: of one configuration; a batch has the shape `(batch, *shape)`.
    """

    shape: tuple[int, ...]

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Space:
        """The space whose configurations have this shape."""
        raise NotImplementedError(f"{cls.__name__} does not say how it is built from a shape.")

    @property
    def kind(self) -> str:
        """`"lattice"`, `"multiplet"`, `"angles"`, `"particles"`: its class in lower case."""
        return type(self).__name__.lower()

    @property
    def size(self) -> int:
        """Number of real numbers in a configuration."""
        return math.prod(self.shape)

    @property
    def event_axes(self) -> tuple[int, ...]:
        """Tensor axes of a configuration, counted from the end."""
        return tuple(range(-len(self.shape), 0))

    def windings(self) -> dict[str, Any]:
        """Named maps that change how a configuration is written down and not which one it is: here none."""
        return {}

    def nearest(self, phi: Tensor, to: Tensor | float = 0.0) -> Tensor:
        """The same configuration, written as near to another one as it can be: here `phi`."""
        return phi

    def check(self, phi: Tensor, name: str = "phi") -> Tensor:
        """Return `phi` if it is a real batch of configurations `(batch, *shape)`, else raise.

        Raises:
            TypeError: if it is not a float32 or float64 tensor.
            ValueError: if its shape is not `(batch, *shape)`.
        """
        if not isinstance(phi, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(phi).__name__}.")
        if phi.dtype not in FIELD_DTYPES:
            raise TypeError(
                f"{name} has dtype {phi.dtype}; expected torch.float32 or torch.float64. "
                "Convert it with .float() or .double()."
            )
        if phi.is_meta:
            raise ValueError(f"{name} lives on the meta device and has no values; expected cpu or cuda.")
        if phi.dim() != len(self.shape) + 1 or tuple(phi.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(
                f"{name} has shape {tuple(phi.shape)}; expected ({expected}). "
                "Put the batch axis first; a single configuration is phi[None]."
            )
        return phi

    def check_finite(self, phi: Tensor, name: str = "phi") -> Tensor:
        """`check`, and raise a ValueError if any value is NaN or infinite."""
        self.check(phi, name)
        finite = phi.isfinite()
        if not bool(finite.all()):
            bad = int((~finite.flatten(1).all(1)).sum())
            raise ValueError(
                f"{name} has NaN or infinite values in {bad} of {len(phi)} configurations; "
                "expected finite fields. Drop them or look at where they come from."
            )
        return phi
