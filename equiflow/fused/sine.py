"""Sine and cosine at once, of angles in half turns, without a branch: LLVM vectorises loops over them.

`t = n + r` with an integer n and `|r| <= 1/2` gives `sin(pi t) = (-1)^n sin(pi r)`, and the same for the
cosine. The remainder r is exact. Both functions are polynomials in r with the least maximal error, which is
5e-9 in float32 and 2e-18 in float64, below rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, njit
from numba.extending import overload

from equiflow.fused.last_bits import from_last_bits, negative_if_odd, to_last_bits
from equiflow.fused.vectors import Vector

# (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 for |r| <= pi / 2, as polynomials in r^2.
_SINE = {
    np.float32: (-0.16666657096468693, 0.008333017290650893, -0.00019806615134133517, 2.6000546170641034e-06),
    np.float64: (
        -0.16666666666666665,
        0.008333333333333114,
        -0.0001984126984118596,
        2.755731920778685e-06,
        -2.5052106606629885e-08,
        1.6058927836092742e-10,
        -7.642712918468365e-13,
        2.7184962748426203e-15,
    ),
}
_COSINE = {
    np.float32: (0.0416666557731177, -0.0013888569160886838, 2.4769304177488826e-05, -2.6193813893324484e-07),
    np.float64: (
        0.041666666666665833,
        -0.0013888888888830049,
        2.4801587285783822e-05,
        -2.7557317068501972e-07,
        2.0876592592009017e-09,
        -1.1463635423424547e-11,
        4.616134890752446e-14,
    ),
}
# Reassociation, which other kernels allow, could take the remainder apart.
_EXACT_MATH = {"contract", "nsz"}


def _implementation(kind: type[np.floating[Any]], signed: Any) -> Any:
    """Return the function for one dtype; its constants have that dtype, else numba computes in float64.

    Args:
        kind: the dtype.
        signed: takes x and an integer n, in any form, to `(-1)^n x`.

    Returns:
        A function to compile.
    """
    s, c = (1.0, *_SINE[kind]), (1.0, -0.5, *_COSINE[kind])
    s0, s1, s2, s3, s4, *s_high = (kind(a * math.pi ** (2 * n + 1)) for n, a in enumerate(s))
    c0, c1, c2, c3, c4, c5, *c_high = (kind(a * math.pi ** (2 * n)) for n, a in enumerate(c))
    if kind is np.float32:

        def sine_and_cosine_32(n: Any, r: Any) -> tuple[Any, Any]:
            x = r * r
            sine = r * (s0 + x * (s1 + x * (s2 + x * (s3 + x * s4))))
            cosine = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * c5))))
            return signed(sine, n), signed(cosine, n)

        return sine_and_cosine_32
    s5, s6, s7, s8 = s_high
    c6, c7, c8 = c_high

    def sine_and_cosine_64(n: Any, r: Any) -> tuple[Any, Any]:
        x = r * r
        high = s4 + x * (s5 + x * (s6 + x * (s7 + x * s8)))
        sine = r * (s0 + x * (s1 + x * (s2 + x * (s3 + x * high))))
        high = c5 + x * (c6 + x * (c7 + x * c8))
        cosine = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * high))))
        return signed(sine, n), signed(cosine, n)

    return sine_and_cosine_64


def _signed(kind: type[np.floating[Any]]) -> Any:
    half, one, two = kind(0.5), kind(1), kind(2)

    def signed(x: Any, n: Any) -> Any:
        return x * (one - two * np.abs(n - two * np.rint(n * half)))

    return njit(signed, fastmath=_EXACT_MATH, error_model="numpy")


def _placeholder(n: Any, r: Any) -> Any:
    raise NotImplementedError("for compiled kernels only")


@overload(_placeholder, jit_options={"fastmath": _EXACT_MATH, "error_model": "numpy"})
def _by_type(n: Any, r: Any) -> Any:
    if isinstance(r, Vector):
        return _implementation(np.float32 if r.scalar == float32 else np.float64, negative_if_odd)
    kind = np.float32 if r == float32 else np.float64
    return _implementation(kind, _signed(kind))


def _split(t: Any) -> Any:
    raise NotImplementedError("for compiled kernels only")


@overload(_split, jit_options={"fastmath": _EXACT_MATH, "error_model": "numpy"})
def _split_by_type(t: Any) -> Any:
    if isinstance(t, Vector):

        def split_vector(t: Any) -> Any:
            n = to_last_bits(t)
            return n, t - from_last_bits(n)

        return split_vector

    def split_number(t: Any) -> Any:
        n = np.rint(t)
        return n, t - n

    return split_number


@njit(fastmath=_EXACT_MATH, error_model="numpy", forceinline=True)
def split(t: Any) -> Any:
    """Return the nearest integer n, in the form that `sine_and_cosine_of` takes, and `r = t - n`.

    Args:
        t: a number or a `Vector`.

    Returns:
        Both.
    """
    return _split(t)


@njit(fastmath=_EXACT_MATH, error_model="numpy", forceinline=True)
def sine_and_cosine_of(n: Any, r: Any) -> Any:
    """Return `(sin(pi t), cos(pi t))` from what `split` makes of t, for use within kernels.

    Args:
        n: the nearest integer, in the form of `split`.
        r: `t - n`.

    Returns:
        Both.
    """
    return _placeholder(n, r)


@njit(fastmath=_EXACT_MATH, error_model="numpy", forceinline=True)
def sine_and_cosine(t: Any) -> Any:
    """Return `(sin(pi t), cos(pi t))` of a number or a `Vector`, for use within kernels."""
    n, r = split(t)
    return sine_and_cosine_of(n, r)
