"""Kernels that are smooth functions of momentum, the same on lattices of all sizes: `SmoothKernel`."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.nn.kernels.convolution import convolution_for
from equiflow.nn.kernels.orbits import KernelValues, OrbitKernel
from equiflow.runtime.constants import RoundedConstants
from equiflow.theories.base.momentum_functions import SmoothFunctions
from equiflow.theories.base.symmetry import SymmetryGroup


class SmoothKernel(OrbitKernel):
    """Kernels that span the lattice, with a number for each of a few smooth functions of momentum.

    The number of weights does not depend on the size of the lattice, and `resize_from` is exact: the kernels
    stay the same functions of momentum. See `SmoothFunctions`. All modes add to what a weight learns, so
    training on large lattices is less noisy than with `MomentumKernel`.

    Args:
        group: any; the kernels have all symmetries of the lattice.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        convolution: how the kernels act, see `convolution_for`.
    """

    def __init__(
        self, group: SymmetryGroup, n_time_modes: int, n_features: int, *, convolution: str = "auto"
    ) -> None:
        acts = convolution_for(group.lattice, convolution)
        super().__init__(group, n_time_modes, n_features, len(SmoothFunctions(group.lattice)), acts)
        self._functions = RoundedConstants()

    def _modes(self, weight: Tensor) -> KernelValues:
        """See `OrbitKernel._modes`."""
        modes, mean = self._functions.like(weight, self._modes_and_mean)
        return KernelValues((weight @ modes).unflatten(1, self.lattice.half_shape), weight @ mean)

    def _modes_and_mean(self) -> list[Tensor]:
        """Return each function on the momenta of `Lattice.fft`, flat, and its mean over all momenta."""
        functions = SmoothFunctions(self.lattice).values
        return [self.lattice.half(functions).flatten(1), functions.flatten(1).mean(1)]

    def basis(self) -> Tensor:
        """See `OrbitKernel.basis`."""
        return torch.fft.ifftn(SmoothFunctions(self.lattice).values, dim=self.lattice.axes).real

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """See `OrbitKernel.set_values`; the closest kernels by least squares."""
        modes = torch.fft.fftn(values, dim=self.lattice.axes).real
        self.weight.copy_(SmoothFunctions(self.lattice).fit(modes))

    @torch.no_grad()
    def resize_from(self, other: OrbitKernel) -> None:
        """See `OrbitKernel.resize_from`; the same functions of momentum, exactly."""
        if not isinstance(other, SmoothKernel):
            super().resize_from(other)
            return
        weight = other.weight.detach().double()
        self.weight.copy_(SmoothFunctions(other.lattice).carry(weight, self.lattice))
