"""Vectors within kernels do to each lane what numbers do."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit
from numba.core.errors import TypingError

from equiflow.fused.just_in_time import jit
from equiflow.fused.last_bits import from_last_bits, negative_if_odd, to_last_bits
from equiflow.fused.sine import _EXACT_MATH
from equiflow.fused.vectors import BYTES, flat, lanes_of, load, spread, store, zero

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
    @njit(fastmath=_EXACT_MATH)
    def signed(a, out, nearest):
        n = to_last_bits(load(a, 0))
        store(negative_if_odd(load(a, 0), n), out, 0)
        store(from_last_bits(n), nearest, 0)
        return lanes_of(a)

    lanes = BYTES // np.dtype(dtype).itemsize
    a, out, nearest = (5 * numbers(lanes, dtype)), np.empty(lanes, dtype), np.empty(lanes, dtype)
    assert signed(a, out, nearest) == lanes
    np.testing.assert_array_equal(nearest, np.rint(a))
    np.testing.assert_array_equal(out, a * (-1.0) ** (np.rint(a) % 2))
    assert (out != a).any()


def test_a_flat_array_shares_the_memory_of_a_contiguous_one():
    @jit
    def doubled(a):
        values = flat(a)
        for k in range(len(values)):
            values[k] *= 2

    a = np.arange(24.0).reshape(2, 3, 4)
    doubled(a[1])  # contiguous, not from the beginning
    assert np.array_equal(a.ravel(), np.where(np.arange(24) < 12, 1, 2) * np.arange(24.0))
    with pytest.raises(TypingError):
        doubled(a.T)
