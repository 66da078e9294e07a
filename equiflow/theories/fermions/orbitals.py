"""Orbitals of the harmonic trap: Hermite functions, their derivatives, and exact samples of their squares."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: cells of the envelope from which squared Hermite functions are drawn
_CELL = 0.02


def quantum_numbers(dim: int, level: int) -> Tensor:
    """Return the orbitals of the trap up to a level, in the order of their energies `sum_a n_a + dim / 2`.

    Args:
        dim: dimension of space.
        level: largest `sum_a n_a`.

    Returns:
        `n_a` of each orbital, `(orbital, dim)`, int64.

    >>> quantum_numbers(2, 1).tolist()
    [[0, 0], [0, 1], [1, 0]]
    """
    every = itertools.product(range(level + 1), repeat=dim)
    return torch.tensor(sorted((n for n in every if sum(n) <= level), key=lambda n: (sum(n), n)))


def hermite_polynomials(x: Tensor, degree: int) -> Tensor:
    """Return `P_0 ... P_degree`, orthonormal for the weight `exp(-x^2)`.

    `P_{n+1} = sqrt(2 / (n+1)) x P_n - sqrt(n / (n+1)) P_{n-1}` and `P_n' = sqrt(2 n) P_{n-1}`.

    Args:
        x: any shape.
        degree: highest degree.

    Returns:
        `(*shape, degree + 1)`.
    """
    found = [torch.full_like(x, math.pi**-0.25)]
    for n in range(degree):
        lower = found[-2] * math.sqrt(n / (n + 1)) if n else 0.0
        found.append(math.sqrt(2 / (n + 1)) * x * found[-1] - lower)
    return torch.stack(found, -1)


@dataclass(frozen=True)
class OrbitalJet:
    """Polynomial parts of orbitals, `phi_j(x) exp(x^2 / 2)`, at the positions of particles.

    Attributes:
        value: `(batch, particle, orbital)`.
        slope: `(batch, dim, particle, orbital)`.
        curvature: second derivatives, `(batch, dim, dim, particle, orbital)`.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor

    @classmethod
    def at(cls, x: Tensor, orbitals: Tensor) -> OrbitalJet:
        """Evaluate orbitals with their first and second derivatives.

        Args:
            x: positions, `(batch, particle, dim)`.
            orbitals: quantum numbers of the orbitals of each configuration, `(batch, orbital, dim)`.

        Returns:
            The polynomial parts at each position.
        """
        parts = _along_axes(x, orbitals)
        axes = range(x.shape[-1])

        def product(*orders: int) -> Tensor:
            factors = [parts[order][..., axis] for axis, order in enumerate(orders)]
            return math.prod(factors[1:], start=factors[0])

        def order(*which: int) -> list[int]:
            return [which.count(axis) for axis in axes]

        slope = [product(*order(a)) for a in axes]
        curvature = [torch.stack([product(*order(a, b)) for b in axes], 1) for a in axes]
        return cls(product(*order()), torch.stack(slope, 1), torch.stack(curvature, 1))


def orbital_values(x: Tensor, orbitals: Tensor) -> Tensor:
    """Return the polynomial parts of orbitals, `phi_j(x_i) exp(x_i^2 / 2)`.

    Args:
        x: positions, `(batch, particle, dim)`.
        orbitals: quantum numbers, `(batch, orbital, dim)`.

    Returns:
        `(batch, particle, orbital)`, differentiable in `x`.
    """
    degree = int(orbitals.max())
    return _picked(hermite_polynomials(x, degree), orbitals).prod(-1)


def _along_axes(x: Tensor, orbitals: Tensor) -> list[Tensor]:
    """Return `P_n(x_a)` and its two derivatives for each axis a, `(batch, particle, orbital, dim)` each."""
    degree = int(orbitals.max())
    value = hermite_polynomials(x, degree)
    root = (2 * torch.arange(degree + 1, dtype=x.dtype, device=x.device)).sqrt()
    slope = root * torch.nn.functional.pad(value, (1, 0))[..., :-1]
    curvature = root * torch.nn.functional.pad(slope, (1, 0))[..., :-1]
    return [_picked(table, orbitals) for table in (value, slope, curvature)]


def _picked(table: Tensor, orbitals: Tensor) -> Tensor:
    """Return the entries n_a of a table `(batch, particle, dim, n)`, `(batch, particle, orbital, dim)`."""
    index = orbitals.transpose(1, 2).unsqueeze(1).expand(*table.shape[:3], -1)
    return table.gather(3, index).transpose(2, 3)


class HermiteSampler:
    """Exact samples of squared Hermite functions `P_n(x)^2 exp(-x^2)`, by rejection from a stepwise envelope.

    Args:
        degree: highest n.
    """

    def __init__(self, degree: int) -> None:
        reach = math.sqrt(2 * degree + 1) + 6.0  # The density beyond is below 1e-16.
        half = math.ceil(reach / _CELL)
        self.left = _CELL * torch.arange(-half, half, dtype=torch.float64)
        ends = torch.cat([self.left, self.left[-1:] + _CELL])
        size = (hermite_polynomials(ends, degree) * (-0.5 * ends[:, None].square()).exp()).abs()
        # |h_n'| = |sqrt(n/2) h_{n-1} - sqrt((n+1)/2) h_{n+1}| <= 2 sqrt((n+1)/2) max |h| and |h| < 0.76.
        rise = 0.76 * (2 * torch.arange(1, degree + 2, dtype=torch.float64)).sqrt() * 0.5 * _CELL
        self.envelope = (torch.maximum(size[1:], size[:-1]) + rise).square().T.contiguous()
        self.envelope[:, (self.left.abs() > reach)] = 0.0
        share = self.envelope.cumsum(1)
        # One sorted list for all degrees: shares of degree n lie in (n, n + 1].
        self.shares = (
            share / share[:, -1:] + torch.arange(degree + 1, dtype=torch.float64)[:, None]
        ).flatten()
        # Candidates of all degrees must be accepted equally often, or mixtures of degrees would be skewed.
        self.thinning = share[:, -1] / share[:, -1].max()

    def propose(self, degree: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw candidates, and say which of them are samples.

        Args:
            degree: n of each candidate, any shape, int64.
            generator: source of randomness on the CPU.

        Returns:
            Candidates in float64 and whether each is accepted, shaped like `degree`. Accepted ones have the
            density `P_n^2 exp(-x^2)`. The probability of acceptance is the same for all degrees.
        """
        u, v, w = torch.rand(3, *degree.shape, generator=generator, dtype=torch.float64)
        cell = torch.searchsorted(self.shares, degree + u, right=True) - degree * len(self.left)
        cell = cell.clamp(max=len(self.left) - 1)  # where degree + u was rounded up
        x = self.left[cell] + _CELL * v
        value = hermite_polynomials(x, len(self.envelope) - 1).gather(-1, degree[..., None])[..., 0]
        density = value.square() * (-x.square()).exp()
        return x, w * self.envelope[degree, cell] < self.thinning[degree] * density
