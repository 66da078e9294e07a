"""Sweeps over a block of chains: the force of a `Stencil` and what integrators do with it, in one pass.

A block holds `lanes` chains, a power of two. Its fields have the layout (component, row, site, lane), where a
row is the lattice along its last axis. In fields that are differentiated, a copy of the last site stands
before each row and one of the first site behind it, so that all neighbours of a row are contiguous. Momenta
have no such borders. Loops run over all sites and lanes of a row at once, which keeps vectors full on any
lattice. Indices are uint64, for which numba emits no code for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import inline, jit

U = np.uint64
_ONE, _TWO = U(1), U(2)
#: chains that are copied to a block and back at once
_GROUP = U(4)


@jit
def load(phi: Any, field: Any, first: Any, chains: Any, rows: Any, side: Any, lanes: Any) -> None:
    """Copy `chains` chains of `phi`, `(batch, size)`, from `first` on to a block; other lanes become 0.

    Args:
        phi: fields, `(batch, size)`.
        field: a field of a block, with borders.
        first: number of the chain in the first lane; uint64.
        chains: number of chains; uint64.
        rows: number of rows of a field, all components together; uint64.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
    """
    pitch = (side + _TWO) * lanes
    if chains < lanes:
        field[: rows * pitch] = 0
    # A few chains at once: fields of 2^n bytes share the same few lines of the cache.
    together = chains - chains % _GROUP
    for group in range(U(0), together, _GROUP):
        for row in range(rows):
            at = (row * (side + _TWO) + _ONE) * lanes + group
            for x in range(side):
                for lane in range(_GROUP):
                    field[at + x * lanes + lane] = phi[first + group + lane, row * side + x]
    for lane in range(together, chains):
        for row in range(rows):
            at = (row * (side + _TWO) + _ONE) * lanes + lane
            for x in range(side):
                field[at + x * lanes] = phi[first + lane, row * side + x]
    for row in range(rows):
        wrap(field, row * pitch + lanes, side * lanes, lanes)


@jit
def store(phi: Any, field: Any, first: Any, chains: Any, rows: Any, side: Any, lanes: Any) -> None:
    """Copy a block to `chains` chains of `phi` from `first` on.

    Args:
        phi: fields, `(batch, size)`.
        field: a field of a block, with borders.
        first: number of the chain in the first lane; uint64.
        chains: number of chains; uint64.
        rows: number of rows of a field, all components together; uint64.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
    """
    together = chains - chains % _GROUP
    for group in range(U(0), together, _GROUP):
        for row in range(rows):
            at = (row * (side + _TWO) + _ONE) * lanes + group
            for x in range(side):
                for lane in range(_GROUP):
                    phi[first + group + lane, row * side + x] = field[at + x * lanes + lane]
    for lane in range(together, chains):
        for row in range(rows):
            at = (row * (side + _TWO) + _ONE) * lanes + lane
            for x in range(side):
                phi[first + lane, row * side + x] = field[at + x * lanes]


@inline
def wrap(field: Any, at: Any, n: Any, lanes: Any) -> None:
    """Copy the last site of a row to the place before it, the first one to the place behind it.

    Args:
        field: a field of a block, with borders.
        at: where the row begins in the field; uint64.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
    """
    for lane in range(lanes):
        field[at - lanes + lane] = field[at + n - lanes + lane]
        field[at + n + lane] = field[at + lane]


@inline
def far_neighbours(
    field: Any, beside: Any, r: Any, base: Any, pitch: Any, n: Any, lanes: Any, total: Any
) -> None:
    """Write to `total` the fields at the neighbours of a row along axes before the last two.

    Args:
        field: a field of a block, with borders.
        beside: see `neighbouring_rows`.
        r: number of the row; uint64.
        base: where the component begins in the field; uint64.
        pitch: distance of rows in a field; uint64.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
        total: where the result goes, a row.
    """
    for i in range(n):
        total[i] = 0
    for k in range(2, beside.shape[1], 2):
        ahead, behind = base + beside[r, k] * pitch + lanes, base + beside[r, k + 1] * pitch + lanes
        for i in range(n):
            total[i] += field[ahead + i] + field[behind + i]


@inline
def squares(field: Any, at: Any, between: Any, n: Any, components: Any, total: Any) -> None:
    """Write `|phi|^2` of a row to `total`; its components are `between` numbers apart.

    Args:
        field: a field of a block, with borders.
        at: where the row begins in the field; uint64.
        between: distance of components in the field; uint64.
        n: number of values of a row, sites times lanes; uint64.
        components: their number; uint64.
        total: where the result goes, a row.
    """
    for i in range(n):
        total[i] = field[at + i] * field[at + i]
    for c in range(_ONE, components):
        start = at + c * between
        for i in range(n):
            total[i] += field[start + i] * field[start + i]


@jit
def kick_and_drift(
    source: Any,
    target: Any,
    momentum: Any,
    beside: Any,
    couplings: Any,
    kick: Any,
    drift: Any,
    side: Any,
    lanes: Any,
    work: Any,
) -> None:
    """Set `p -= kick dS/dphi(source)`, then `target = source + drift p`, for a whole block.

    Args:
        source: fields with borders.
        target: fields with borders, in other memory.
        momentum: p, without borders.
        beside: see `neighbouring_rows`.
        couplings: see `Stencil.couplings`.
        kick: coefficient times step, of the dtype of the fields.
        drift: the same.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
        work: two rows, `(2, side lanes)`.
    """
    real = source.dtype.type
    rows, components = U(len(beside)), U(len(couplings) - 3)
    n, pitch = side * lanes, (side + _TWO) * lanes
    linear = kick * real(2) * (couplings[0] + couplings[1])
    cubic, links = kick * real(4) * couplings[2], kick * real(2)
    far, square = work[0], work[1]
    for r in range(rows):
        ahead, behind = beside[r, 0] * pitch + lanes, beside[r, 1] * pitch + lanes
        if components == 1 and beside.shape[1] == 2:
            constant, at, p_at = kick * couplings[3], r * pitch + lanes, r * n
            for i in range(n):
                phi = source[at + i]
                near = source[at + i - lanes] + source[at + i + lanes]
                total = near + (source[ahead + i] + source[behind + i])
                p = momentum[p_at + i] - ((linear + cubic * phi * phi) * phi - links * total - constant)
                momentum[p_at + i] = p
                target[at + i] = phi + drift * p
            wrap(target, at, n, lanes)
        else:
            squares(source, r * pitch + lanes, rows * pitch, n, components, square)
            for c in range(components):
                base, constant = c * rows * pitch, kick * couplings[U(3) + c]
                at, p_at, up, down = base + r * pitch + lanes, (c * rows + r) * n, base + ahead, base + behind
                far_neighbours(source, beside, r, base, pitch, n, lanes, far)
                for i in range(n):
                    phi = source[at + i]
                    near = source[at + i - lanes] + source[at + i + lanes]
                    total = near + (source[up + i] + source[down + i]) + far[i]
                    p = momentum[p_at + i] - ((linear + cubic * square[i]) * phi - links * total - constant)
                    momentum[p_at + i] = p
                    target[at + i] = phi + drift * p
                wrap(target, at, n, lanes)


@jit
def energies(
    field: Any,
    momentum: Any,
    beside: Any,
    couplings: Any,
    side: Any,
    lanes: Any,
    work: Any,
    sums: Any,
    out: Any,
) -> None:
    """Write `sum_x p_x^2 / 2 + S[phi]` of each chain to `out`, `(lanes,)`, summed in float64.

    Args:
        field: phi, with borders.
        momentum: p, without borders; empty to leave it out.
        beside: see `neighbouring_rows`.
        couplings: see `Stencil.couplings`.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
        work: two rows, `(2, side lanes)`.
        sums: a row in float64.
        out: where to write.
    """
    rows, components = U(len(beside)), U(len(couplings) - 3)
    n, pitch = side * lanes, (side + _TWO) * lanes
    half = field.dtype.type(0.5)
    m2, lam, half = couplings[1], couplings[2], field.dtype.type(0.5)
    far, square = work[0], work[1]
    sums[:] = 0
    for r in range(rows):
        squares(field, r * pitch + lanes, rows * pitch, n, components, square)
        for c in range(components):
            base, h = c * rows * pitch, couplings[U(3) + c]
            at, p_at, up = base + r * pitch + lanes, (c * rows + r) * n, base + beside[r, 0] * pitch + lanes
            far[:n] = 0
            for k in range(2, beside.shape[1], 2):
                ahead = base + beside[r, k] * pitch + lanes
                for i in range(n):
                    far[i] += (field[ahead + i] - field[at + i]) ** 2
            for i in range(n):
                phi = field[at + i]
                # Differences: products of large fields would cancel, at the cost of their last digits.
                along, across = field[at + i + lanes] - phi, field[up + i] - phi
                links = along * along + across * across + far[i]
                sums[i] += np.float64(links + ((m2 + lam * square[i]) * phi - h) * phi)
            if len(momentum) > 0:
                for i in range(n):
                    p = momentum[p_at + i]
                    sums[i] += np.float64(half * p * p)
    add_up(sums, n, lanes, out)


@inline
def add_up(sums: Any, n: Any, lanes: Any, out: Any) -> None:
    """Write the sum over the sites of a row to `out`, for each lane.

    Args:
        sums: a row in any dtype.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
        out: where the result goes, `(lanes,)`.
    """
    for lane in range(lanes):
        out[lane] = sums[lane]
    for at in range(lanes, n, lanes):
        for lane in range(lanes):
            out[lane] += sums[at + lane]
