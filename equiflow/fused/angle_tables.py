"""What the kernels know of fields of angles: `AngleTables`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.angle_references import rates_in_torch
from equiflow.fused.references import Formula, solve_in_torch
from equiflow.fused.tables import FieldTables


@dataclass(frozen=True)
class AngleTables(FieldTables):
    """What the kernels know of a field of angles at several times, see `equiflow.fused.angle_fields`.

    Attributes:
        in_modes: `K_n`, then `L_c`, then the products `L_c L_c'` with c <= c', in modes, `(time, kernel, V)`.
        slopes: B, `(time, channel, ridge)`.
        bends: D, `(time, ridge, pair)`.
        at_origin: `L_c(0)`, `(time, channel)`.
        constant: `V sum_n n K_n(0)`, `(time,)`.
        angles: W, `(ridge, channel)`, in half turns.
        phase: `(ridge,)`, in half turns.
    """

    name: ClassVar[str] = "fields of angles"
    in_modes: Tensor
    slopes: Tensor
    bends: Tensor
    at_origin: Tensor
    constant: Tensor
    angles: Tensor
    phase: Tensor

    def kernels(self) -> ModuleType:
        """See `FieldTables.kernels`."""
        from equiflow.fused import angle_solves

        return angle_solves

    def arrays(self, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
        """See `FieldTables.arrays`."""
        from equiflow.fused import transforms

        kernels, *others, angles, phase = (x.detach().contiguous().numpy() for x in self.tensors())
        in_modes = kernels.reshape(*kernels.shape[:2], *shape)
        steep = np.ascontiguousarray((np.pi * angles).T.astype(angles.dtype))
        return (in_modes, *others), (angles, phase, steep), transforms.axes(shape, self.in_modes.dtype)

    def sums(self, arrays: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        """See `FieldTables.sums`."""
        tables, (angles, phase, _), _ = arrays
        return *tables, angles, phase

    def gradients(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """See `FieldTables.gradients`."""
        of_kernels, *of_tables, of_angles, of_phase = sums
        return [of_kernels.flatten(2), *of_tables, torch.pi * of_angles, torch.pi * of_phase]

    def solve_in_torch(
        self, phi: Tensor, shape: tuple[int, int], formula: Formula
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `FieldTables.solve_in_torch`."""
        return solve_in_torch(phi, rates_in_torch(shape, self), len(self.in_modes), formula)
