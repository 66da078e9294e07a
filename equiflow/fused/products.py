"""Products of the fields of a block with small dense matrices, from the left and row by row.

Processors multiply faster than they load, so vectors that are loaded take part in several sums. Where rows
are not a multiple of what is computed together, the last one is computed again.
"""

from __future__ import annotations

from typing import Any

from equiflow.fused.groups import spread_group
from equiflow.fused.just_in_time import inline, jit_as, jit_within
from equiflow.fused.vectors import lanes_of, load, spread, store, zero


@jit_within
def multiply(fields: Any, width: int, blocks: Any, entries: Any, out: Any) -> None:
    """Multiply fields `(first, width)` from the left by all blocks of a matrix, four rows at a time.

    Args:
        fields: flat.
        width: numbers of a row, a multiple of the length of a vector.
        blocks: first row, number of rows and first entry of each block.
        entries: of all blocks, row by row.
        out: like `fields`, written.
    """
    lanes = lanes_of(fields)
    fours = width - width % (4 * lanes)
    nothing = zero(fields)
    for block in range(len(blocks)):
        first, n, start = blocks[block, 0], blocks[block, 1], blocks[block, 2]
        begin = first * width
        for row in range(0, n, 4):
            rows = row, min(row + 1, n - 1), min(row + 2, n - 1), min(row + 3, n - 1)
            one, two, three, four = (
                start + rows[0] * n,
                start + rows[1] * n,
                start + rows[2] * n,
                start + rows[3] * n,
            )
            for y in range(0, fours, 4 * lanes):
                a = b = c = d = (nothing, nothing, nothing, nothing)
                at = begin + y
                for k in range(n):
                    x = load(fields, at), load(fields, at + lanes)
                    z = load(fields, at + 2 * lanes), load(fields, at + 3 * lanes)
                    a = _added(a, spread(entries, one + k), x, z)
                    b = _added(b, spread(entries, two + k), x, z)
                    c = _added(c, spread(entries, three + k), x, z)
                    d = _added(d, spread(entries, four + k), x, z)
                    at += width
                _store_four(a, out, begin + rows[0] * width + y)
                _store_four(b, out, begin + rows[1] * width + y)
                _store_four(c, out, begin + rows[2] * width + y)
                _store_four(d, out, begin + rows[3] * width + y)
            for y in range(fours, width, lanes):
                e = f = g = h = nothing
                at = begin + y
                for k in range(n):
                    vector = load(fields, at)
                    e += spread(entries, one + k) * vector
                    f += spread(entries, two + k) * vector
                    g += spread(entries, three + k) * vector
                    h += spread(entries, four + k) * vector
                    at += width
                store(e, out, begin + rows[0] * width + y)
                store(f, out, begin + rows[1] * width + y)
                store(g, out, begin + rows[2] * width + y)
                store(h, out, begin + rows[3] * width + y)


@inline
def _added(sums: Any, factor: Any, x: Any, z: Any) -> Any:
    """Return four sums, to each of which a vector times the factor is added."""
    a, b, c, d = sums
    a += factor * x[0]
    b += factor * x[1]
    c += factor * z[0]
    d += factor * z[1]
    return a, b, c, d


@inline
def _store_four(vectors: Any, out: Any, place: int) -> None:
    lanes = lanes_of(out)
    a, b, c, d = vectors
    store(a, out, place)
    store(b, out, place + lanes)
    store(c, out, place + 2 * lanes)
    store(d, out, place + 3 * lanes)


@jit_within
def multiply_rows(fields: Any, length: int, together: int, blocks: Any, entries: Any, out: Any) -> None:
    """Multiply all rows of groups by all blocks of a matrix.

    Args:
        fields: rows of `length` numbers, flat.
        length: of a row, `together` times that of the axis.
        together: configurations of a group, one of `groups.SIZES`.
        blocks: first column, number of columns and first entry of each block.
        entries: of all blocks, each of them `together` times.
        out: like `fields`, written.
    """
    for block in range(len(blocks)):
        begin, n, start = blocks[block, 0] * together, blocks[block, 1], blocks[block, 2]
        width = n * together
        paired = width - width % (2 * lanes_of(fields))
        if together == 1:
            _pairs_of_one(fields, length, begin, n, paired, start, entries, out)
            _rest_of_one(fields, length, begin, n, paired, start, entries, out)
        elif together == 4:
            _pairs_of_four(fields, length, begin, n, paired, start, entries, out)
            _rest_of_four(fields, length, begin, n, paired, start, entries, out)
        else:
            _pairs_of_all(fields, length, begin, n, paired, start, entries, out)
            _rest_of_all(fields, length, begin, n, paired, start, entries, out)


