"""What an exact solution of a small or free theory returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from equiflow.theories.base.lattice import Lattice


@dataclass(frozen=True)
class Exact:
    """Averages over `exp(-S) / Z` without statistical error; the same numbers from every oracle.

    Attributes:
        log_z: `log Z`.
        phi_squared: `<phi^2>`.
        phi_fourth: `<phi^4>`.
        nearest_neighbour: `<phi_x phi_{x+mu}>` of each direction mu.
        correlator: zero-momentum two-point function `C(t)` along the longest axis (the first of them).
        error: largest change of any of these numbers `v` when the grid was refined, relative to
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
        """`chi2 = V <M^2> = sum_t C(t)`."""
        return math.fsum(self.correlator)

    @property
    def correlation_length(self) -> float:
        """Second-moment length `xi` along the longest axis, `4 sin^2(pi/L) xi^2 = chi2 / F - 1`.

        `F = sum_t cos(2 pi t / L) C(t)`; not a number where the longest side is 1.
        """
        side = len(self.correlator)
        if side == 1:
            return math.nan
        phase = 2 * math.pi / side
        factor = math.fsum(math.cos(phase * t) * c for t, c in enumerate(self.correlator))
        # A rounding error may leave chi2 / F below 1 for sites that do not feel each other.
        return math.sqrt(max(self.susceptibility / factor - 1, 0.0)) / (2 * math.sin(phase / 2))

    def distance(self, other: Exact) -> float:
        """Largest `|v - v'| / max(1, |v|)` over all numbers of two solutions of one theory."""
        here, there = self._numbers(), other._numbers()
        if here.shape != there.shape:
            raise ValueError("Both solutions must be of one lattice to be compared.")
        return float(np.max(np.abs(here - there) / np.maximum(1.0, np.abs(here))))

    def checked_against(self, coarse: Exact, tolerance: float) -> Exact:
        """This solution with `error` taken from a coarser one.

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
        values = (getattr(self, field.name) for field in fields(self) if field.name != "error")
        return np.concatenate([np.atleast_1d(value) for value in values])


def longest_axis(lattice: Lattice) -> int:
    """The first of the longest axes: the one that correlators run along."""
    return lattice.shape.index(max(lattice.shape))
