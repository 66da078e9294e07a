"""Transforms of the fields of a block to the modes of `equiflow.fused.modes` and back, axis after axis.

The kernels work on blocks of a few configurations. Fields of a block have the layout `(first axis, field,
second axis)`, where `field` runs over channels and, fastest, over configurations. Their numbers in each row
and in each column fill whole vectors; see `configurations_per_vector`. A transform of the first axis writes
its result with both axes exchanged, so that the next one finds the second axis first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from equiflow.fused import modes
from equiflow.fused.just_in_time import jit, jit_within
from equiflow.fused.vectors import (
    lanes_of,
    load,
    side_of_tile,
    spread,
    stay_apart,
    store,
    store_transposed,
    zero,
)

SHORT = modes.SHORT


@lru_cache(maxsize=64)
def _axis(side: int, dtype: torch.dtype) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the blocks of an axis, `(block, 3)`: first mode, number of modes, first entry; and all entries.

    The entries are those of the matrices from folded sites to modes, and of the transposed ones.
    """
    strips = np.zeros((-(-side // 8), side, 8))
    for x in range(side):
        strips[x // 8, x, x % 8] = 1
    for strip in strips:
        fold(strip.reshape(-1), side)
    folds = strips.transpose(1, 0, 2).reshape(side, -1)[:, :side]
    dense = modes.matrix(side, torch.float64) @ np.linalg.inv(folds)
    bounds = modes.blocks(side)
    parts = [dense[first : first + n, first : first + n] for first, n in bounds]
    starts = np.cumsum([0] + [n * n for _, n in bounds[:-1]])
    blocks = np.array([(first, n, start) for (first, n), start in zip(bounds, starts, strict=True)])
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    there, back = (np.concatenate([x.ravel() for x in y]) for y in (parts, [x.T for x in parts]))
    return blocks, there.astype(kind), back.astype(kind)


def axes(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Any, Any]:
    """Return what `to_modes` and `to_sites` take: the matrices of both axes.

    Args:
        shape: both sides of the lattice.
        dtype: of the fields.

    Returns:
        For each axis where its matrices are, their entries, and those of the transposed ones.
    """
    return _axis(shape[0], dtype), _axis(shape[1], dtype)


@jit
def configurations_per_vector(rows: int, columns: int, like: Any) -> int:
    """Return the number that divides the configurations of a block, so that vectors fill its rows.

    Args:
        rows: length of the first axis.
        columns: length of the second axis.
        like: an array of the dtype.

    Returns:
        A power of 2; 1 if both sides are multiples of the length of a vector.
    """
    number = 1
    while number * rows % lanes_of(like) != 0 or number * columns % lanes_of(like) != 0:
        number *= 2
    return number


@jit_within
def aligned(n: int, like: Any) -> Any:
    """Return `n` numbers of scratch memory from a cache line on: vectors across two lines cost twice.

    Args:
        n: how many numbers.
        like: an array of the dtype.

    Returns:
        `(n,)`, not initialised.
    """
    per_line = 64 // like.itemsize
    memory = np.empty(n + per_line, like.dtype)
    skipped = -(memory.ctypes.data // like.itemsize) % per_line
    return memory[skipped : skipped + n]


@jit
def fold(strip: Any, side: int) -> None:
    """Fold an axis in place.

    Args:
        strip: `(side, lane)`, flat.
        side: length of the axis.
    """
    lanes, n = lanes_of(strip), side
    while n % 2 == 0 and n > SHORT:
        half = n // 2
        for x in range(half):
            a, b = load(strip, x * lanes), load(strip, (x + half) * lanes)
            store(a + b, strip, x * lanes)
            store(a - b, strip, (x + half) * lanes)
        if half % 2 == 0:
            for x in range(1, half // 2):
                i, j = (half + x) * lanes, (n - x) * lanes
                a, b = load(strip, i), load(strip, j)
                store(a - b, strip, i)
                store(a + b, strip, j)
        n = half


@jit_within
def unfold(strip: Any, side: int) -> None:
    """Apply the transposed matrix of `fold` in place.

    Args:
        strip: `(side, lane)`, flat.
        side: length of the axis.
    """
    lanes, n = lanes_of(strip), side
    while n % 2 == 0 and n > SHORT:
        n //= 2
    while n < side:
        half, n = n, 2 * n
        if half % 2 == 0:
            for x in range(1, half // 2):
                i, j = (half + x) * lanes, (n - x) * lanes
                a, b = load(strip, i), load(strip, j)
                store(a + b, strip, i)
                store(b - a, strip, j)
        for x in range(half):
            a, b = load(strip, x * lanes), load(strip, (x + half) * lanes)
            store(a + b, strip, x * lanes)
            store(a - b, strip, (x + half) * lanes)


@jit_within
def _multiply(strip: Any, blocks: Any, entries: Any, out: Any) -> None:
    """Multiply a strip `(side, lane)` by all blocks of a matrix, four rows at a time."""
    lanes = lanes_of(strip)
    for block in range(len(blocks)):
        first, n, entry = blocks[block, 0], blocks[block, 1], blocks[block, 2]
        for row in range(0, n - 3, 4):
            a = b = c = d = zero(strip)
            for k in range(n):
                x = load(strip, (first + k) * lanes)
                a += spread(entries, entry + k) * x
                b += spread(entries, entry + n + k) * x
                c += spread(entries, entry + 2 * n + k) * x
                d += spread(entries, entry + 3 * n + k) * x
            to = (first + row) * lanes
            store(a, out, to)
            store(b, out, to + lanes)
            store(c, out, to + 2 * lanes)
            store(d, out, to + 3 * lanes)
            entry += 4 * n
        for row in range(n - n % 4, n):
            a = zero(strip)
            for k in range(n):
                a += spread(entries, entry + k) * load(strip, (first + k) * lanes)
            store(a, out, (first + row) * lanes)
            entry += n


@jit_within
def transform_strip(strips: Any, side: int, axis: Any, inverse: bool) -> None:
    """Transform the axis of a strip to modes, or back to sites.

    Args:
        strips: two strips `(side, lane)`, flat; the first one is taken and overwritten, the second written.
        side: length of the axis.
        axis: see `axes`.
        inverse: whether to sites.
    """
    n = side * lanes_of(strips)
    if inverse:
        _multiply(strips, axis[0], axis[2], strips[n:])
        unfold(strips[n:], side)
    else:
        fold(strips, side)
        _multiply(strips, axis[0], axis[1], strips[n:])


@jit_within
def store_exchanged(strips: Any, column: int, rows: int, columns: int, n_fields: int, out: Any) -> None:
    """Write the second strip to fields with both axes exchanged.

    Args:
        strips: two strips `(row, lane)`.
        column: first column of the strip among all columns of all fields.
        rows: length of the first axis.
        columns: length of the second axis.
        n_fields: number of fields.
        out: `(column, field, row)`, flat, written.
    """
    lanes, side = lanes_of(strips), side_of_tile(strips)
    stride = n_fields * rows
    if rows % side == 0 and columns % side == 0:
        for lane in range(0, lanes, side):
            field, y = (column + lane) // columns, (column + lane) % columns
            to = y * stride + field * rows
            for x in range(0, rows, side):
                store_transposed(strips, (rows + x) * lanes + lane, lanes, out, to + x, stride)
    else:
        for lane in range(lanes):
            field, y = (column + lane) // columns, (column + lane) % columns
            to = y * stride + field * rows
            for x in range(rows):
                out[to + x] = strips[(rows + x) * lanes + lane]


@jit_within
def transform_first(
    fields: Any, shape: Any, n_fields: int, axis: Any, inverse: bool, strips: Any, out: Any
) -> None:
    """Transform the first axis of fields, and exchange both.

    Args:
        fields: `(first, field, second)`, flat.
        shape: lengths of both axes.
        n_fields: number of fields.
        axis: of the first axis, see `axes`.
        inverse: whether to sites.
        strips: scratch memory, see `strips_for`.
        out: `(second, field, first)`, flat, written.
    """
    stay_apart()
    rows, columns = shape
    lanes, width = lanes_of(fields), n_fields * columns
    for column in range(0, width, lanes):
        for x in range(rows):
            store(load(fields, x * width + column), strips, x * lanes)
        transform_strip(strips, rows, axis, inverse)
        store_exchanged(strips, column, rows, columns, n_fields, out)


@jit_within
def strips_for(like: Any, rows: int, columns: int) -> Any:
    """Return scratch memory for two strips of either axis.

    Args:
        like: an array of the dtype.
        rows: length of the first axis.
        columns: length of the second axis.

    Returns:
        Flat memory.
    """
    return aligned(2 * max(rows, columns) * lanes_of(like), like)


@jit_within
def to_modes(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(first, field, second)` from sites to modes.

    Args:
        fields: on the sites.
        basis: see `axes`.
        scratch: at least as many numbers, flat, overwritten.
        out: like `fields`, written.
    """
    stay_apart()
    rows, n, columns = fields.shape
    strips = strips_for(out, rows, columns)
    transform_first(fields.reshape(fields.size), (rows, columns), n, basis[0], False, strips, scratch)
    transform_first(scratch, (columns, rows), n, basis[1], False, strips, out.reshape(out.size))


@jit_within
def to_sites(modes: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform modes `(first, field, second)` to sites.

    Args:
        modes: in modes.
        basis: see `axes`.
        scratch: at least as many numbers, flat, overwritten.
        out: like `modes`, written.
    """
    stay_apart()
    rows, n, columns = modes.shape
    strips = strips_for(out, rows, columns)
    transform_first(modes.reshape(modes.size), (rows, columns), n, basis[0], True, strips, scratch)
    transform_first(scratch, (columns, rows), n, basis[1], True, strips, out.reshape(out.size))


@jit_within
def load_block(fields: Any, first: int, size: int, out: Any) -> None:
    """Copy `size` configurations of `(batch, V)` to a block `(first, configuration, second)`, then zeros.

    Args:
        fields: `(batch, V)`.
        first: the first configuration.
        size: number of configurations, at most those of the block.
        out: the block, written.
    """
    rows, room, columns = out.shape
    for x in range(rows):
        for n in range(room):
            for y in range(columns):
                out[x, n, y] = fields[first + n, x * columns + y] if n < size else 0


@jit_within
def store_block(block: Any, first: int, size: int, fields: Any) -> None:
    """Copy `size` configurations of a block `(first, configuration, second)` back to `fields`, `(batch, V)`.

    Args:
        block: `(first, configuration, second)`.
        first: the first configuration.
        size: number of configurations.
        fields: `(batch, V)`, written from there on.
    """
    rows, _, columns = block.shape
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                fields[first + n, x * columns + y] = block[x, n, y]
