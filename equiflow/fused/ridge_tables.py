"""What the kernels know of potential and shallow fields: `Tables`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.references import Formula, solve_in_torch
from equiflow.fused.tables import FieldTables


@dataclass(frozen=True)
class Tables(FieldTables):
    """What the kernels know of a field at several times, see `equiflow.fused.ridge_fields`.

    Attributes:
        linear: `K_0` in modes, `(time, V)`.
        inner: `P_c` in modes, `(time, inner channel, V)`.
        outer: `Q_f` in modes, `(time, outer channel, V)`.
        slopes: `B`, `(time, outer channel, ridge)`.
        curvature: q, `(time, ridge)`.
        trace: `V K_0(0)`, `(time,)`.
        drift: amplitude of the uniform mode, `(time,)`.
        angles: W, `(ridge, inner channel)`, in half turns.
        phase: `(ridge,)`, in half turns.
    """

    name: ClassVar[str] = "fields of ridges"
    linear: Tensor
    inner: Tensor
    outer: Tensor
    slopes: Tensor
    curvature: Tensor
    trace: Tensor
    drift: Tensor
    angles: Tensor
    phase: Tensor

    def kernels(self) -> ModuleType:
        """See `FieldTables.kernels`."""
        from equiflow.fused import ridge_fields

        return ridge_fields

    def arrays(self, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
        """See `FieldTables.arrays`."""
        from equiflow.fused import transforms

        arrays = [x.detach().contiguous().numpy() for x in self.tensors()]
        linear, inner, outer, slopes, curvature, trace, drift, angles, phase = arrays
        transposed = np.ascontiguousarray(slopes.transpose(0, 2, 1))
        steep = np.ascontiguousarray((np.pi * angles).T.astype(angles.dtype))
        in_modes = tuple(x.reshape(*x.shape[:-1], *shape) for x in (linear, inner, outer))
        tables = (*in_modes, slopes, transposed, curvature, trace, drift)
        return tables, (angles, phase, steep), transforms.axes(shape, self.linear.dtype)

    def sums(self, arrays: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        """See `FieldTables.sums`; those of the slopes are transposed."""
        (linear, inner, outer, _, *others), (angles, phase, _), _ = arrays
        return linear, inner, outer, *others, angles, phase

    def gradients(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """See `FieldTables.gradients`."""
        of_linear, of_inner, of_outer, of_transposed, *of_rest, of_angles, of_phase = sums
        in_modes = of_linear.flatten(1), of_inner.flatten(2), of_outer.flatten(2)
        return [*in_modes, of_transposed.mT, *of_rest, torch.pi * of_angles, torch.pi * of_phase]

    def solve_in_torch(
        self, phi: Tensor, shape: tuple[int, int], formula: Formula
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `FieldTables.solve_in_torch`."""
        from equiflow.fused import modes

        left, right = (torch.from_numpy(modes.matrix(side, phi.dtype)) for side in shape)

        def to_sites(fields: Tensor) -> Tensor:
            return (left.mT @ fields.unflatten(-1, shape) @ right).flatten(-2)

        def to_modes(fields: Tensor) -> Tensor:
            return (left @ fields.unflatten(-1, shape) @ right.mT).flatten(-2)

        def velocity_and_divergence(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
            u = to_sites(self.inner[n] * y.unsqueeze(1))
            theta = torch.pi * (self.angles @ u + self.phase[:, None])
            sent = to_modes(self.slopes[n] @ theta.sin())
            velocity = self.linear[n] * y + (self.outer[n] * sent).sum(1)
            uniform = torch.zeros_like(y[0])
            uniform[0] = 1
            bent = (theta.cos().sum(2) * self.curvature[n]).sum(1)
            return velocity + self.drift[n] * uniform, self.trace[n] + bent

        y = to_modes(phi.reshape(len(phi), -1))
        end, log_det, energy = solve_in_torch(y, velocity_and_divergence, len(self.linear), formula)
        return to_sites(end).view_as(phi), log_det, energy
