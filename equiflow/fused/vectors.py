"""Vectors of one cache line within kernels: numbers of one dtype that are computed with together.

LLVM turns plain loops into vectors too, but only innermost ones, with sums kept in memory. With vectors as
values, sums over ridges and momenta stay in registers. On machines with smaller registers LLVM splits them.
`load` and `store` move a vector, `spread` repeats one number, and `+`, `-`, `*` take vectors and numbers.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, lower_cast, models, register_model

#: without the signature of the function that it takes, which is not that of calls in kernels
intrinsic: Any = _intrinsic
#: bytes of a vector
BYTES = 64
#: the lanes of a tile that `store_transposed` turns around fill a register of 32 bytes
LANES_PER_TILE_OF = {4: 8, 8: 4}


class Vector(types.Type):
    """The type of a vector for numba.

    Args:
        scalar: type of its numbers.
    """

    def __init__(self, scalar: Any) -> None:
        self.scalar = scalar
        self.lanes = 8 * BYTES // scalar.bitwidth
        super().__init__(f"Vector({scalar})")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        """Return that numbers may stand where vectors are expected: all lanes are the number.

        Args:
            typingctx: given by numba.
            other: type of what stands there.

        Returns:
            A conversion, or None.
        """
        return Conversion.safe if isinstance(other, types.Float) else None


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        scalar = ir.FloatType() if kind.scalar.bitwidth == 32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(scalar, kind.lanes))


def _repeated(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, _indices([0] * lanes))


def _indices(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


@lower_cast(types.Float, Vector)
def _cast(context: Any, builder: Any, source: Any, target: Vector, value: Any) -> Any:
    return _repeated(builder, context.cast(builder, value, source, target.scalar), target.lanes)


def _define(operation: Any, instruction: str) -> None:
    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [x for x in args if isinstance(x, Vector)]
            if not vectors or not all(isinstance(x, (Vector, types.Float)) for x in args):
                return None
            return signature(vectors[0], vectors[0], vectors[0])

    @lower_builtin(operation, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=("contract",))


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
):
    _define(_operation, _instruction)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def stay_apart(typingctx: Any) -> Any:
    """Forbid LLVM to merge the function that calls this into others, where it is compiled once more.

    Args:
        typingctx: given by numba.

    Returns:
        What numba makes of a call.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def lanes_of(typingctx: Any, array: Any) -> Any:
    """Return the number of lanes of vectors of an array, a constant.

    Args:
        typingctx: given by numba.
        array: any, for its dtype.

    Returns:
        What numba makes of a call.
    """
    lanes = Vector(array.dtype).lanes
    return types.intp(array), lambda context, builder, sig, args: context.get_constant(types.intp, lanes)


