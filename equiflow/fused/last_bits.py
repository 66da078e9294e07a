"""Vectors rounded to integers by adding a large number, which leaves the integers in the last bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from equiflow.fused.vectors import intrinsic


@intrinsic
def to_last_bits(typingctx: Any, vector: Any) -> Any:
    """Return numbers of which the last bits are the nearest integers.

    A large number is added. The caller is compiled without `reassoc`, by which LLVM would leave that out.

    Args:
        typingctx: given by numba.
        vector: of numbers below 2^22, or 2^51 in float64.

    Returns:
        What numba makes of a call.
    """
    return vector(vector), lambda context, builder, sig, args: builder.fadd(args[0], _anchor(args[0].type))


@intrinsic
def from_last_bits(typingctx: Any, vector: Any) -> Any:
    """Return the integers of `to_last_bits` as numbers.

    Args:
        typingctx: given by numba.
        vector: what `to_last_bits` has returned.

    Returns:
        What numba makes of a call.
    """
    return vector(vector), lambda context, builder, sig, args: builder.fsub(args[0], _anchor(args[0].type))


def _anchor(kind: Any) -> Any:
    """Return 1.5 2^p, where p bits of a number follow its first one: the spacing of numbers is 1 there."""
    return ir.Constant(
        kind, [1.5 * 2.0 ** (23 if isinstance(kind.element, ir.FloatType) else 52)] * kind.count
    )


@intrinsic
def negative_if_odd(typingctx: Any, vector: Any, integers: Any) -> Any:
    """Return `(-1)^n` times a vector.

    Args:
        typingctx: given by numba.
        vector: any.
        integers: n, as `to_last_bits` returns them.

    Returns:
        What numba makes of a call.
    """
    bits = vector.scalar.bitwidth

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, integers = (builder.bitcast(x, ir.VectorType(ir.IntType(bits), vector.lanes)) for x in args)
        sign = builder.shl(integers, ir.Constant(integers.type, [bits - 1] * vector.lanes))
        return builder.bitcast(builder.xor(value, sign), args[0].type)

    return vector(vector, vector), code
