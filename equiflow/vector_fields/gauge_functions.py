"""Functions of Wilson loops and their derivatives: `LoopFunctions`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.theories.gauge.lie_group import LieGroup

Powers = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class LoopFunctions:
    """The functions `w^j z^k` of loops from every site, with derivatives, where `w + i z = tr(loop) / N`.

    Attributes:
        w: `(batch, *lattice)`.
        values: the functions, `(batch, *lattice)` each.
        vectors: derivatives of w and, for N > 2, of z when the loop is turned at its beginning, `(generator,
            batch, *lattice)` each.
        slopes: for each function its derivatives by w and z, `(batch, *lattice)`.
        bends: for each function its Laplacian by one link.
    """

    w: Tensor
    values: list[Tensor]
    vectors: tuple[Tensor, ...]
    slopes: list[tuple[Tensor, ...]]
    bends: list[Tensor]

    @classmethod
    def of(cls, lie: LieGroup, loop: Tensor, powers: Powers, *, sign: float = 1.0) -> LoopFunctions:
        """Return the functions of loops.

        The Laplacian of F is `F_ww |dw|^2 + 2 F_wz dw . dz + F_zz |dz|^2 - C (F_w w + F_z z)`, where
        `sum_a T_a T_a = -C`.

        Args:
            lie: group of the links.
            loop: planes of the loops.
            powers: the pairs j, k.
            sign: -1.0 for derivatives when the loop is turned the other way.

        Returns:
            The functions.
        """
        casimir, vectors = (lie.n**2 - 1) / (2 * lie.n), slopes_of(lie, loop, sign=sign)
        if lie.n == 2:
            w = lie.trace(loop)
            z = torch.zeros_like(w)
        else:
            trace = lie.complex_trace(loop)
            w, z = trace.real, trace.imag
        products = [[(a * b).sum(0) for b in vectors] for a in vectors]
        values, slopes, bends = [], [], []
        for j, k in powers:
            of_w, of_z = (_monomial(w, z, (j, k), orders) for orders in ((1, 0), (0, 1)))
            bend = _monomial(w, z, (j, k), (2, 0)) * products[0][0] - casimir * of_w * w
            if lie.n > 2:
                mixed = 2 * _monomial(w, z, (j, k), (1, 1)) * products[0][1]
                bend = bend + mixed + _monomial(w, z, (j, k), (0, 2)) * products[1][1] - casimir * of_z * z
            values.append(w**j * z**k)
            slopes.append((of_w, of_z)[: len(vectors)])
            bends.append(bend)
        return cls(w, values, vectors, slopes, bends)

    def value(self, weights: Tensor) -> Tensor:
        """Return the sum of the functions with weights, `(batch, *lattice)`."""
        return _combined(weights, self.values)

    def gradient(self, weights: Tensor) -> Tensor:
        """Return the derivative of this sum when the loop is turned at its beginning, like a vector."""
        factors = [_combined(weights, [of[n] for of in self.slopes]) for n in range(len(self.vectors))]
        pairs = zip(factors, self.vectors, strict=True)
        return torch.stack([factor * vector for factor, vector in pairs]).sum(0)

    def bend(self, weights: Tensor) -> Tensor:
        """Return the Laplacian of this sum by one link, `(batch, *lattice)`."""
        return _combined(weights, self.bends)

    def changes(self, overlaps: Sequence[Any], near: Any) -> list[Tensor]:
        """Return `dF . v + near bend` for each function F, shaped like w.

        Args:
            overlaps: how w and z change, shaped like w each.
            near: factor of the Laplacian, a number or shaped like w.

        Returns:
            One tensor for each function.
        """
        found = []
        for slopes, bend in zip(self.slopes, self.bends, strict=True):
            value = near * bend
            for overlap, slope in zip(overlaps, slopes, strict=True):
                value = value + overlap * slope
            found.append(value)
        return found

    def rates(self, overlaps: Sequence[Any], near: Any) -> list[Tensor]:
        """Return the sums of `changes` over all sites, `(batch,)` each.

        Args:
            overlaps: how w and z change, `(batch, *lattice)` each.
            near: factor of the Laplacian, a number or `(batch, *lattice)`.

        Returns:
            One tensor for each function.
        """
        return [change.flatten(1).sum(1) for change in self.changes(overlaps, near)]


def slopes_of(lie: LieGroup, loop: Tensor, *, sign: float = 1.0) -> tuple[Tensor, ...]:
    """Return the derivatives of w and, for N > 2, of z when a loop is turned at its beginning.

    Args:
        lie: group of the links.
        loop: planes of the loops.
        sign: -1.0 if it is turned the other way.

    Returns:
        `(generator, batch, *lattice)` each.
    """
    of_w = -sign * lie.slope(loop)
    return (of_w,) if lie.n == 2 else (of_w, -sign * lie.slope(-1j * loop))


def powers_up_to(degree: int, *, with_imaginary: bool) -> list[tuple[int, int]]:
    """Return the powers of w and z in polynomials, without the constant.

    Args:
        degree: largest sum of both powers.
        with_imaginary: whether there are powers of z, even ones.

    Returns:
        The pairs.
    """
    largest = degree if with_imaginary else 0
    pairs = itertools.product(range(degree + 1), range(0, largest + 1, 2))
    return [(j, k) for j, k in pairs if 1 <= j + k <= degree]


def _combined(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total


def _monomial(w: Tensor, z: Tensor, powers: tuple[int, int], orders: tuple[int, int]) -> Tensor:
    """Return a derivative of `w^j z^k`, of given orders up to two by w and z."""
    factor, product = 1, torch.ones_like(w)
    for base, power, order in zip((w, z), powers, orders, strict=True):
        for n in range(order):
            factor *= power - n
        if power > order:
            product = product * base ** (power - order)
    return factor * product if factor else torch.zeros_like(w)
