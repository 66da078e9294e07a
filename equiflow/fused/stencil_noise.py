"""Random numbers within kernels: number j of a stream is a hash of j, so that no state is kept.

`hashed(origin + j * stride)` is the SplitMix64 generator (Steele, Lea, Flood 2014). Every chain has a stream
of its own, which does not depend on how chains are spread over lanes and threads; see `stream`. The seed and
the stride of an update are drawn from a torch generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32
from numba.extending import overload

from equiflow.fused.just_in_time import FAST_MATH, inline, jit
from equiflow.fused.sine import sine_and_cosine

U = np.uint64
_FIRST, _SECOND = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
_UNIT_53, _UNIT_32 = 2.0**-53, 2.0**-32
#: log 2, and coefficients 2 / (2 k + 1) of log((1 + s) / (1 - s)) = sum_k 2 / (2 k + 1) s^(2 k + 1)
_LOG_2, _ROOT_2 = float(np.log(2)), float(np.sqrt(2))
_L = tuple(2.0 / (2 * k + 1) for k in range(11))
#: 1 / k!, of the exponential
_E = (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880, 1 / 3628800)
_E11, _E12, _E13 = 1 / 39916800, 1 / 479001600, 1 / 6227020800


@inline
def hashed(z: Any) -> Any:
    """Return 64 random bits, a function of the number z of type uint64."""
    z = (z ^ (z >> U(30))) * _FIRST
    z = (z ^ (z >> U(27))) * _SECOND
    return z ^ (z >> U(31))


@inline
def stream(seed: Any, stride: Any, chain: Any) -> Any:
    """Return where the stream of a chain begins: its number j is `hashed(stream + j stride)`.

    Args:
        seed: of the streams of all chains; uint64.
        stride: the same, odd.
        chain: number of the chain; uint64.

    Returns:
        The number before that stream's first hash, uint64.
    """
    return hashed(seed + chain * stride)


@inline
def uniform_64(bits: Any) -> Any:
    """Return a float64 in (0, 1) of 53 of the bits."""
    return np.float64(bits >> U(11)) * _UNIT_53 + 0.5 * _UNIT_53


@inline
def uniform_high(bits: Any) -> Any:
    """Return a float32 in (0, 1] of the upper 32 bits."""
    return np.float32(bits >> U(32)) * np.float32(_UNIT_32) + np.float32(0.5 * _UNIT_32)


@inline
def uniform_low(bits: Any) -> Any:
    """Return a float32 in (0, 1] of the lower 32 bits."""
    return np.float32(bits & U(0xFFFFFFFF)) * np.float32(_UNIT_32) + np.float32(0.5 * _UNIT_32)


@inline
def log_32(x: Any) -> Any:
    """Return log x of a normal float32 > 0, with a relative error of a few roundings."""
    bits = np.float32(x).view(np.int32)
    # m in [1/sqrt 2, sqrt 2): subtract the bits of 1/sqrt 2, shift the exponent out, and put it back.
    exponent = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))
    m = np.int32(bits - np.int32(exponent << np.int32(23))).view(np.float32)
    s = (m - np.float32(1)) / (m + np.float32(1))
    x2 = s * s
    high = np.float32(_L[2]) + x2 * (np.float32(_L[3]) + x2 * np.float32(_L[4]))
    return np.float32(exponent) * np.float32(_LOG_2) + s * (
        np.float32(_L[0]) + x2 * (np.float32(_L[1]) + x2 * high)
    )


@inline
def log_64(x: Any) -> Any:
    """Return log x of a normal float64 > 0, with a relative error of a few roundings."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    x2 = s * s
    high = _L[6] + x2 * (_L[7] + x2 * (_L[8] + x2 * (_L[9] + x2 * _L[10])))
    low = _L[1] + x2 * (_L[2] + x2 * (_L[3] + x2 * (_L[4] + x2 * (_L[5] + x2 * high))))
    return np.float64(exponent) * _LOG_2 + s * (_L[0] + x2 * low)


@inline
def exp_32(x: Any) -> Any:
    """Return exp x of a float32 x <= 0, to a few roundings; below -87 it is about 1e-38, not 0."""
    x = max(x, np.float32(-87.0))
    n = np.int32(x * np.float32(1 / _LOG_2) - np.float32(0.5))  # rounded towards zero: to the nearest integer
    r = x - np.float32(n) * np.float32(_LOG_2)
    high = np.float32(_E[4]) + r * (np.float32(_E[5]) + r * (np.float32(_E[6]) + r * np.float32(_E[7])))
    p = np.float32(1) + r * (np.float32(1) + r * (np.float32(_E[2]) + r * (np.float32(_E[3]) + r * high)))
    return p * np.int32(np.int32(n + np.int32(127)) << np.int32(23)).view(np.float32)


