"""Transforms of the fields of a block to the modes of `equiflow.fused.modes` and back, axis after axis.

The kernels work on blocks of a few configurations. Fields of a block have the layout `(first axis, field,
second axis)`, where `field` runs over channels and, fastest, over configurations. Their numbers in each row
fill whole vectors; see `configurations_per_vector`. The first axis is folded, then each number of a matrix
multiplies vectors of a row. The second axis is folded while halves are whole vectors, then each number of a
row multiplies vectors of a matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from equiflow.fused import modes
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

    Rows of a block are filled up with zeros to whole vectors.
    """
    bounds: list[tuple[int, int]] = []
    lanes, folds, n = BYTES // dtype.itemsize, np.eye(side), side
    while n % (2 * lanes) == 0 and n > SHORT:
        half = n // 2
        top, bottom = folds[:half].copy(), folds[half:n].copy()
        folds[:half], folds[half:n] = top + bottom, top - bottom
        bounds.insert(0, (half, half))
        n = half
    bounds.insert(0, (0, n))
    dense = modes.matrix(side, torch.float64) @ np.linalg.inv(folds)
    parts = [dense[first : first + n, first : first + n] for first, n in bounds]
    padding = [(0, 0), (0, -n % lanes)]
    there, back = [np.pad(x.T, padding) for x in parts], [np.pad(x, padding) for x in parts]
    starts = np.cumsum([0] + [x.size for x in there[:-1]])
    blocks = np.array([(first, n, start) for (first, n), start in zip(bounds, starts, strict=True)])
    return blocks, _joined(there, dtype), _joined(back, dtype)


def _joined(parts: list[np.ndarray[Any, Any]], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return np.concatenate([x.ravel() for x in parts]).astype(kind)


def axes(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Any, Any]:
    """Return what `to_modes` and `to_sites` take: the matrices of both axes.

    Args:
        shape: both sides of the lattice.
        dtype: of the fields.

    Returns:
        For each axis its blocks, `(block, 3)`: first mode, number of modes, first entry; the entries, and
        those of the way back.
    """
    return _first_axis(shape[0], dtype), _second_axis(shape[1], dtype)


@jit
def configurations_per_vector(columns: int, like: Any) -> int:
    """Return the number that divides the configurations of a block, so that vectors fill its rows.

    Args:
        columns: length of the second axis.
        like: an array of the dtype.

    Returns:
        A power of 2; 1 if the side is a multiple of the length of a vector.
    """
    number = 1
    while number * columns % lanes_of(like) != 0:
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


@jit_within
def transform_first(fields: Any, rows: int, axis: Any, inverse: bool, out: Any) -> None:
    """Transform the first axis of fields.

    Args:
        fields: `(first, field, second)`, flat; overwritten unless `inverse`.
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
        fields: `(first, field, second)`, flat.
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
        fields: `(first, field, second)`, flat.
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
def transform_second(fields: Any, columns: int, axis: Any, inverse: bool, out: Any) -> None:
    """Transform the second axis of fields.

    Args:
        fields: rows of `columns` numbers, flat; overwritten unless `inverse`.
        columns: length of the second axis.
        axis: see `axes`.
        inverse: whether to sites.
        out: like `fields`, written.
    """
    stay_apart()
    blocks = axis[0]
    if inverse:
        multiply_rows(fields, columns, blocks, axis[2], out)
        for block in range(1, len(blocks)):
            half = blocks[block, 0]
            for row in range(0, len(out), columns):
                _sum_and_difference(out, row, row + half, half)
    else:
        for block in range(len(blocks) - 1, 0, -1):
            half = blocks[block, 0]
            for row in range(0, len(fields), columns):
                _sum_and_difference(fields, row, row + half, half)
        multiply_rows(fields, columns, blocks, axis[1], out)


@jit_within
def to_modes(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(first, field, second)` from sites to modes.

    Args:
        fields: on the sites; overwritten.
        basis: see `axes`.
        scratch: at least as many numbers, flat, overwritten.
        out: like `fields`, written.
    """
    _transform(fields, basis, False, scratch, out)


@jit_within
def to_sites(modes: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform modes `(first, field, second)` to sites.

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
    transform_second(scratch[:size], fields.shape[2], basis[1], inverse, flat(out))


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