@intrinsic
def side_of_tile(typingctx: Any, array: Any) -> Any:
    """Return the side of the squares of `store_transposed` for the dtype of an array, a constant.

    Args:
        typingctx: given by numba.
        array: any, for its dtype.

    Returns:
        What numba makes of a call.
    """
    side = LANES_PER_TILE_OF[array.dtype.bitwidth // 8]
    return types.intp(array), lambda context, builder, sig, args: context.get_constant(types.intp, side)


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at a number of a flat array.

    Args:
        typingctx: given by numba.
        array: flat.
        index: of the first number.

    Returns:
        What numba makes of a call.
    """
    vector, size = Vector(array.dtype), array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args)
        return builder.load(builder.bitcast(pointer, context.get_value_type(vector).as_pointer()), align=size)

    return vector(array, types.intp), code


@intrinsic
def store(typingctx: Any, vector: Any, array: Any, index: Any) -> Any:
    """Write a vector to a flat array, from a number on.

    Args:
        typingctx: given by numba.
        vector: what to write.
        array: flat, written.
        index: of the first number.

    Returns:
        What numba makes of a call.
    """
    size = array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[1], *args[1:])
        builder.store(args[0], builder.bitcast(pointer, args[0].type.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), code


@intrinsic
def spread(typingctx: Any, array: Any, index: Any) -> Any:
    """Return a vector of which all lanes are one number of a flat array.

    Args:
        typingctx: given by numba.
        array: flat.
        index: of the number.

    Returns:
        What numba makes of a call.
    """
    vector = Vector(array.dtype)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _repeated(builder, builder.load(_pointer(context, builder, sig.args[0], *args)), vector.lanes)

    return vector(array, types.intp), code


@intrinsic
def zero(typingctx: Any, array: Any) -> Any:
    """Return the vector 0 for the dtype of an array.

    Args:
        typingctx: given by numba.
        array: any, for its dtype.

    Returns:
        What numba makes of a call.
    """
    vector = Vector(array.dtype)
    return vector(array), lambda context, builder, sig, args: ir.Constant(
        context.get_value_type(vector), [0.0] * vector.lanes
    )


@intrinsic
def nearest(typingctx: Any, vector: Any) -> Any:
    """Return the integers nearest to the lanes of a vector.

    Args:
        typingctx: given by numba.
        vector: any.

    Returns:
        What numba makes of a call.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        name = f"llvm.rint.v{kind.count}f{vector.scalar.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, args)

    return vector(vector), code


@intrinsic
def negative_if_odd(typingctx: Any, vector: Any, n: Any) -> Any:
    """Return `(-1)^n` times a vector, for integers n in a vector.

    Args:
        typingctx: given by numba.
        vector: any.
        n: whole numbers below 2^31, in a vector.

    Returns:
        What numba makes of a call.
    """
    bits = vector.scalar.bitwidth

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, n = args
        small, whole = (ir.VectorType(ir.IntType(size), vector.lanes) for size in (32, bits))
        integers = builder.fptosi(n, small)
        if bits > 32:
            integers = builder.zext(integers, whole)
        sign = builder.shl(integers, ir.Constant(whole, [bits - 1] * vector.lanes))
        return builder.bitcast(builder.xor(builder.bitcast(value, whole), sign), value.type)

    return vector(vector, vector), code


@intrinsic
def store_transposed(
    typingctx: Any, tile: Any, first: Any, step: Any, out: Any, index: Any, stride: Any
) -> Any:
    """Write a square of an array to another one with rows and columns exchanged.

    Its side is `side_of_tile`. Row i begins at `first + i step`, and becomes a
    column; row i of what is written begins at `index + i stride`.

    Args:
        typingctx: given by numba.
        tile: flat.
        first: where the first row begins.
        step: from one row to the next.
        out: flat, written.
        index: where the first written row begins.
        stride: from one written row to the next.

    Returns:
        What numba makes of a call.
    """
    size = tile.dtype.bitwidth // 8
    side = LANES_PER_TILE_OF[size]

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, first, step, _, index, stride = args
        scalar = context.get_value_type(tile.dtype)
        pointer = ir.VectorType(scalar, side).as_pointer()

        def at(which: int, start: Any, length: Any, i: int) -> Any:
            place = builder.add(start, builder.mul(length, context.get_constant(types.intp, i)))
            return builder.bitcast(_pointer(context, builder, sig.args[which], args[which], place), pointer)

        rows = [builder.load(at(0, first, step, i), align=size) for i in range(side)]
        # Stage by stage, lanes that differ in one bit change places with rows that differ in it.
        bit = 1
        while bit < side:
            for i in range(side):
                if not i & bit:
                    a, b = rows[i], rows[i | bit]
                    low = [lane if not lane & bit else side + lane - bit for lane in range(side)]
                    high = [lane + bit if not lane & bit else side + lane for lane in range(side)]
                    rows[i] = builder.shuffle_vector(a, b, _indices(low))
                    rows[i | bit] = builder.shuffle_vector(a, b, _indices(high))
            bit *= 2
        for i, row in enumerate(rows):
            builder.store(row, at(3, index, stride, i), align=size)
        return context.get_dummy_value()

    return types.void(tile, types.intp, types.intp, out, types.intp, types.intp), code
