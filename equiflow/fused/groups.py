"""Vectors of groups: numbers of a few configurations that stand side by side, at each site or mode.

`together` is how many they are, one of `SIZES`. In a vector of a group the
configuration of a lane is `lane % together`, and its site or mode is `lane // together`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from equiflow.fused.vectors import Vector, indices, intrinsic, place_in

#: configurations of a group: one, four, or as many as a vector has lanes if that is fewer than the last
SIZES = (1, 4, 16)


def _by_together(builder: Any, together: Any, lanes: int, make: Callable[[int], Any]) -> Any:
    """Return what `make` builds for the value that `together` has when the code runs."""
    choices = sorted({min(size, lanes) for size in SIZES})
    done = builder.append_basic_block("done")
    blocks = [builder.append_basic_block(f"together_{choice}") for choice in choices]
    switch = builder.switch(together, blocks[-1])
    for choice, block in zip(choices[:-1], blocks[:-1], strict=True):
        switch.add_case(ir.Constant(together.type, choice), block)
    made = []
    for choice, block in zip(choices, blocks, strict=True):
        builder.position_at_end(block)
        made.append((make(choice), builder.block))
        builder.branch(done)
    builder.position_at_end(done)
    if made[0][0] is None:
        return None
    chosen = builder.phi(made[0][0].type)
    for value, block in made:
        chosen.add_incoming(value, block)
    return chosen


def _loaded(builder: Any, place: Any, n: int, size: int) -> Any:
    kind = ir.VectorType(place.type.pointee, n)
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=size)


def _shuffled(builder: Any, value: Any, numbers: list[int]) -> Any:
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), indices(numbers))


@intrinsic
def spread_group(typingctx: Any, array: Any, index: Any, together: Any) -> Any:
    """Return a vector that repeats `together` numbers of a flat array: all its sites are one site.

    Args:
        typingctx: given by numba.
        array: flat.
        index: of the first number.
        together: how many, at most the lanes; a constant makes code for it alone.

    Returns:
        What numba makes of a call.
    """
    vector = Vector(array.dtype)
    size = array.dtype.bitwidth // 8
    constant = isinstance(together, types.IntegerLiteral)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = place_in(context, builder, sig.args[0], *args[:2])

        def repeated(n: int) -> Any:
            return _shuffled(builder, _loaded(builder, place, n, size), [i % n for i in range(vector.lanes)])

        if constant:
            return repeated(min(together.literal_value, vector.lanes))
        return _by_together(builder, args[2], vector.lanes, repeated)

    return vector(array, types.intp, together if constant else types.intp), code


@intrinsic
def load_for_all(typingctx: Any, array: Any, index: Any, together: Any) -> Any:
    """Return numbers of a flat array, one of each site, repeated for all configurations of a group.

    Args:
        typingctx: given by numba.
        array: flat.
        index: of the first number.
        together: how often each is repeated.

    Returns:
        What numba makes of a call.
    """
    vector = Vector(array.dtype)
    size = array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = place_in(context, builder, sig.args[0], *args[:2])

        def repeated(n: int) -> Any:
            loaded = _loaded(builder, place, vector.lanes // n, size)
            return _shuffled(builder, loaded, [i // n for i in range(vector.lanes)])

        return _by_together(builder, args[2], vector.lanes, repeated)

    return vector(array, types.intp, types.intp), code


@intrinsic
def add_over_group(typingctx: Any, vector: Any, array: Any, index: Any, together: Any) -> Any:
    """Add a vector, summed over the configurations of a group, to a flat array with one number of each site.

    Args:
        typingctx: given by numba.
        vector: of a group.
        array: flat, added to.
        index: of the first number.
        together: how many configurations.

    Returns:
        What numba makes of a call.
    """
    size = array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = place_in(context, builder, sig.args[1], *args[1:3])

        def add(n: int) -> None:
            total, lanes = args[0], vector.lanes
            while lanes > vector.lanes // n:
                lanes //= 2
                parts = [_shuffled(builder, total, [2 * i + k for i in range(lanes)]) for k in (0, 1)]
                total = builder.fadd(*parts)
            total = builder.fadd(total, _loaded(builder, place, lanes, size))
            builder.store(total, builder.bitcast(place, total.type.as_pointer()), align=size)

        _by_together(builder, args[3], vector.lanes, add)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp, types.intp), code


@intrinsic
def add_over_sites(typingctx: Any, vector: Any, array: Any, index: Any, together: Any) -> Any:
    """Add a vector, summed over sites, to numbers of the configurations of a group.

    Args:
        typingctx: given by numba.
        vector: of a group.
        array: flat, float64, added to.
        index: of the first configuration of the group.
        together: how many configurations.

    Returns:
        What numba makes of a call.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = place_in(context, builder, sig.args[1], *args[1:3])

        def add(n: int) -> None:
            total, lanes = args[0], vector.lanes
            while lanes > n:
                lanes //= 2
                halves = [_shuffled(builder, total, list(range(k, k + lanes))) for k in (0, lanes)]
                total = builder.fadd(*halves)
            before = _loaded(builder, place, n, 8)
            if total.type != before.type:
                total = builder.fpext(total, before.type)
            builder.store(
                builder.fadd(total, before), builder.bitcast(place, before.type.as_pointer()), align=8
            )

        _by_together(builder, args[3], vector.lanes, add)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp, types.intp), code
