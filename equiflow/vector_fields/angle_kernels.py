"""Fields of angles evaluated by the fused kernels of `equiflow.fused.angle_fields`: `FusedAngles`."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.fused.angle_tables import AngleTables
from equiflow.vector_fields.ridge_kernels import FieldByKernels, in_order


class FusedAngles(FieldByKernels):
    """An `AngleField` evaluated by kernels, see `FieldByKernels`."""

    def tables(self, times: Tensor) -> AngleTables:
        """See `FieldByKernels.tables`."""
        field, ridges, lattice = self.field, self.field.ridges, self.field.lattice
        basis = self.time_values(times)
        amplitude = basis @ field.amplitude
        harmonics, harmonics_at_origin = self.modes(field.harmonics, basis)
        kernels, at_origin = self.modes(field.kernel, basis)
        c, d = torch.triu_indices(kernels.shape[1], kernels.shape[1], device="cpu")
        values = lattice.ifft(field.kernel.modes_at(basis)[0])
        products = in_order(lattice.fft(values[:, c] * values[:, d]), self.shape)
        pairs = ridges.direction[:, c] * ridges.direction[:, d] * (1 + (c != d)).to(kernels)
        degrees = torch.arange(1, harmonics.shape[1] + 1, device="cpu").to(kernels)
        angles, phase = ridges.map_to_angles()
        return AngleTables(
            in_modes=torch.cat([harmonics, kernels, products], 1),
            slopes=(amplitude / ridges.omega).unsqueeze(1) * ridges.direction.mT,
            bends=amplitude.unsqueeze(2) * pairs,
            at_origin=at_origin,
            constant=lattice.volume * (harmonics_at_origin @ degrees),
            angles=angles / torch.pi,
            phase=phase / torch.pi,
        )
