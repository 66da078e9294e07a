"""Actions that the fused kernels of samplers know: nearest neighbours and a quartic potential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import in_use

#: bytes of one field in a block of chains; three of them share the cache of a core
BLOCK_BYTES = 2**17
#: most chains in a block
MOST_LANES = 32


@dataclass(frozen=True)
class Stencil:
    """The action `S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam |phi|^4 - h . phi]`.

    Attributes:
        sides: of the lattice, of any dimension.
        m2: mass squared.
        lam: quartic coupling.
        h: external field, one number for each component of phi.
    """

    sides: tuple[int, ...]
    m2: float
    lam: float
    h: tuple[float, ...] = (0.0,)

    @property
    def size(self) -> int:
        """Number of real numbers in a configuration."""
        return len(self.h) * math.prod(self.sides)

    def fits(self, phi: Tensor) -> bool:
        """Return whether kernels are in use and can work on these fields, `(batch, *shape)`."""
        return (
            in_use()
            and type(phi) is Tensor
            and phi.is_cpu
            and (phi.dtype == torch.float32 or phi.dtype == torch.float64)
            and phi.numel() > 0
        )

    def couplings(self, dtype: Any) -> Any:
        """Return what kernels take: `2 d`, m2, lam and h, in the dtype of the fields."""
        return np.array([2 * max(2, len(self.sides)), self.m2, self.lam, *self.h], dtype)

    def lanes(self, n_chains: int, itemsize: int) -> int:
        """Return how many chains fill a block: a power of two that keeps it in the cache.

        Args:
            n_chains: number of chains.
            itemsize: bytes of a number.

        Returns:
            A power of two.
        """
        most = min(MOST_LANES, max(1, BLOCK_BYTES // (itemsize * self.size)), n_chains)
        return 1 << (most.bit_length() - 1)


@cache
def neighbouring_rows(sides: tuple[int, ...]) -> Any:
    """Return the numbers of the rows beside each row, a row being the sites along the last axis.

    Args:
        sides: of the lattice.

    Returns:
        `(rows, 2 max(1, d - 1))` uint64, ahead and behind along each axis. In one dimension the row is its
        own neighbour along an axis of length 1, whose links cost nothing.
    """
    shape = sides[:-1] or (1,)
    row = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    found = [np.roll(row, shift, axis) for axis in range(len(shape)) for shift in (-1, 1)]
    return np.ascontiguousarray(np.stack(found, -1).reshape(-1, 2 * len(shape)))


def as_matrix(phi: Tensor) -> Any:
    """Return fields as a contiguous array, `(batch, size)`, without a copy if they are contiguous."""
    array = phi.detach().contiguous().numpy()
    return array.reshape(array.shape[0], -1)
