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
from numba.core.imputils import impl_ret_borrowed
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, lower_cast, models, register_model
from numba.np.arrayobj import populate_array

#: without the signature of the function that it takes, which is not that of calls in kernels
intrinsic: Any = _intrinsic
#: bytes of a vector
BYTES = 64


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
    return builder.shuffle_vector(first, undefined, indices([0] * lanes))


def indices(numbers: list[int]) -> Any:
    """Return what a shuffle takes: the lane of the source for each lane of the result.

    Args:
        numbers: of the lanes.

    Returns:
        A constant of LLVM.
    """
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


def place_in(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return where a number of a flat array is.

    Args:
        context: of numba.
        builder: of the code.
        kind: type of the array.
        array: flat.
        index: of the number.

    Returns:
        A pointer of LLVM.
    """
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
def flat(typingctx: Any, array: Any) -> Any:
    """Return a contiguous array with one axis, in a few nanoseconds; `reshape` takes tens of them.

    Args:
        typingctx: given by numba.
        array: contiguous.

    Returns:
        What numba makes of a call.
    """
    if array.layout != "C":
        return None
    kind = array.copy(ndim=1)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = context.make_array(sig.args[0])(context, builder, args[0])
        made = context.make_array(kind)(context, builder)
        populate_array(
            made,
            data=source.data,
            shape=cgutils.pack_array(builder, [source.nitems]),
            strides=cgutils.pack_array(builder, [source.itemsize]),
            itemsize=source.itemsize,
            meminfo=source.meminfo,
            parent=source.parent,
        )
        return impl_ret_borrowed(context, builder, kind, made._getvalue())

    return kind(array), code


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
    return _loading(array, {})


@intrinsic
def load_fixed(typingctx: Any, array: Any, index: Any) -> Any:
    """Do what `load` does, of numbers that the kernel writes nowhere: LLVM may keep them in registers.

    Args:
        typingctx: given by numba.
        array: flat.
        index: of the first number.

    Returns:
        What numba makes of a call.
    """
    return _loading(array, {"invariant.load": []})


def _loading(array: Any, marks: dict[str, list[Any]]) -> Any:
    vector, size = Vector(array.dtype), array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = place_in(context, builder, sig.args[0], *args)
        loaded = builder.load(
            builder.bitcast(pointer, context.get_value_type(vector).as_pointer()), align=size
        )
        for name, values in marks.items():
            loaded.set_metadata(name, builder.module.add_metadata(values))
        return loaded

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
        pointer = place_in(context, builder, sig.args[1], *args[1:])
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
        return _repeated(builder, builder.load(place_in(context, builder, sig.args[0], *args)), vector.lanes)

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
