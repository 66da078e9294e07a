"""Folded transforms are products with the dense matrices, and convolutions with even kernels are products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from equiflow.fused import modes, transforms
from equiflow.fused.just_in_time import jit

SHAPES = [(1, 5), (2, 2), (4, 4), (3, 6), (5, 4), (8, 8), (10, 12), (16, 16), (64, 24), (128, 2)]


@jit
def there(fields, basis, scratch, out):
    transforms.to_modes(fields, basis, scratch, out)


@jit
def back(fields, basis, scratch, out):
    transforms.to_sites(fields, basis, scratch, out)


@jit
def loaded(fields, first, size, together, out):
    transforms.load_block(fields, first, size, together, out)


@jit
def stored(block, first, size, together, fields):
    transforms.store_block(block, first, size, together, fields)


@jit
def scratch_memory(n, like):
    return transforms.aligned(n, like)


def transformed(fields, transform):
    """The transform of fields `(first, group, second, configuration)` by the kernel."""
    rows = fields.reshape(*fields.shape[:2], -1)
    out, scratch = np.empty_like(rows), np.empty_like(rows).reshape(-1)
    axes = transforms.axes(fields.shape[::2], torch.from_numpy(fields).dtype)
    transform(rows.copy(), axes, scratch, out)
    return out.reshape(fields.shape)


def random_fields(shape, n=3, dtype=np.float64):
    """Fields of n groups."""
    dtype_of_torch = torch.from_numpy(np.empty(0, dtype)).dtype
    together = transforms.configurations_together(shape[1], dtype_of_torch)
    return np.random.default_rng(0).normal(size=(shape[0], n, shape[1], together)).astype(dtype)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_are_products_with_the_matrices_of_both_axes(shape, dtype, rounding):
    fields = random_fields(shape, dtype=dtype)
    left, right = (modes.matrix(side, torch.float64) for side in shape)
    expected = np.einsum("kx,xfyc,qy->kfqc", left, fields, right)
    np.testing.assert_allclose(transformed(fields, there), expected, atol=rounding)
    expected = np.einsum("kx,kfqc,qy->xfyc", left, fields, right)
    np.testing.assert_allclose(transformed(fields, back), expected, atol=rounding)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_all_there_is_of_a_matrix_after_folding(shape):
    # What `axes` leaves out is zero: the dense matrix without its blocks, seen from folded sites.
    side = shape[0]
    blocks, entries, transposed = transforms.axes((side, side), torch.float64)[0]
    assert len(entries) == len(transposed) == sum(n * n for _, n in modes.blocks(side))
    for first, n, start in blocks:
        block = entries[start : start + n * n].reshape(n, n)
        np.testing.assert_array_equal(block.T, transposed[start : start + n * n].reshape(n, n))
        assert abs(np.linalg.det(block)) > 0
        assert (first, n) in modes.blocks(side)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("even", [True, False])
def test_products_of_modes_are_convolutions_with_even_kernels_only(shape, even):
    generator = np.random.default_rng(1)
    phi, kernel = random_fields(shape, 1), generator.normal(size=shape)
    if even:
        for axis in (0, 1):
            kernel = kernel + np.roll(np.flip(kernel, axis), 1, axis)
    K = np.fft.fft2(kernel)[:, None, :, None]
    convolved = np.fft.ifft2(K * np.fft.fft2(phi, axes=(0, 2)), axes=(0, 2)).real
    k, q = (modes.momenta(side).numpy() for side in shape)
    factors = K.real[k][:, :, q]
    found = transformed(factors * transformed(phi, there), back)
    trivial = max(shape) <= 2  # every kernel on sides of two sites is even
    assert (np.abs(found - convolved).max() < 1e-11) == (even or trivial)


@pytest.mark.parametrize(("dtype", "lanes"), [(torch.float32, 16), (torch.float64, 8)])
@pytest.mark.parametrize("shape", [*SHAPES, (7, 48), (32, 1), (2, 32), (2, 64), (2, 96)])
def test_groups_fill_vectors(shape, dtype, lanes):
    # An axis that is folded has halves of vectors.
    unit = shape[1] // 2 if modes.folds(shape[1]) else shape[1]
    fills = [n for n in (1, 4, lanes) if n * unit % lanes == 0]
    together = transforms.configurations_together(shape[1], dtype)
    assert together in fills
    assert together == (fills[0] if shape[1] > transforms.LONG else next(n for n in fills if n > 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 64])
def test_scratch_memory_begins_on_a_cache_line(dtype, n):
    memory = scratch_memory(n, np.empty(0, dtype))
    assert memory.ctypes.data % 64 == 0
    assert memory.shape == (n,)
    assert memory.dtype == dtype


@pytest.mark.parametrize("together", [1, 2, 4])
def test_blocks_are_loaded_filled_up_and_stored(together):
    fields = np.random.default_rng(3).normal(size=(5, 6))
    block, copy = np.full((2, 4 // together, 3 * together), np.nan), np.zeros_like(fields)
    loaded(fields, 1, 3, together, block)
    by_configuration = block.reshape(2, 4 // together, 3, together).transpose(1, 3, 0, 2).reshape(4, 6)
    np.testing.assert_array_equal(by_configuration[:3], fields[1:4])
    assert not by_configuration[3].any()
    stored(block, 1, 3, together, copy)
    np.testing.assert_array_equal(copy[1:4], fields[1:4])
    assert not copy[[0, 4]].any()
