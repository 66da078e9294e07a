"""Exact partition function of the Ising model on a torus of two dimensions, for every temperature."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

from equiflow.runtime.checks import check_type
from equiflow.theories.scalar.ising import ContinuousIsing

#: imaginary part of the coupling by which a derivative is taken: so small that its square vanishes
STEP = 1e-30


@dataclass(frozen=True)
class ExactIsing:
    """The Ising model without statistical error.

    Attributes:
        log_z: `log Z` of the continuous field, see `ContinuousIsing`.
        log_z_spins: `log Z` of the spins.
        nearest_neighbour: mean of `s_x s_{x+mu}` over x and mu, which is that of `tanh phi_x tanh phi_{x+mu}`
            where the two are different sites.
    """

    log_z: float
    log_z_spins: float
    nearest_neighbour: float


def ising_torus(action: ContinuousIsing) -> ExactIsing:
    """Solve the Ising model on a periodic lattice of two dimensions, by Kaufman's formula.

        Z = (2 sinh 2K)^(V/2) / 2 [prod 2 cosh(m g_j / 2) + prod 2 sinh(m g_j / 2)]  for odd j, and for even j

    Here `K = 1 / T`, the lattice is `m x n`, `j = 0 ... 2n - 1`, and
    `cosh g_j = cosh 2K coth 2K - cos(pi j / n)` with `g_0 = 2 K + log tanh K`, which changes its sign at the
    critical temperature.

    Args:
        action: the Ising model as a theory of a field.

    Returns:
        log Z of the field and of the spins, and the correlation of neighbours.

    Raises:
        TypeError: if it is another action.
        ValueError: if the lattice has another number of dimensions, or T is below 0.003.

    References:
        Kaufman, Phys. Rev. 76 (1949) 1232.

    >>> from equiflow import Lattice
    >>> from equiflow.theories.scalar.ising import CRITICAL_TEMPERATURE
    >>> round(ising_torus(ContinuousIsing(Lattice((16, 16)), CRITICAL_TEMPERATURE)).log_z, 5)
    592.87574
    """
    check_type(action, ContinuousIsing, "action", "Write ContinuousIsing(lattice, T=2.27).")
    if action.lattice.dim != 2:
        raise ValueError(
            f"The Ising model is solved in two dimensions, got lattice {action.lattice.shape}. "
            "Compare with HMC."
        )
    try:
        found = _log_z(1 / action.T + 1j * STEP, *action.lattice.shape)
    except OverflowError:
        raise ValueError(f"T = {action.T} is too low for the formula; expected at least 0.003.") from None
    return ExactIsing(
        log_z=found.real + action.log_z_of_field(),
        log_z_spins=found.real,
        # An imaginary step takes the derivative by K without cancellation.
        nearest_neighbour=found.imag / STEP / (2 * action.lattice.volume),
    )


def _log_z(coupling: complex, m: int, n: int) -> complex:
    """Return log Z of the spins as an analytic function of K."""
    s = cmath.sinh(2 * coupling)
    odd = [_angle(s, j, n) for j in range(1, 2 * n, 2)]
    even = [_angle(s, j, n) for j in range(2, 2 * n, 2)]
    halves = [[m * g / 2 for g in angles] for angles in (odd, even)]
    cosh = [sum(map(_log_2_cosh, half)) for half in halves]
    sinh = [sum(map(_log_2_sinh, half)) for half in halves]
    # The one angle that may be negative or zero.
    first = m * (coupling + cmath.log(cmath.tanh(coupling)) / 2)
    sign, first = (1, first) if first.real > 0 else (-1, -first)
    cosh[1] += _log_2_cosh(first)
    sinh[1] += first
    terms = [*cosh, *sinh]
    top = max(term.real for term in terms)
    *others, last = (cmath.exp(term - top) for term in terms)
    total = sum(others) + sign * (1 - cmath.exp(-2 * first)) * last
    return m * n / 2 * cmath.log(2 * s) - math.log(2) + top + cmath.log(total)


def _angle(s: complex, j: int, n: int) -> complex:
    """Return `g_j > 0` for `s = sinh 2K`, `sinh^2(g_j / 2) = (1 - s)^2 / 2s + sin^2(pi j / 2n)`."""
    return 2 * cmath.asinh(cmath.sqrt((1 - s) ** 2 / (2 * s) + math.sin(math.pi * j / (2 * n)) ** 2))


def _log_2_cosh(x: complex) -> complex:
    """Return `log(2 cosh x)` for a positive real part."""
    return x + _log1p(cmath.exp(-2 * x))


def _log_2_sinh(x: complex) -> complex:
    """Return `log(2 sinh x)` for a positive real part."""
    return x + _log1p(-cmath.exp(-2 * x))


def _log1p(x: complex) -> complex:
    """Return `log(1 + x)` with a derivative along the imaginary axis that does not round away."""
    return complex(math.log1p(x.real), x.imag / (1 + x.real))
