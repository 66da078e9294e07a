"""The real Fourier basis of a lattice as dense matrices, one per axis, and transforms by matrix products.

Up to some hundred sites per axis such products are faster than an FFT, because they run at the full speed of
the machine. A kernel that is even under the reflection of each axis acts on the modes by a factor, `K(|k|)`.
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
#: sides above this are left to FFTs
MAX_SIDE = 128


def momenta(side: int) -> Tensor:
    """Return the index k of each mode of an axis: 0, 1, ..., side // 2 (cosines), then 1, 2, ... (sines)."""
    return torch.cat([torch.arange(side // 2 + 1), torch.arange(1, (side - 1) // 2 + 1)])


@lru_cache(maxsize=64)
def matrix(side: int, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Return the orthogonal matrix from sites to modes of an axis, `(side, side)`."""
    x, k = torch.arange(side, dtype=torch.float64), torch.arange(side // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * torch.outer(k, x) / side
    rows = torch.cat([angle.cos(), angle[1 : (side - 1) // 2 + 1].sin()])
    made: np.ndarray[Any, Any] = (rows / rows.norm(dim=1, keepdim=True)).to(dtype).contiguous().numpy()
    return made


def matrices(shape: tuple[int, int], dtype: torch.dtype) -> tuple[np.ndarray[Any, Any], ...]:
    """Return what `to_modes` and `to_sites` take: the matrices of both axes, plain and transposed."""
    first, second = matrix(shape[0], dtype), matrix(shape[1], dtype)
    return first, np.ascontiguousarray(first.T), second, np.ascontiguousarray(second.T)


@jit
def _both_axes(fields: Any, left: Any, right: Any, scratch: Any, out: Any) -> None:
    """Set `out_c = left @ fields_c @ right` for fields `(channel, V)`."""
    n_fields, rows, columns = len(fields), len(left), len(right)
    if n_fields * rows * columns * columns <= LARGEST_SERIAL_PRODUCT:
        joined = n_fields * rows, columns
        np.dot(fields.reshape(joined), right, scratch[:n_fields].reshape(joined))
    else:
        for c in range(n_fields):
            np.dot(fields[c].reshape(rows, columns), right, scratch[c].reshape(rows, columns))
    for c in range(n_fields):
        np.dot(left, scratch[c].reshape(rows, columns), out[c].reshape(rows, columns))


@jit
def to_modes(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(channel, V)` from sites to modes."""
    _both_axes(fields, basis[0], basis[3], scratch, out)


@jit
def to_sites(modes: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Transform modes `(channel, V)` to sites."""
    _both_axes(modes, basis[1], basis[2], scratch, out)
