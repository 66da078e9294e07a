"""Grids for one site of phi^4: the range of the field that matters, and a spacing that resolves it."""

from __future__ import annotations

import math

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.phi4 import Phi4

#: a site is cut off where the potential has risen by this much above its minimum: `exp(-42)` is 6e-19
POTENTIAL_CUTOFF = 42.0


def check_solvable(action: Phi4, oracle: str) -> None:
    """Raise unless an action is phi^4, which the oracles solve.

    Args:
        action: what was given.
        oracle: who asks, as messages call it.

    Raises:
        TypeError: if it is another action, or none.
    """
    check_type(action, Action, "action")
    check_type(action, Phi4, "action", f"{oracle} solves phi^4 only: write Phi4(lattice, m2=..., lam=...).")


def potential_minimum(action: Phi4) -> float:
    """Return the smallest value of `V(phi) = m2 phi^2 + lam phi^4`."""
    return -(action.m2**2) / (4 * action.lam) if action.m2 < 0 else 0.0


def reach(action: Phi4, cutoff: float = POTENTIAL_CUTOFF) -> float:
    """Return the positive field with `V(phi) = min V + cutoff`; the links lower the density further.

    Args:
        action: its `m2` and `lam` count.
        cutoff: height above the minimum.

    Returns:
        The field at the cutoff.
    """
    m2, lam, level = action.m2, action.lam, cutoff + potential_minimum(action)
    root = math.sqrt(max(m2 * m2 + 4 * lam * level, 0.0))
    # Two forms of one root of a quadratic: each avoids the cancellation for one sign of m2.
    square = 2 * level / (m2 + root) if m2 >= 0 else (root - m2) / (2 * lam)
    return math.sqrt(square)


def spacing(action: Phi4) -> float:
    """Return a step h with which the trapezoid rule integrates over a site to about 1e-12.

    The error of the rule is the Fourier transform of the density at `k = 2 pi / h`: `exp(-k^2 / 4c)` for a
    factor `exp(-c phi^2)`, `exp(-0.24 k^(4/3) lam^(-1/3))` for `exp(-lam phi^4)`.
    """
    # Half the curvature of a site: from its links, and from the potential at the bottom of its wells.
    curvature = 2 * action.lattice.dim + (action.m2 if action.m2 >= 0 else -2 * action.m2)
    return 0.16 / max(1.0, math.sqrt(curvature / 8 + math.sqrt(action.lam)))
