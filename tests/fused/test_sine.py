"""Sine and cosine of half turns are right to rounding, in the dtype of the angle."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba")

from equiflow.fused.just_in_time import jit
from equiflow.fused.sine import sine_and_cosine
from equiflow.fused.vectors import lanes_of, load, store


@jit
def both(t, sine, cosine):
    for i in range(len(t)):
        sine[i], cosine[i] = sine_and_cosine(t[i])


@jit
def both_by_vectors(t, sine, cosine):
    for i in range(0, len(t), lanes_of(t)):
        s, c = sine_and_cosine(load(t, i))
        store(s, sine, i)
        store(c, cosine, i)


def evaluated(t, kernel=both):
    sine, cosine = np.full_like(t, 7.0), np.full_like(t, 7.0)
    kernel(t, sine, cosine)
    return sine, cosine


def exact(t):
    """The same by numpy in extended precision, after an exact reduction to one turn."""
    turns = np.longdouble(t) % 2
    pi = 4 * np.arctan(np.longdouble(1))
    return np.sin(pi * turns), np.cos(pi * turns)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1.8e-7), (np.float64, 4.5e-16)])
@pytest.mark.parametrize("reach", [1.0, 300.0])
@pytest.mark.parametrize("kernel", [both, both_by_vectors], ids=["numbers", "vectors"])
def test_both_functions_are_right_to_rounding(kernel, dtype, bound, reach):
    t = np.random.default_rng(0).uniform(-reach, reach, 40_000).astype(dtype)
    for found, truth in zip(evaluated(t, kernel), exact(t), strict=True):
        error = np.abs(found - truth).max()
        assert 0 < error < bound  # an error of zero would mean that nothing was rounded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quarter_turns_are_exact_to_rounding(dtype):
    t = np.arange(-9, 10, dtype=dtype) / 2
    sine, cosine = evaluated(t)
    quarter = np.arange(-9, 10)
    np.testing.assert_allclose(sine, [(0, 1, 0, -1)[n % 4] for n in quarter], atol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(cosine, [(1, 0, -1, 0)[n % 4] for n in quarter], atol=4 * np.finfo(dtype).eps)


def test_the_result_has_the_dtype_of_the_angle():
    @jit
    def kept(t):
        return sine_and_cosine(t)

    # In float32 sin(pi / 3) is rounded to 24 bits; float64 within would give more.
    sine, _ = kept(np.float32(1 / 3))
    assert sine == np.float32(sine)
    assert sine != math.sin(math.pi / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kernel", [both, both_by_vectors], ids=["numbers", "vectors"])
def test_what_has_no_sine_gives_nan(kernel, value):
    for found in evaluated(np.array([value] + 7 * [0.5]), kernel):
        assert np.isnan(found[0])
        assert np.isfinite(found[1:]).all()
