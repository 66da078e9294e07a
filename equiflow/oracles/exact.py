"""`Exact`: the numbers that every oracle of a small or free theory returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from equiflow.theories.base.lattice import Lattice


@dataclass(frozen=True)
class Exact:
    """Averages over `exp(-S) / Z` without statistical error.

    Attributes:
        log_z: `log Z`.
        phi_squared: `<phi^2>`.
        phi_fourth: `<phi^4>`.
        nearest_neighbour: `<phi_x phi_{x+mu}>` for each direction mu.
        correlator: zero-momentum two-point function `C(t)` along the longest axis, for each t.
        error: largest change of any of these numbers `v` under a refinement of the grid, relative to
            `max(1, |v|)`; 0 for a closed form.
    """

    log_z: float
    phi_squared: float
    phi_fourth: float
    nearest_neighbour: tuple[float, ...]
    correlator: tuple[float, ...]
    error: float = 0.0

    @property
    def susceptibility(self) -> float:
        """Susceptibility `chi2 = V <M^2> = sum_t C(t)`."""
        return math.fsum(self.correlator)

    @property
    def correlation_length(self) -> float:
        """Second-moment length `xi` along the longest axis, `4 sin^2(pi/L) xi^2 = chi2 / F - 1`.

        `F = sum_t cos(2 pi t / L) C(t)`; NaN if the longest side is 1.
        """
        side = len(self.correlator)
        if side == 1:
            return math.nan
        phase = 2 * math.pi / side
        factor = math.fsum(math.cos(phase * t) * c for t, c in enumerate(self.correlator))
        # For independent sites, rounding may leave chi2 / F below 1.
        return math.sqrt(max(self.susceptibility / factor - 1, 0.0)) / (2 * math.sin(phase / 2))

    def distance(self, other: Exact) -> float:
        """Return the largest `|v - v'| / max(1, |v|)` over all numbers of two solutions of one theory.

        Raises:
            ValueError: if the solutions are of different lattices.
        """
        here, there = self._numbers(), other._numbers()
        if here.shape != there.shape:
            raise ValueError("Both solutions must be of one lattice to be compared.")
        return float(np.max(np.abs(here - there) / np.maximum(1.0, np.abs(here))))

    def checked_against(self, coarse: Exact, tolerance: float) -> Exact:
        """Return this solution with its distance from a coarser one as its `error`.

        Args:
            coarse: the same theory on a coarser grid.
            tolerance: largest accepted distance.

        Returns:
            A copy of this solution.

        Raises:
            RuntimeError: if they differ by more than `tolerance`.
        """
        error = self.distance(coarse)
        # Written so that NaN fails too.
        if not error <= tolerance:
            raise RuntimeError(
                f"The quadrature has not converged: refining the grid moves a result by {error:.1e}, more "
                f"than tolerance={tolerance:.1e}. Take a smaller lattice, or allow a larger tolerance."
            )
        return replace(self, error=error)

    def _numbers(self) -> np.ndarray:
        """Return all numbers but the error, in one row."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "error")
        return np.concatenate([np.atleast_1d(value) for value in values])


def longest_axis(lattice: Lattice) -> int:
    """Return the first of the longest axes, along which correlators are measured."""
    return lattice.shape.index(max(lattice.shape))
