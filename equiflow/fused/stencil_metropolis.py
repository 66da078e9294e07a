"""A sweep of Metropolis updates of single sites over a block of chains, colour after colour."""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import inline, jit
from equiflow.fused.stencil_kernels import add_up, load, store, wrap
from equiflow.fused.stencil_noise import exponential, hashed, stream, two_uniform

U = np.uint64
_ONE, _TWO = U(1), U(2)


@inline
def neighbours(field: Any, at: Any, rows: Any, pitch: Any, n: Any, side: Any, lanes: Any, total: Any) -> None:
    """Write the sums over the neighbours of a row to `total`; `rows` are those beside it.

    Args:
        field: a field of a block, with borders.
        at: where the row begins in the field; uint64.
        rows: numbers of the rows that are linked to it; uint64.
        pitch: distance of rows in a field; uint64.
        n: number of values of a row, sites times lanes; uint64.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
        total: where the result goes, a row.
    """
    for i in range(n):
        # A ring of one site is linked to itself, which costs nothing.
        total[i] = field[at + i - lanes] + field[at + i + lanes] if side > _ONE else 0
    for k in range(len(rows)):
        other = rows[k] * pitch + lanes
        for i in range(n):
            total[i] += field[other + i]


@jit
def move(
    field: Any,
    at: Any,
    n: Any,
    origin: Any,
    skipped: Any,
    stride: Any,
    total: Any,
    mine: Any,
    quadratic: Any,
    quartic: Any,
    width: Any,
    sums: Any,
) -> None:
    """Update the sites of a row whose `mine` is 1, and add moves and their probabilities to `sums`.

    Args:
        field: fields with borders.
        at: where the row begins.
        n: its length times the number of lanes.
        origin: where the numbers of a row begin in the streams, for each element.
        skipped: what the numbers of this row are ahead of that.
        stride: of the streams.
        total: sum over the neighbours of each element.
        mine: 1 for elements of the colour, else 0, in the dtype of the fields.
        quadratic: coefficient of phi^2 at fixed neighbours, in the dtype of the fields.
        quartic: coefficient of phi^4.
        width: largest change of a site.
        sums: of moves and of their probabilities, `(2, side lanes)` in float64.
    """
    real, one, two = field.dtype.type, field.dtype.type(1), field.dtype.type(2)
    for i in range(n):
        old, bits = field[at + i], origin[i] + skipped
        step, uniform = two_uniform(hashed(bits), hashed(bits + stride), one)
        new = old + width * (two * step - one)
        before = (quadratic + quartic * old * old) * old * old - two * old * total[i]
        after = (quadratic + quartic * new * new) * new * new - two * new * total[i]
        change = after - before
        rise = change if change > real(0) else real(0)
        chance = exponential(-rise)
        chance = chance if change == change else real(0)
        moves = mine[i] if uniform < chance else real(0)
        field[at + i] = new if moves > real(0) else old
        sums[0, i] += np.float64(moves)
        sums[1, i] += np.float64(chance * mine[i])


@jit
def sweep(
    phi: Any,
    out: Any,
    accepted: Any,
    probability: Any,
    beside: Any,
    colours: Any,
    quadratic: Any,
    quartic: Any,
    width: Any,
    side: Any,
    most_lanes: Any,
    start: Any,
    stop: Any,
    seed: Any,
    stride: Any,
) -> None:
    """Update every site of chains `start ... stop - 1` once.

    Site x takes the numbers `2 x` and `2 x + 1` of the stream of its chain, in float32 the halves of the
    first.

    Args:
        phi: fields, `(batch, size)`.
        out: where the new fields go, `(batch, size)`.
        accepted: fraction of the sites that moved, float64.
        probability: mean probability of that.
        beside: the rows that are linked to each row, `(rows, links)` uint64.
        colours: number of the colour of each site, `(size,)` uint8.
        quadratic: coefficient of phi^2 at fixed neighbours, in the dtype of the fields.
        quartic: coefficient of phi^4.
        width: largest change of a site.
        side: length of a row; uint64 as all that follow.
        most_lanes: chains in a block, a power of two.
        start: first chain.
        stop: the chain after the last one.
        seed: of the random numbers.
        stride: the same, odd.
    """
    real, size = phi.dtype.type, U(phi.shape[1])
    rows, one = size // side, phi.dtype.type(1)
    field = np.empty(rows * (side + _TWO) * most_lanes, phi.dtype)
    total, sums = np.empty(side * most_lanes, phi.dtype), np.empty((2, side * most_lanes))
    origin, mine = np.empty(side * most_lanes, np.uint64), np.empty(side * most_lanes, phi.dtype)
    counts = np.empty((2, most_lanes))
    first = start
    while first < stop:
        chains = min(most_lanes, stop - first)
        lanes = _ONE
        while lanes < chains:
            lanes = lanes << _ONE
        n, pitch = side * lanes, (side + _TWO) * lanes
        load(phi, field, first, chains, rows, side, lanes)
        for lane in range(lanes):
            begin = stream(seed, stride, first + lane)
            for x in range(side):
                origin[x * lanes + lane] = begin + _TWO * x * stride
        sums[:] = 0
        for colour in range(np.max(colours) + 1):
            for row in range(rows):
                at, skipped = row * pitch + lanes, _TWO * row * side * stride
                neighbours(field, at, beside[row], pitch, n, side, lanes, total)
                for x in range(side):
                    for lane in range(lanes):
                        mine[x * lanes + lane] = one if colours[row * side + x] == colour else real(0)
                move(field, at, n, origin, skipped, stride, total, mine, quadratic, quartic, width, sums)
                wrap(field, at, n, lanes)
        add_up(sums[0], n, lanes, counts[0])
        add_up(sums[1], n, lanes, counts[1])
        for lane in range(chains):
            accepted[first + lane] = counts[0, lane] / size
            probability[first + lane] = counts[1, lane] / size
        store(out, field, first, chains, rows, side, lanes)
        first += chains
