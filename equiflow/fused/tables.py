"""What the kernels of any field know of it: `FieldTables`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor

from equiflow.fused.references import Formula


class FieldTables(ABC):
    """Coefficients of a field at several times, as tensors; subclasses are frozen dataclasses of them."""

    name: ClassVar[str]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors in their order."""
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def replaced(self, tensors: Sequence[Tensor]) -> FieldTables:
        """Return tables of the same kind.

        Args:
            tensors: all tensors, in their order.

        Returns:
            The tables.
        """
        return type(self)(*tensors)

    @abstractmethod
    def kernels(self) -> ModuleType:
        """Return the module with `rates`, `solve` and `pull_back`, see `equiflow.fused.solves`."""

    @abstractmethod
    def arrays(self, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Return tables, ridges and basis as the kernels take them.

        Args:
            shape: sides of the lattice, two of them.

        Returns:
            Three tuples of arrays.
        """

    @abstractmethod
    def sums(self, arrays: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        """Return the arrays for which `pull_back` sums gradients.

        Args:
            arrays: what `arrays` has returned.

        Returns:
            Some of them, in the order of the sums.
        """

    @abstractmethod
    def gradients(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients in all tensors.

        Args:
            sums: what `pull_back` has summed.

        Returns:
            A gradient for each tensor.
        """

    @abstractmethod
    def solve_in_torch(
        self, phi: Tensor, shape: tuple[int, int], formula: Formula
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the results of a solve by operations of torch.

        Args:
            phi: `(batch, *lattice)`.
            shape: sides of the lattice, two of them.
            formula: of a step.

        Returns:
            The final phi, `int div v dt` and `int sum_x v_x^2 dt`.
        """
