"""Kernels on orbits are symmetric, and their value at the origin is right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from equiflow import Lattice, SymmetryGroup
from equiflow.nn.kernels.orbits import MomentumKernel, OffsetKernel
from equiflow.testing import randomise
from tests.support.strategies import groups, kernel_sizes, seeds


@given(groups(Lattice((4, 5))), kernel_sizes(Lattice((4, 5))), seeds)
def test_kernel_at_the_origin_is_the_mean_of_its_modes(group, kernel_size, seed):
    kernels = [OffsetKernel(group, 2, 3, kernel_size, convolution="fourier")]
    kernels += [MomentumKernel(group, 2, 3, convolution="fourier")] if group.has_inversion else []
    for kernel in kernels:
        randomise(kernel.double(), seed=seed)
        values = kernel(torch.tensor([1.0, 0.3]))
        in_space = group.lattice.ifft(values.operand + 0j)
        torch.testing.assert_close(values.at_origin, in_space[:, 0, 0])
        assert all(torch.allclose(g(in_space), in_space, rtol=0, atol=1e-13) for g in group.point_elements)


def test_momentum_kernels_need_inversion():
    with pytest.raises(ValueError, match="needs a group with x -> -x"):
        MomentumKernel(SymmetryGroup(Lattice((3, 3, 3)), "rotations"), 1, 1)