def _pairs_of(size: int) -> Any:
    """Return a kernel that computes pairs of vectors of four rows, for groups of one size."""

    @jit_as(f"pairs of {size} together", within=True)
    def pairs_of(
        fields: Any, length: int, begin: int, n: int, paired: int, start: int, entries: Any, out: Any
    ) -> None:
        lanes, last = lanes_of(fields), len(fields) - length
        together = min(size, lanes)
        width = n * together
        for row in range(0, len(fields), 4 * length):
            first, second = row + begin, min(row + length, last) + begin
            third, fourth = min(row + 2 * length, last) + begin, min(row + 3 * length, last) + begin
            for y in range(0, paired, 2 * lanes):
                a = b = c = d = e = f = g = h = zero(fields)
                entry = start + y
                for k in range(0, width, together):
                    x, z = load(entries, entry), load(entries, entry + lanes)
                    one, two = spread_group(fields, first + k, size), spread_group(fields, second + k, size)
                    three = spread_group(fields, third + k, size)
                    four = spread_group(fields, fourth + k, size)
                    a += one * x
                    b += one * z
                    c += two * x
                    d += two * z
                    e += three * x
                    f += three * z
                    g += four * x
                    h += four * z
                    entry += width
                store(a, out, first + y)
                store(b, out, first + y + lanes)
                store(c, out, second + y)
                store(d, out, second + y + lanes)
                store(e, out, third + y)
                store(f, out, third + y + lanes)
                store(g, out, fourth + y)
                store(h, out, fourth + y + lanes)

    return pairs_of


def _rest_of(size: int) -> Any:
    """Return a kernel that computes a last vector of eight rows, for groups of one size."""

    @jit_as(f"rest of {size} together", within=True)
    def rest_of(
        fields: Any, length: int, begin: int, n: int, paired: int, start: int, entries: Any, out: Any
    ) -> None:
        lanes, last = lanes_of(fields), len(fields) - length
        together = min(size, lanes)
        width = n * together
        if paired == width:
            return
        for row in range(0, len(fields), 8 * length):
            first, second = row + begin, min(row + length, last) + begin
            third, fourth = min(row + 2 * length, last) + begin, min(row + 3 * length, last) + begin
            fifth, sixth = min(row + 4 * length, last) + begin, min(row + 5 * length, last) + begin
            seventh, eighth = min(row + 6 * length, last) + begin, min(row + 7 * length, last) + begin
            a = b = c = d = e = f = g = h = zero(fields)
            entry = start + paired
            for k in range(0, width, together):
                x = load(entries, entry)
                a += spread_group(fields, first + k, size) * x
                b += spread_group(fields, second + k, size) * x
                c += spread_group(fields, third + k, size) * x
                d += spread_group(fields, fourth + k, size) * x
                e += spread_group(fields, fifth + k, size) * x
                f += spread_group(fields, sixth + k, size) * x
                g += spread_group(fields, seventh + k, size) * x
                h += spread_group(fields, eighth + k, size) * x
                entry += width
            store(a, out, first + paired)
            store(b, out, second + paired)
            store(c, out, third + paired)
            store(d, out, fourth + paired)
            store(e, out, fifth + paired)
            store(f, out, sixth + paired)
            store(g, out, seventh + paired)
            store(h, out, eighth + paired)

    return rest_of


_pairs_of_one, _pairs_of_four, _pairs_of_all = _pairs_of(1), _pairs_of(4), _pairs_of(16)
_rest_of_one, _rest_of_four, _rest_of_all = _rest_of(1), _rest_of(4), _rest_of(16)
