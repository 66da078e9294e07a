"""Fields of angles evaluated by the fused kernels of `equiflow.fused.angle_fields`: `FusedAngles`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.fused import angle_solving
from equiflow.fused.angle_solving import AngleTables
from equiflow.runtime.precision import full_precision
from equiflow.vector_fields.base import FusedField, FusedSolution, PathRates
from equiflow.vector_fields.ridge_kernels import equal_steps, in_order, on_two_axes, real_modes


class FusedAngles(FusedField):
    """An `AngleField` whose velocity, path rates and whole solves are computed by kernels, on CPUs.

    Single evaluations that record a graph are those of the field itself. Whole solves record their own.

    Args:
        field: a field for which `can_use_kernels` holds; its weights are read at every call.
    """

    def __init__(self, field: Any) -> None:
        self.field = field
        self.shape = on_two_axes(field.lattice.shape)

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self.velocity_and_divergence(phi, t)[0]

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            velocity, divergence = self.field.velocity_and_divergence(phi, t)
        else:
            velocity, divergence, _ = angle_solving.rates(phi, self.shape, self._tables_at(phi, t))
        return velocity, divergence

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            rates: PathRates = self.field.path_rates(phi, t, score)
            return rates
        velocity, divergence, rate = angle_solving.rates(phi, self.shape, self._tables_at(phi, t), score)
        assert rate is not None
        return PathRates(velocity, divergence, rate)

    @full_precision
    def solve(
        self, phi: Tensor, t0: float, t1: float, *, method: str, steps: int, score: Tensor | None = None
    ) -> FusedSolution:
        """See `FusedField.solve`."""
        times, step = equal_steps(t0, t1, method, steps)
        tables = self.tables(times.to(phi))
        return FusedSolution(*angle_solving.solve(phi, self.shape, tables, step, score), len(times))

    def tables(self, times: Tensor) -> AngleTables:
        """Return the coefficients of the field at times `(time,)`, differentiable in its weights."""
        field, ridges, lattice = self.field, self.field.ridges, self.field.lattice
        basis = torch.cos(torch.outer(times, torch.pi * field.time_basis.frequency))
        amplitude = basis @ field.amplitude
        harmonics, harmonics_at_origin = real_modes(field.harmonics, basis, self.shape)
        kernels, at_origin = real_modes(field.kernel, basis, self.shape)
        c, d = torch.triu_indices(kernels.shape[1], kernels.shape[1], device="cpu")
        values = lattice.ifft(field.kernel.modes_at(basis)[0])
        products = in_order(lattice.fft(values[:, c] * values[:, d]), self.shape)
        pairs = ridges.direction[:, c] * ridges.direction[:, d] * (1 + (c != d)).to(kernels)
        degrees = torch.arange(1, harmonics.shape[1] + 1, device="cpu").to(kernels)
        angles, phase = ridges.map_to_angles()
        return AngleTables(
            kernels=torch.cat([harmonics, kernels, products], 1),
            slopes=(amplitude / ridges.omega).unsqueeze(1) * ridges.direction.mT,
            bends=amplitude.unsqueeze(2) * pairs,
            at_origin=at_origin,
            constant=lattice.volume * (harmonics_at_origin @ degrees),
            angles=angles / torch.pi,
            phase=phase / torch.pi,
        )

    def _tables_at(self, phi: Tensor, t: Tensor | float) -> AngleTables:
        return self.tables(torch.as_tensor(t, dtype=phi.dtype, device=phi.device).reshape(1))
