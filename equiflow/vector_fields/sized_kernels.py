"""Kernels on a given number of offsets per axis, as several fields use them, and their start."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.nn.kernels.orbits import OffsetKernel, OrbitKernel, spanning_kernel
from equiflow.theories.base.symmetry import SymmetryGroup


def kernel_of_size(
    group: SymmetryGroup,
    n_time_modes: int,
    n_features: int,
    kernel_size: int | tuple[int, ...] | None,
    *,
    convolution: str = "auto",
) -> OrbitKernel:
    """Return kernels of a given size, in the parametrisation that trains best.

    Args:
        group: ties the kernels.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        kernel_size: offsets per axis, any parity; `None` for the whole lattice.
        convolution: how the kernels act, see `OrbitConvField`.

    Returns:
        The kernels with fresh weights.
    """
    if kernel_size is None:
        return spanning_kernel(group, n_time_modes, n_features, convolution=convolution)
    return OffsetKernel(group, n_time_modes, n_features, kernel_size, convolution=convolution)


def start_from(kernel: OrbitKernel, modes: Tensor, kernel_size: int | tuple[int, ...] | None) -> None:
    """Set kernels to given Fourier modes at every flow time.

    Args:
        kernel: whose weights are set.
        modes: real and even Fourier modes in float64, `(feature, *lattice)`.
        kernel_size: size of the kernels; values at offsets outside are dropped.
    """
    lattice = kernel.lattice
    values = torch.zeros(len(kernel.weight), len(modes), *lattice.shape, dtype=torch.float64)
    inside = kernel.group.offset_orbits(kernel_size).index >= 0
    # The first function of the time basis is constant.
    values[0] = torch.fft.ifftn(modes, dim=lattice.axes).real * inside
    kernel.set_values(values)
