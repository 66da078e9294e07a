"""Products of the fields of a block with small dense matrices, from the left and row by row.

Eight sums are computed together: each waits for its last addition, and processors start two in a cycle.
"""

from __future__ import annotations

from typing import Any

from equiflow.fused.just_in_time import inline, jit_within
from equiflow.fused.vectors import lanes_of, load, spread, store, store_first, zero


@jit_within
def multiply(fields: Any, width: int, blocks: Any, entries: Any, out: Any) -> None:
    """Multiply fields `(first, width)` from the left by all blocks of a matrix.

    Args:
        fields: flat.
        width: numbers of a row, a multiple of the length of a vector.
        blocks: first row, number of rows and first entry of each block.
        entries: of all blocks, row by row.
        out: like `fields`, written.
    """
    for block in range(len(blocks)):
        first, n, start = blocks[block, 0], blocks[block, 1], blocks[block, 2]
        if n == 4:  # common sizes: LLVM writes these sums out
            _multiply_block(fields, width, first, 4, start, entries, out)
        elif n == 8:
            _multiply_block(fields, width, first, 8, start, entries, out)
        else:
            _multiply_block(fields, width, first, n, start, entries, out)


@inline
def _multiply_block(fields: Any, width: int, first: int, n: int, start: int, entries: Any, out: Any) -> None:
    """Multiply by one block, four rows at a time.

    Two vectors of each row are computed together, which makes eight sums that do not wait for each other.
    """
    lanes = lanes_of(fields)
    pairs = width - width % (2 * lanes)
    for row in range(0, n - 3, 4):
        entry, to = start + row * n, (first + row) * width
        for y in range(0, pairs, 2 * lanes):
            a = b = c = d = e = f = g = h = zero(fields)
            for k in range(n):
                at = (first + k) * width + y
                x, z = load(fields, at), load(fields, at + lanes)
                one, two = spread(entries, entry + k), spread(entries, entry + n + k)
                three, four = spread(entries, entry + 2 * n + k), spread(entries, entry + 3 * n + k)
                a += one * x
                b += one * z
                c += two * x
                d += two * z
                e += three * x
                f += three * z
                g += four * x
                h += four * z
            at = to + y
            store(a, out, at)
            store(b, out, at + lanes)
            store(c, out, at + width)
            store(d, out, at + width + lanes)
            store(e, out, at + 2 * width)
            store(f, out, at + 2 * width + lanes)
            store(g, out, at + 3 * width)
            store(h, out, at + 3 * width + lanes)
        for y in range(pairs, width, lanes):
            a = b = c = d = zero(fields)
            for k in range(n):
                x = load(fields, (first + k) * width + y)
                a += spread(entries, entry + k) * x
                b += spread(entries, entry + n + k) * x
                c += spread(entries, entry + 2 * n + k) * x
                d += spread(entries, entry + 3 * n + k) * x
            store(a, out, to + y)
            store(b, out, to + width + y)
            store(c, out, to + 2 * width + y)
            store(d, out, to + 3 * width + y)
    for row in range(n - n % 4, n):
        for y in range(0, width, lanes):
            a = zero(fields)
            for k in range(n):
                a += spread(entries, start + row * n + k) * load(fields, (first + k) * width + y)
            store(a, out, (first + row) * width + y)


@jit_within
def multiply_rows(fields: Any, columns: int, blocks: Any, entries: Any, out: Any) -> None:
    """Multiply all rows by all blocks of a matrix, eight rows at a time.

    Args:
        fields: rows of `columns` numbers, flat.
        columns: length of a row.
        blocks: first column, number of columns and first entry of each block.
        entries: of all blocks, with the rows of each filled up to whole vectors.
        out: like `fields`, written.
    """
    lanes, n_rows = lanes_of(fields), len(fields) // columns
    nothing = zero(fields)
    for block in range(len(blocks)):
        first, n, start = blocks[block, 0], blocks[block, 1], blocks[block, 2]
        stride = (n + lanes - 1) // lanes * lanes
        for y in range(0, n, lanes):
            for row in range(0, n_rows - 7, 8):
                at, entry = row * columns + first, start + y
                sums = (nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing)
                for k in range(n):
                    sums = _add_to_rows(load(entries, entry), fields, at + k, columns, sums)
                    entry += stride
                _store_rows(sums, n - y, columns, out, at + y)
            for row in range(n_rows - n_rows % 8, n_rows):
                at = row * columns + first
                a = nothing
                for k in range(n):
                    a += spread(fields, at + k) * load(entries, start + k * stride + y)
                store_first(n - y, a, out, at + y)


@inline
def _add_to_rows(factors: Any, fields: Any, place: int, columns: int, sums: Any) -> Any:
    """Add a vector times one number of each of eight rows to eight sums."""
    a, b, c, d, e, f, g, h = sums
    a += spread(fields, place) * factors
    b += spread(fields, place + columns) * factors
    c += spread(fields, place + 2 * columns) * factors
    d += spread(fields, place + 3 * columns) * factors
    e += spread(fields, place + 4 * columns) * factors
    f += spread(fields, place + 5 * columns) * factors
    g += spread(fields, place + 6 * columns) * factors
    h += spread(fields, place + 7 * columns) * factors
    return a, b, c, d, e, f, g, h


@inline
def _store_rows(sums: Any, n: int, columns: int, out: Any, place: int) -> None:
    """Store the first n numbers of eight vectors in eight rows."""
    a, b, c, d, e, f, g, h = sums
    store_first(n, a, out, place)
    store_first(n, b, out, place + columns)
    store_first(n, c, out, place + 2 * columns)
    store_first(n, d, out, place + 3 * columns)
    store_first(n, e, out, place + 4 * columns)
    store_first(n, f, out, place + 5 * columns)
    store_first(n, g, out, place + 6 * columns)
    store_first(n, h, out, place + 7 * columns)