@inline
def exp_64(x: Any) -> Any:
    """Return exp x of a float64 x <= 0, to a few roundings; below -700 it is about 1e-304, not 0."""
    x = max(x, -700.0)
    n = np.int64(x * (1 / _LOG_2) - 0.5)
    r = x - np.float64(n) * _LOG_2
    high = _E[9] + r * (_E[10] + r * (_E11 + r * (_E12 + r * _E13)))
    high = _E[5] + r * (_E[6] + r * (_E[7] + r * (_E[8] + r * high)))
    p = 1.0 + r * (1.0 + r * (_E[2] + r * (_E[3] + r * (_E[4] + r * high))))
    return p * np.int64((n + np.int64(1023)) << np.int64(52)).view(np.float64)


_OPTIONS: Any = {"fastmath": FAST_MATH, "error_model": "numpy"}


def _exponential(x: Any) -> Any:
    raise NotImplementedError("for compiled kernels only")


def _logarithm(x: Any) -> Any:
    raise NotImplementedError("for compiled kernels only")


def _two_uniform(bits: Any, more: Any, like: Any) -> Any:
    raise NotImplementedError("for compiled kernels only")


@overload(_exponential, jit_options=_OPTIONS, strict=False)
def _exponential_by_dtype(x: Any) -> Any:
    return (lambda x: exp_32(x)) if x == float32 else (lambda x: exp_64(x))


@overload(_logarithm, jit_options=_OPTIONS, strict=False)
def _logarithm_by_dtype(x: Any) -> Any:
    return (lambda x: log_32(x)) if x == float32 else (lambda x: log_64(x))


@overload(_two_uniform, jit_options=_OPTIONS, strict=False)
def _two_uniform_by_dtype(bits: Any, more: Any, like: Any) -> Any:
    if like == float32:
        return lambda bits, more, like: (uniform_high(bits), uniform_low(bits))
    return lambda bits, more, like: (uniform_64(bits), uniform_64(more))


@inline
def exponential(x: Any) -> Any:
    """Return exp x for x <= 0, in the dtype of x."""
    return _exponential(x)


@inline
def logarithm(x: Any) -> Any:
    """Return log x for x > 0, in the dtype of x."""
    return _logarithm(x)


@inline
def two_uniform(bits: Any, more: Any, like: Any) -> Any:
    """Return two uniform numbers in the dtype of `like`: float32 of the halves of `bits`, float64 of both.

    Args:
        bits: 64 random bits.
        more: 64 other bits.
        like: a number of the dtype of the result.

    Returns:
        The two numbers.
    """
    return _two_uniform(bits, more, like)


@jit
def fill_normal(
    out: Any, lanes: Any, first: Any, half: Any, side: Any, seed: Any, stride: Any, start: Any
) -> None:
    """Fill `out`, `(2 half lanes,)`, with standard normal numbers, by Box and Muller.

    Elements `(x, lane)` and `(x + half, lane)` are a pair, of numbers `start + 2 x` and `start + 2 x + 1` in
    the stream of the chain.

    Args:
        out: float32 or float64, with the lanes contiguous.
        lanes: number of chains, a power of two; uint64 as all that follow.
        first: number of the chain in the first lane.
        half: half the number of values of a chain, rounded up.
        side: number of values per pass.
        seed: of the streams of all chains.
        stride: the same, odd.
        start: number of the first number.
    """
    one, two = out.dtype.type(1), out.dtype.type(2)
    base = np.empty(side * lanes, np.uint64)
    for lane in range(lanes):
        origin = stream(seed, stride, first + lane) + start * stride
        for x in range(side):
            base[x * lanes + lane] = origin + U(2) * x * stride
    end = half * lanes
    for at in range(U(0), end, side * lanes):
        n, skipped = min(side * lanes, end - at), U(2) * (at // lanes) * stride
        for i in range(n):
            bits = base[i] + skipped
            radial, angular = two_uniform(hashed(bits), hashed(bits + stride), two)
            radius = np.sqrt(-two * logarithm(radial))
            s, c = sine_and_cosine(two * angular - one)
            out[at + i] = radius * c
            out[end + at + i] = radius * s
