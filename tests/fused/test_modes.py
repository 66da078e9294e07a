"""The real Fourier basis is orthogonal, and convolutions with reflected kernels are products in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from equiflow.fused import modes

SHAPES = [(1, 5), (2, 2), (4, 4), (3, 6), (5, 4), (8, 8)]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 15, 16, 64])
def test_the_matrix_of_an_axis_is_orthogonal(side):
    matrix = modes.matrix(side, torch.float64)
    assert matrix.shape == (side, side)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(side), atol=1e-13)


@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_modes_are_ordered_by_their_momenta(side):
    # The Laplacian of an axis is diagonal in the modes, with 2 - 2 cos(2 pi k / side).
    eye = np.eye(side)
    laplacian = 2 * eye - np.roll(eye, 1, 0) - np.roll(eye, -1, 0)
    matrix, k = modes.matrix(side, torch.float64), modes.momenta(side).numpy()
    expected = np.diag(2 - 2 * np.cos(2 * np.pi * k / side))
    np.testing.assert_allclose(matrix @ laplacian @ matrix.T, expected, atol=1e-13)


def transformed(fields, shape, transform):
    """The transform of fields `(first, field, second)` by the kernel."""
    out, scratch = np.empty_like(fields), np.empty_like(fields)
    transform(fields, modes.matrices(shape, torch.from_numpy(fields).dtype), scratch, out)
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_to_sites_inverts_to_modes(shape):
    fields = np.random.default_rng(0).normal(size=(shape[0], 3, shape[1]))
    there = transformed(fields, shape, modes.to_modes)
    assert np.abs(there - fields).max() > 0.1 or shape == (1, 1)
    np.testing.assert_allclose(transformed(there, shape, modes.to_sites), fields, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("even", [True, False])
def test_products_of_modes_are_convolutions_with_even_kernels_only(shape, even):
    generator = np.random.default_rng(1)
    kernel, phi = generator.normal(size=(2, *shape))
    if even:
        for axis in (0, 1):
            kernel = kernel + np.roll(np.flip(kernel, axis), 1, axis)
    convolved = np.fft.ifft2(np.fft.fft2(kernel) * np.fft.fft2(phi)).real
    k, q = (modes.momenta(side) for side in shape)
    factors = np.fft.fft2(kernel).real[np.ix_(k, q)]
    there = transformed(phi[:, None, :].copy(), shape, modes.to_modes)
    back = transformed(factors[:, None, :] * there, shape, modes.to_sites)[:, 0]
    trivial = max(shape) <= 2  # every kernel on sides of two sites is even
    assert (np.abs(back - convolved).max() < 1e-12) == (even or trivial)


def test_large_products_are_taken_by_parts():
    # 64 x 64 with eight fields is more than OpenBLAS leaves to one thread.
    fields = np.random.default_rng(2).normal(size=(64, 8, 64))
    assert modes.LARGEST_SERIAL_PRODUCT < 64 * 64 * 64 * 8
    matrix = modes.matrix(64, torch.float64)
    expected = np.einsum("kx,xfy,qy->kfq", matrix, fields, matrix)
    np.testing.assert_allclose(transformed(fields, (64, 64), modes.to_modes), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 64])
def test_scratch_memory_begins_on_a_cache_line(dtype, n):
    memory = modes.aligned(n, np.empty(0, dtype))
    assert memory.ctypes.data % 64 == 0
    assert memory.shape == (n,)
    assert memory.dtype == dtype


def test_blocks_are_loaded_and_stored():
    fields = np.random.default_rng(3).normal(size=(5, 6))
    block, copy = np.empty((2, 3, 3)), np.zeros_like(fields)
    modes.load(fields, 1, block)
    np.testing.assert_array_equal(block, fields[1:4].reshape(3, 2, 3).transpose(1, 0, 2))
    modes.store(block, 1, copy)
    np.testing.assert_array_equal(copy[1:4], fields[1:4])
    assert not copy[[0, 4]].any()
