"""The XY model solved exactly by characters: rings, and strips of up to three sites in a slice.

With `exp(beta cos theta) = sum_k I_k(beta) exp(i k theta)` the transfer matrix acts on integer charges, one
for each site of a slice. Links along time contribute `prod_i I_{k_i}`. Links inside a slice shift charges.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import iv


@dataclass(frozen=True)
class ExactXY:
    """Exact results.

    Attributes:
        log_z: log of the partition function.
        energy: `-sum_mu cos(theta(x + mu) - theta(x))` per site.
        helicity_modulus: stiffness against a twist along the first direction.
    """

    log_z: float
    energy: float
    helicity_modulus: float


def ring(beta: float, length: int) -> ExactXY:
    """Solve a ring: `Z = (2 pi)^L sum_k I_k^L`; a twist of all links gives charge k the phase `k L phi`."""
    k = np.arange(-40, 41)
    weight = iv(k, beta)
    z = (weight**length).sum()
    slope = (weight ** (length - 1) * (iv(k - 1, beta) + iv(k + 1, beta)) / 2).sum() / z
    stiffness = length * (k**2 * weight**length).sum() / (z * beta)
    return ExactXY(length * math.log(2 * math.pi) + math.log(z), -slope, stiffness)


def ring_two_point(beta: float, length: int) -> list[float]:
    """Return `<cos(theta(x + t) - theta(x))> = sum_k I_k^(L - t) I_{k+1}^t / sum_k I_k^L` for each t."""
    k = np.arange(-40, 41)
    terms = [iv(k, beta) ** (length - t) * iv(k + 1, beta) ** t for t in range(length)]
    return [float(term.sum() / terms[0].sum()) for term in terms]


def strip(beta: float, width: int, length: int) -> ExactXY:
    """Solve the lattice `(length, width)` for beta < 1, to 1e-8; the helicity modulus is along `length`."""
    cut = 12 // width

    def log_z(b: float) -> float:
        return width * length * math.log(2 * math.pi) + math.log(np.trace(_power(b, width, length, cut)))

    charges, full = _charges(width, cut), _power(beta, width, length, cut)
    z, step = np.trace(full), 1e-3
    squared = (full.diagonal() * charges.sum(1) ** 2).sum() / z
    slope = sum(c * log_z(beta + n * step) for n, c in ((-2, 1), (-1, -8), (1, 8), (2, -1))) / (12 * step)
    volume = width * length
    return ExactXY(log_z(beta), -slope / volume, length**2 * squared / (beta * volume))


def _charges(width: int, cut: int) -> np.ndarray:
    """Return all charges of a slice up to `cut`, `(state, width)`."""
    return np.array(list(itertools.product(range(-cut, cut + 1), repeat=width)))


def _power(beta: float, width: int, n: int, cut: int) -> np.ndarray:
    """Return the transfer matrix, divided by `(2 pi)^width`, to the power n."""
    charges, grid = _charges(width, cut), 32
    angle = np.meshgrid(*[2 * math.pi * np.arange(grid) / grid] * width, indexing="ij")
    inside = sum(np.cos(angle[(i + 1) % width] - angle[i]) for i in range(width))
    shifts = np.fft.fftn(np.exp(beta * inside)).real / grid**width
    difference = (charges[:, None] - charges[None]) % grid
    across = shifts[tuple(difference[..., i] for i in range(width))]
    along = iv(charges, beta).prod(1)
    return np.linalg.matrix_power(across * along, n)
