"""The real Fourier basis of a lattice as dense matrices, one per axis, and transforms by matrix products.

Up to some hundred sites per axis such products are faster than an FFT, because they run at the full speed of
the machine. A kernel that is even under the reflection of each axis acts on the modes by a factor, `K(|k|)`.

The kernels work on blocks of a few configurations, so that the products are large enough on small lattices.
Fields of a block have the layout `(first axis, field, second axis)`, where `field` runs over channels and,
fastest, over configurations. In this layout each axis takes one product for all fields.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import jit

#: multiplications up to which OpenBLAS does not split a matrix product over threads of its own
LARGEST_SERIAL_PRODUCT = 262144
#: where all of this is, whatever torch's default device
CPU = torch.device("cpu")
#: sides above this are left to FFTs
MAX_SIDE = 128


def momenta(side: int) -> Tensor:
    """Return the index k of each mode of an axis: 0, 1, ..., side // 2 (cosines), then 1, 2, ... (sines)."""
    cosines, sines = torch.arange(side // 2 + 1, device=CPU), torch.arange(1, (side + 1) // 2, device=CPU)
    return torch.cat([cosines, sines])


@lru_cache(maxsize=64)
def matrix(side: int, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Return the orthogonal matrix from sites to modes of an axis, `(side, side)`.

    Args:
        side: number of sites.
        dtype: of the matrix.

    Returns:
        `(side, side)`, modes first.
    """
    x = torch.arange(side, dtype=torch.float64, device=CPU)
    k = torch.arange(side // 2 + 1, dtype=torch.float64, device=CPU)
    angle = 2 * math.pi * torch.outer(k, x) / side
    rows = torch.cat([angle.cos(), angle[1 : (side - 1) // 2 + 1].sin()])
    made: np.ndarray[Any, Any] = (rows / rows.norm(dim=1, keepdim=True)).to(dtype).contiguous().numpy()
    return made


def matrices(shape: tuple[int, int], dtype: torch.dtype) -> tuple[np.ndarray[Any, Any], ...]:
    """Return what `to_modes` and `to_sites` take: the matrices of both axes, plain and transposed.

    Args:
        shape: both sides of the lattice.
        dtype: of the matrices.

    Returns:
        `R_1, R_1^T, R_2, R_2^T`.
    """
    first, second = matrix(shape[0], dtype), matrix(shape[1], dtype)
    return first, np.ascontiguousarray(first.T), second, np.ascontiguousarray(second.T)


@jit
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
def product(a: Any, b: Any, out: Any) -> None:
    """Set `out = a @ b`, by parts of the rows if the product is large.

    Args:
        a: `(row, k)`.
        b: `(k, column)`.
        out: `(row, column)`, written.
    """
    rows = len(a)
    part = max(1, LARGEST_SERIAL_PRODUCT // (a.shape[1] * b.shape[1]))
    if part >= rows:
        np.dot(a, b, out)
    else:
        for first in range(0, rows, part):
            last = min(first + part, rows)
            np.dot(a[first:last], b, out[first:last])


@jit
def _both_axes(fields: Any, left: Any, right: Any, scratch: Any, out: Any) -> None:
    """Apply `right` to the second axis and `left` to the first one, for fields `(first, field, second)`."""
    rows, n_fields, columns = fields.shape
    lines, whole = (rows * n_fields, columns), (rows, n_fields * columns)
    product(fields.reshape(lines), right, scratch.reshape(lines))
    product(left, scratch.reshape(whole), out.reshape(whole))


@jit
def to_modes(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(first, field, second)` from sites to modes.

    Args:
        fields: on the sites.
        basis: see `matrices`.
        scratch: like `fields`, overwritten.
        out: like `fields`, written.
    """
    _both_axes(fields, basis[0], basis[3], scratch, out)


@jit
def to_sites(modes: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform modes `(first, field, second)` to sites.

    Args:
        modes: in modes.
        basis: see `matrices`.
        scratch: like `modes`, overwritten.
        out: like `modes`, written.
    """
    _both_axes(modes, basis[1], basis[2], scratch, out)


@jit
def load(fields: Any, first: Any, out: Any) -> None:
    """Copy configurations from `first` on of `(batch, V)` to a block `(first, configuration, second)`.

    Args:
        fields: `(batch, V)`.
        first: the first configuration.
        out: the block, written.
    """
    rows, size, columns = out.shape
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                out[x, n, y] = fields[first + n, x * columns + y]


@jit
def store(block: Any, first: Any, fields: Any) -> None:
    """Copy a block `(first, configuration, second)` back to `fields`, `(batch, V)`.

    Args:
        block: `(first, configuration, second)`.
        first: the first configuration.
        fields: `(batch, V)`, written from there on.
    """
    rows, size, columns = block.shape
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                fields[first + n, x * columns + y] = block[x, n, y]
