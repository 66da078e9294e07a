"""Where on the field axis a phi^4 density lives, and how finely it varies there."""

from __future__ import annotations

import math

from equiflow.theories.scalar.phi4 import Phi4

#: a site is cut off where `exp(-V)` has fallen by exp(-this) from its largest value
DROP = 42.0


def potential_minimum(action: Phi4) -> float:
    """Smallest value of `V(phi) = m2 phi^2 + lam phi^4`."""
    return -(action.m2**2) / (4 * action.lam) if action.m2 < 0 else 0.0


def reach(action: Phi4, drop: float = DROP) -> float:
    """The field where `V = min V + drop`; links only lower the density there further."""
    m2, lam, level = action.m2, action.lam, drop + potential_minimum(action)
    root = math.sqrt(max(m2 * m2 + 4 * lam * level, 0.0))
    # Two forms of one root of a quadratic: each without cancellation on its side.
    square = 2 * level / (m2 + root) if m2 >= 0 else (root - m2) / (2 * lam)
    return math.sqrt(square)


def spacing(action: Phi4) -> float:
    """A step that resolves a site tied to its neighbours to about 1e-12 by the trapezoid rule.

    The rule misses by the density's Fourier transform at `k = 2 pi / h`: `exp(-k^2 / 4c)` for a factor
    `exp(-c phi^2)`, `exp(-0.24 k^(4/3) lam^(-1/3))` for `exp(-lam phi^4)`.
    """
    # Half the curvature of a site: its links, and the potential at the bottom of its wells.
    curvature = 2 * action.lattice.dim + (action.m2 if action.m2 >= 0 else -2 * action.m2)
    return 0.16 / max(1.0, math.sqrt(curvature / 8 + math.sqrt(action.lam)))
