"""Transforms of the fields of a block to the modes of `equiflow.fused.modes` and back, axis after axis.

The kernels work on blocks of a few configurations, which stand together in groups. Fields of a block have the
layout `(first axis, field, second axis, configuration of a group)`, where `field` runs over channels and,
fastest, over groups; the last two axes are one axis of the arrays, a row. Rows are whole vectors, see
`configurations_together`. The first axis is folded, then each number of a matrix multiplies vectors of a row.
The second axis is folded while halves are whole vectors, then each group of a row multiplies vectors of a
matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from equiflow.fused import modes
from equiflow.fused.groups import SIZES
from equiflow.fused.just_in_time import inline, jit, jit_within
from equiflow.fused.products import multiply, multiply_rows
from equiflow.fused.vectors import (
    BYTES,
    flat,
    lanes_of,
    load,
    stay_apart,
    store,
)

SHORT = modes.SHORT
#: rows above this stand alone where they can
LONG = 32


@lru_cache(maxsize=64)
def _first_axis(side: int, dtype: torch.dtype) -> tuple[np.ndarray[Any, Any], ...]:
    """Return what `transform_first` takes: blocks, entries, and those of the transposed matrices."""
    folds = np.eye(side, -(-side // 8) * 8)  # rows of whole vectors
    fold(folds.reshape(-1), side)
    folds = folds[:, :side]
    dense = modes.matrix(side, torch.float64) @ np.linalg.inv(folds)
    bounds = modes.blocks(side)
    parts = [dense[first : first + n, first : first + n] for first, n in bounds]
    starts = np.cumsum([0] + [n * n for _, n in bounds[:-1]])
    blocks = np.array([(first, n, start) for (first, n), start in zip(bounds, starts, strict=True)])
    return blocks, _joined(parts, dtype), _joined([x.T for x in parts], dtype)


@lru_cache(maxsize=64)
def _second_axis(side: int, dtype: torch.dtype) -> tuple[np.ndarray[Any, Any], ...]:
    """Return what `transform_second` takes: blocks, entries, and those of the transposed matrices.

    Each entry stands there for all configurations of a group.
    """
    bounds: list[tuple[int, int]] = []
    together, folds, n = configurations_together(side, dtype), np.eye(side), side
    while n * together % (2 * _lanes(dtype)) == 0 and modes.folds(n):
        half = n // 2
        top, bottom = folds[:half].copy(), folds[half:n].copy()
        folds[:half], folds[half:n] = top + bottom, top - bottom
        bounds.insert(0, (half, half))
        n = half
    bounds.insert(0, (0, n))
    dense = modes.matrix(side, torch.float64) @ np.linalg.inv(folds)
    parts = [dense[first : first + n, first : first + n] for first, n in bounds]
    there, back = ([np.repeat(x, together, axis=1) for x in y] for y in ([x.T for x in parts], parts))
    starts = np.cumsum([0] + [x.size for x in there[:-1]])
    blocks = np.array([(first, n, start) for (first, n), start in zip(bounds, starts, strict=True)])
    return blocks, _joined(there, dtype), _joined(back, dtype)


def _joined(parts: list[np.ndarray[Any, Any]], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Return all entries in one array from a cache line on, as `aligned`: they are loaded as vectors."""
    entries = np.concatenate([x.ravel() for x in parts])
    memory = np.empty(len(entries) + BYTES, torch.empty(0, dtype=dtype).numpy().dtype)
    skipped = -(memory.ctypes.data // memory.itemsize) % (BYTES // memory.itemsize)
    joined = memory[skipped : skipped + len(entries)]
    joined[:] = entries
    return joined


def axes(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Any, Any, int]:
    """Return what `to_modes` and `to_sites` take: the matrices of both axes, and the size of groups.

    Args:
        shape: both sides of the lattice.
        dtype: of the fields.

    Returns:
        For each axis its blocks, `(block, 3)`: first mode, number of modes, first entry; the entries, and
        those of the way back. Then the configurations of a group.
    """
    together = configurations_together(shape[1], dtype)
    return _first_axis(shape[0], dtype), _second_axis(shape[1], dtype), together


def _lanes(dtype: torch.dtype) -> int:
    return BYTES // dtype.itemsize


def configurations_together(columns: int, dtype: torch.dtype) -> int:
    """Return how many configurations form a group, so that rows, and halves that are folded, are vectors.

    Args:
        columns: length of the second axis.
        dtype: of the fields.

    Returns:
        One of `groups.SIZES`, at most the lanes of a vector.
    """
    lanes, parts = _lanes(dtype), 2 if modes.folds(columns) else 1
    one, some, many = SIZES
    # Two vectors of a group share what they load; the groups of long rows would leave the cache.
    for number in (some, one) if columns <= LONG else (one, some):
        if number * columns % (parts * lanes) == 0:
            return number
    return min(lanes, many)


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


@jit_within
def transform_first(fields: Any, rows: int, axis: Any, inverse: bool, out: Any) -> None:
    """Transform the first axis of fields.

    Args:
        fields: `(first, field, row)`, flat; overwritten unless `inverse`.
        rows: length of the first axis.
        axis: see `axes`.
        inverse: whether to sites.
        out: like `fields`, written.
    """
    stay_apart()
    if inverse:
        multiply(fields, len(fields) // rows, axis[0], axis[2], out)
        unfold(out, rows)
    else:
        fold(fields, rows)
        multiply(fields, len(fields) // rows, axis[0], axis[1], out)


@jit
def fold(fields: Any, rows: int) -> None:
    """Fold the first axis in place.

    Args:
        fields: `(first, field, row)`, flat.
        rows: length of the first axis.
    """
    n, width = rows, len(fields) // rows
    while n % 2 == 0 and n > SHORT:
        half = n // 2
        for x in range(half):
            _sum_and_difference(fields, x * width, (x + half) * width, width)
        if half % 2 == 0 and half > SHORT:
            for x in range(1, half // 2):
                _sum_and_difference(fields, (n - x) * width, (half + x) * width, width)
        n = half


@jit_within
def unfold(fields: Any, rows: int) -> None:
    """Apply the transposed matrix of `fold` in place.

    Args:
        fields: `(first, field, row)`, flat.
        rows: length of the first axis.
    """
    n, width = rows, len(fields) // rows
    while n % 2 == 0 and n > SHORT:
        n //= 2
    while n < rows:
        half, n = n, 2 * n
        if half % 2 == 0 and half > SHORT:
            for x in range(1, half // 2):
                _sum_and_difference(fields, (n - x) * width, (half + x) * width, width)
        for x in range(half):
            _sum_and_difference(fields, x * width, (x + half) * width, width)


@inline
def _sum_and_difference(fields: Any, first: int, second: int, n: int) -> None:
    """Replace n numbers from each of two places on by their sums, and by the first less the second."""
    for k in range(0, n, lanes_of(fields)):
        a, b = load(fields, first + k), load(fields, second + k)
        store(a + b, fields, first + k)
        store(a - b, fields, second + k)


@jit_within
def transform_second(fields: Any, length: int, together: int, axis: Any, inverse: bool, out: Any) -> None:
    """Transform the second axis of fields.

    Args:
        fields: rows, flat; overwritten unless `inverse`.
        length: of a row, `together` times that of the axis.
        together: configurations of a group.
        axis: see `axes`.
        inverse: whether to sites.
        out: like `fields`, written.
    """
    stay_apart()
    blocks = axis[0]
    if inverse:
        multiply_rows(fields, length, together, blocks, axis[2], out)
        for block in range(1, len(blocks)):
            half = blocks[block, 0] * together
            for row in range(0, len(out), length):
                _sum_and_difference(out, row, row + half, half)
    else:
        for block in range(len(blocks) - 1, 0, -1):
            half = blocks[block, 0] * together
            for row in range(0, len(fields), length):
                _sum_and_difference(fields, row, row + half, half)
        multiply_rows(fields, length, together, blocks, axis[1], out)


@jit_within
def to_modes(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(first, field, row)` from sites to modes.

    Args:
        fields: on the sites; overwritten.
        basis: see `axes`.
        scratch: at least as many numbers, flat, overwritten.
        out: like `fields`, written.
    """
    _transform(fields, basis, False, scratch, out)


@jit_within
def to_sites(modes: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform modes `(first, field, row)` to sites.

    Args:
        modes: in modes.
        basis: see `axes`.
        scratch: at least as many numbers, flat, overwritten.
        out: like `modes`, written.
    """
    _transform(modes, basis, True, scratch, out)


@jit_within
def _transform(fields: Any, basis: Any, inverse: bool, scratch: Any, out: Any) -> None:
    stay_apart()
    rows, size = len(fields), fields.size
    transform_first(flat(fields), rows, basis[0], inverse, scratch[:size])
    transform_second(scratch[:size], fields.shape[2], basis[2], basis[1], inverse, flat(out))


@jit_within
def load_block(fields: Any, first: int, size: int, together: int, out: Any) -> None:
    """Copy `size` configurations of `(batch, V)` to a block, `(first, group, row)`, then zeros.

    Args:
        fields: `(batch, V)`.
        first: the first configuration.
        size: number of configurations, at most those of the block.
        together: configurations of a group.
        out: the block, written.
    """
    rows, n_groups, length = out.shape
    columns = length // together
    for x in range(rows):
        for n in range(n_groups * together):
            group, lane = n // together, n % together
            if n >= size:
                for y in range(lane, length, together):
                    out[x, group, y] = 0
            elif together == 1:  # a loop of its own is copied by vectors
                for y in range(columns):
                    out[x, n, y] = fields[first + n, x * columns + y]
            else:
                for y in range(columns):
                    out[x, group, y * together + lane] = fields[first + n, x * columns + y]


@jit_within
def store_block(block: Any, first: int, size: int, together: int, fields: Any) -> None:
    """Copy `size` configurations of a block, `(first, group, row)`, back to `fields`, `(batch, V)`.

    Args:
        block: `(first, group, row)`.
        first: the first configuration.
        size: number of configurations.
        together: configurations of a group.
        fields: `(batch, V)`, written from there on.
    """
    rows, _, length = block.shape
    columns = length // together
    for x in range(rows):
        for n in range(size):
            group, lane = n // together, n % together
            if together == 1:
                for y in range(columns):
                    fields[first + n, x * columns + y] = block[x, n, y]
            else:
                for y in range(columns):
                    fields[first + n, x * columns + y] = block[x, group, y * together + lane]
