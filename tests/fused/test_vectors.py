"""Vectors within kernels do to each lane what numbers do, and tiles are written transposed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from equiflow.fused.just_in_time import jit
from equiflow.fused.vectors import (
    BYTES,
    lanes_of,
    load,
    nearest,
    negative_if_odd,
    side_of_tile,
    spread,
    store,
    store_transposed,
    zero,
)

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numbers(n, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=n).astype(dtype)


@DTYPES
def test_arithmetic_is_that_of_each_lane(dtype):
    @jit
    def combined(a, b, out):
        x, y = load(a, 1), spread(b, 2)
        total = zero(a)
        total += x * y - x
        store(total + a[0], out, 1)

    lanes = BYTES // np.dtype(dtype).itemsize
    a, b, out = numbers(lanes + 2, dtype), numbers(3, dtype, 1), np.zeros(lanes + 2, dtype)
    combined(a, b, out)
    expected = a[1:-1] * b[2] - a[1:-1] + a[0]
    np.testing.assert_allclose(out[1:-1], expected, rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)
    assert out[0] == out[-1] == 0


@DTYPES
def test_signs_follow_the_parity_of_the_nearest_integer(dtype):
    @jit
    def signed(a, out):
        n = nearest(load(a, 0))
        store(negative_if_odd(load(a, 0), n), out, 0)
        return lanes_of(a)

    lanes = BYTES // np.dtype(dtype).itemsize
    a, out = (5 * numbers(lanes, dtype)), np.empty(lanes, dtype)
    assert signed(a, out) == lanes
    np.testing.assert_array_equal(out, a * (-1.0) ** (np.rint(a) % 2))
    assert (out != a).any()


@DTYPES
def test_tiles_are_transposed(dtype):
    @jit
    def transposed(a, out, columns):
        store_transposed(a, 2, columns, out, 1, 11)
        return side_of_tile(a)

    a, out = numbers(200, dtype), np.zeros(200, dtype)
    side = transposed(a, out, 13)
    rows = np.array([a[2 + 13 * i : 2 + 13 * i + side] for i in range(side)])
    found = np.array([out[1 + 11 * i : 1 + 11 * i + side] for i in range(side)])
    np.testing.assert_array_equal(found, rows.T)
    assert np.count_nonzero(out) == side**2
