"""Character expansions of the weight of a plaquette: what is exact in two-dimensional gauge theory.

The weight `exp(beta Re tr U / N)` is `sum_r d_r lambda_r chi_r(U)` over irreducible representations r of
dimension d_r. Start with `characters`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equiflow.theories.gauge.lie_group import LieGroup

#: weights below this, relative to the largest, are left out
NEGLIGIBLE = 1e-18
#: most representations that are kept; more are needed only for very large beta
MOST_REPRESENTATIONS = 20_000
#: largest |n| of U(1), where the weights of fractional n fall slowly
LARGEST_CHARGE = 512
#: nodes of the rule of Gauss in each part of a turn, and the oscillations in such a part
NODES, OSCILLATIONS = 32, 1.0


@dataclass(frozen=True)
class Characters:
    """The coefficients lambda of a plaquette, and how representations are multiplied.

    Attributes:
        log_scale: log of the coefficient of the trivial representation.
        ratio: coefficients over that of the trivial representation, `(representation,)`; complex for U(1)
            with a theta.
        dimension: of the representations.
        fundamental: pairs (r, s) of which s occurs in the product of r and the fundamental one, `(pair, 2)`.
        n: N of the group.
    """

    log_scale: float
    ratio: np.ndarray
    dimension: np.ndarray
    fundamental: np.ndarray
    n: int

    def slope(self) -> np.ndarray:
        """Return `d lambda_r / d beta` over the coefficient of the trivial representation.

        `d_r dlambda_r/dbeta = sum_s d_s lambda_s / (2 N)`, where s is in the product of r with the
        fundamental representation or its conjugate.
        """
        weighted, total = self.dimension * self.ratio, np.zeros_like(self.ratio)
        for one, other in ((0, 1), (1, 0)):
            np.add.at(total, self.fundamental[:, one], weighted[self.fundamental[:, other]])
        return total / (2 * self.n * self.dimension)


def characters(lie: LieGroup, beta: float, volume: int, nu: complex = 0.0) -> Characters:
    """Expand the weight of a plaquette, as far as powers of the coefficients matter.

    Args:
        lie: the group.
        beta: coupling.
        volume: the power; coefficients whose power is negligible are left out.
        nu: for U(1), added to the integers: `lambda_n = int dP/2pi exp(beta cos P) cos((n + nu) P)`.

    Returns:
        The coefficients.

    Raises:
        ValueError: if too many representations matter.
    """
    size = 4
    while True:
        found = _of_angles(beta, size, nu) if lie.is_abelian else _of_matrices(lie.n, beta, size)
        weight = np.abs(found.ratio) ** volume
        edge = weight[_is_edge(found, size, lie)]
        if edge.size and edge.max() * size**2 < NEGLIGIBLE * weight.max():
            return found
        if size >= LARGEST_CHARGE if lie.is_abelian else len(found.ratio) >= MOST_REPRESENTATIONS:
            raise ValueError(
                f"More than {len(found.ratio)} representations of {lie} matter at beta = {beta} on few "
                "plaquettes; expected a smaller coupling or a larger lattice."
            )
        size *= 2


def _is_edge(found: Characters, size: int, lie: LieGroup) -> np.ndarray:
    """Return which representations are the last ones that were kept."""
    if lie.is_abelian:
        return np.abs(np.arange(-size, size + 1)) == size
    return np.array([rows[0] == size for rows in _partitions(lie.n, size)])


def _of_angles(beta: float, size: int, nu: complex) -> Characters:
    """Return the coefficients of U(1) for `n = -size ... size`."""
    charges = np.arange(-size, size + 1)
    values = integral_over_angle(beta, charges + nu, lambda angle, phase: np.cos(phase))
    scale = values[size]
    pairs = np.stack([np.arange(2 * size), np.arange(1, 2 * size + 1)], 1)
    if nu == 0:
        values = _without_noise(values)
    return Characters(math.log(abs(scale)) + abs(beta), values / scale, np.ones(2 * size + 1), pairs, 1)


def integral_over_angle(
    beta: float, nu: np.ndarray, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return `exp(-|beta|) int dP / 2 pi exp(beta cos P) f(P, nu P)` over a turn, for each nu.

    By the rule of Gauss in parts of the turn with few oscillations, which is exact to rounding.

    Args:
        beta: coupling.
        nu: frequencies, `(n,)`, real or complex.
        function: f of P and `nu P`, `(node,)` and `(n, node)`.

    Returns:
        `(n,)`.
    """
    n_parts = math.ceil((8 + np.abs(nu).max() + math.sqrt(abs(beta))) / OSCILLATIONS)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    middles = (2 * np.arange(n_parts) + 1) / n_parts - 1
    angle = math.pi * (middles[:, None] + nodes / n_parts).ravel()
    density = 0.5 * np.tile(weights, n_parts) / n_parts * np.exp(beta * np.cos(angle) - abs(beta))
    values: np.ndarray = function(angle, nu[:, None] * angle) @ density
    return values


def _partitions(n: int, size: int) -> list[tuple[int, ...]]:
    """Return the rows `size >= l_1 >= ... >= l_N = 0` of the diagrams of SU(N), the empty one first."""
    rows = itertools.combinations_with_replacement(range(size + 1), n - 1)
    return [(*sorted(row, reverse=True), 0) for row in rows]


def _of_matrices(n: int, beta: float, size: int) -> Characters:
    """Return the coefficients of SU(N): `lambda_r = sum_k det_ij I_{l_j - j + i + k}(beta / N) / d_r`."""
    from scipy.special import ive  # here, because it takes longer to import than all of this package

    rows = _partitions(n, size)
    lengths = np.array(rows)
    spread = math.ceil(math.sqrt(80 * abs(beta) / n) + 40)
    order = np.arange(-(2 * size + spread + 2 * n), 2 * size + spread + 2 * n + 1)
    bessel, offset = ive(order, beta / n), -int(order[0])
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    total = np.zeros(len(rows))
    for k in range(-(size + spread), spread + 1):
        total += np.linalg.det(bessel[lengths[:, None, :] - j + i + k + offset])
    dimension = np.ones(len(rows))
    for a, b in itertools.combinations(range(n), 2):
        dimension *= (lengths[:, a] - lengths[:, b] + b - a) / (b - a)
    values = _without_noise(total) / dimension
    index = {row: r for r, row in enumerate(rows)}
    pairs = [(r, index[box]) for row, r in index.items() for box in _with_a_box(row) if box in index]
    return Characters(math.log(values[0]) + abs(beta), values / values[0], dimension, np.array(pairs), n)


def _without_noise(values: np.ndarray) -> np.ndarray:
    """Return zero where a value is smaller than the rounding of the largest, and so of either sign."""
    return np.where(np.abs(values) > 1e-15 * np.abs(values).max(), values, 0.0)


def _with_a_box(row: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the diagrams in the product of one with the fundamental representation, columns of N removed."""
    grown = [
        tuple(length + (a == at) for a, length in enumerate(row))
        for at in range(len(row))
        if at == 0 or row[at - 1] > row[at]
    ]
    return [tuple(length - box[-1] for length in box) for box in grown]
