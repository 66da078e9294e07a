"""Kernels on a given number of offsets per axis, as several fields use them, and their start."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.nn.kernels.orbits import MomentumKernel, OffsetKernel, OrbitKernel, spanning_kernel
from equiflow.nn.kernels.smooth import SmoothKernel
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import SmoothFreeField

#: what kernels can be made of: one number per orbit, or a few smooth functions of momentum
KERNELS = ("orbits", "smooth")


def kernel_of_size(
    group: SymmetryGroup,
    n_time_modes: int,
    n_features: int,
    kernel_size: int | tuple[int, ...] | None,
    *,
    kernels: str = "orbits",
    convolution: str = "auto",
) -> OrbitKernel:
    """Return kernels of a given size, in the parametrisation that trains best.

    Args:
        group: ties the kernels.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        kernel_size: offsets per axis, any parity; `None` for the whole lattice.
        kernels: what they are made of, "orbits" or "smooth".
        convolution: how the kernels act, see `OrbitConvField`.

    Returns:
        The kernels with fresh weights.

    Raises:
        ValueError: for other `kernels`, or smooth ones with a size.
    """
    if check_kernels(kernels) == "smooth":
        if kernel_size is not None:
            raise ValueError(
                f'kernels="smooth" span the lattice, got kernel_size={kernel_size}. Leave it out, or '
                'take kernels="orbits".'
            )
        return SmoothKernel(group, n_time_modes, n_features, convolution=convolution)
    if kernel_size is None:
        return spanning_kernel(group, n_time_modes, n_features, convolution=convolution)
    return OffsetKernel(group, n_time_modes, n_features, kernel_size, convolution=convolution)


def linear_kernel(
    group: SymmetryGroup, n_time_modes: int, *, kernels: str = "orbits", convolution: str = "auto"
) -> OrbitKernel:
    """Return the kernel of a linear gradient: it spans the lattice and is even, whatever the group.

    Args:
        group: ties the kernel.
        n_time_modes: size of the time basis.
        kernels: what it is made of, "orbits" or "smooth".
        convolution: how it acts, see `OrbitConvField`.

    Returns:
        The kernel with fresh weights.

    Raises:
        ValueError: for other `kernels`.
    """
    if check_kernels(kernels) == "smooth":
        return SmoothKernel(group, n_time_modes, 1, convolution=convolution)
    return MomentumKernel(group, n_time_modes, 1, convolution=convolution, symmetric=True)


def prior_like(kernel: OrbitKernel) -> Prior | None:
    """Return the free field whose spectrum is made like smooth kernels; None for others."""
    return SmoothFreeField(kernel.lattice, group=kernel.group) if isinstance(kernel, SmoothKernel) else None


def check_kernels(kernels: str) -> str:
    """Return what kernels are made of; raise a ValueError unless it is known."""
    if kernels not in KERNELS:
        raise ValueError(f"Unknown kernels {kernels!r}; expected {' or '.join(map(repr, KERNELS))}.")
    return kernels


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
