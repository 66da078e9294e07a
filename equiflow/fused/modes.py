"""The real Fourier basis of a lattice as matrices, one per axis, and how they come apart.

A kernel that is even under the reflection of each axis acts on the modes by a factor, `K(|k|)`.

An axis of even length is folded before it is multiplied by a matrix. Modes of even k see the sums of sites
half an axis apart, modes of odd k their differences; the sums are an axis of half the length, and are folded
again. Of the differences, cosines see the odd part and sines the even part under reflection about a quarter
of the axis. What remains are small dense matrices: 22 multiplications per site for an axis of 128, not 128.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: where all of this is, whatever torch's default device
CPU = torch.device("cpu")
#: sides above this are left to FFTs
MAX_SIDE = 128
#: axes of this length are not folded: passes through memory would cost more than a dense matrix
SHORT = 8


def momenta(side: int) -> Tensor:
    """Return the index k of each mode of an axis, in their order: modes of even k, cosines, sines of odd k.

    The modes of even k are twice those of an axis of half the length. Axes that are not folded have all
    cosines first.

    Args:
        side: number of sites.

    Returns:
        `(side,)`.
    """
    return _modes(side)[0]


def _modes(side: int) -> tuple[Tensor, Tensor]:
    """Return the index k of each mode of an axis, and whether it is a sine."""
    even, step = torch.arange(0, device=CPU), 1
    kinds = even.bool()
    if folds(side):
        even, kinds = _modes(side // 2)
        step = 2
    cosines = torch.arange(step - 1, side // 2 + 1, step, device=CPU)
    sines = torch.arange(1, (side + 1) // 2, step, device=CPU)
    are_sines = torch.cat([torch.zeros_like(cosines), torch.ones_like(sines)]).bool()
    return torch.cat([2 * even, cosines, sines]), torch.cat([kinds, are_sines])


def folds(side: int) -> bool:
    """Return whether an axis of this length is folded."""
    return side % 2 == 0 and side > SHORT


def blocks(side: int) -> list[tuple[int, int]]:
    """Return the first mode and the number of modes of each dense matrix.

    Args:
        side: number of sites.

    Returns:
        A list of both, in the order of the modes.
    """
    if not folds(side):
        return [(0, side)]
    half = side // 2
    odd = [(half, half // 2), (half + half // 2, half // 2)] if folds(half) else [(half, half)]
    return blocks(half) + odd


@lru_cache(maxsize=64)
def matrix(side: int, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Return the orthogonal matrix from sites to modes of an axis, `(side, side)`.

    Args:
        side: number of sites.
        dtype: of the matrix.

    Returns:
        `(side, side)`, modes first.
    """
    k, are_sines = _modes(side)
    x = torch.arange(side, dtype=torch.float64, device=CPU)
    angle = 2 * math.pi * torch.outer(k.to(x), x) / side
    rows = torch.where(are_sines[:, None], angle.sin(), angle.cos())
    made: np.ndarray[Any, Any] = (rows / rows.norm(dim=1, keepdim=True)).to(dtype).contiguous().numpy()
    return made
