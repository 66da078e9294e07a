"""Exact thermodynamics of trapped fermions: any number of ideal ones, and two that repel each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from equiflow.runtime.checks import check_count, check_positive
from equiflow.theories.fermions.electrons import TrappedElectrons
from equiflow.theories.fermions.slater import fermi_sea_energy
from equiflow.theories.particles.space import Particles

#: a Boltzmann factor below this, relative to the ground state's, is left out
_NEGLIGIBLE = 1e-16
#: functions of the radius in which relative motion is expanded; levels up to half of them are used
_FUNCTIONS = 60


@dataclass(frozen=True)
class ExactThermal:
    """Thermodynamics of a canonical ensemble.

    Attributes:
        free_energy: `F = -log Z / beta`.
        energy: `E = -d log Z / d beta`.
        entropy: `S = beta (E - F)`.
    """

    free_energy: float
    energy: float
    entropy: float


def ideal_fermions(particles: Particles, *, beta: float) -> ExactThermal:
    """Return the thermodynamics of ideal spin-polarised fermions in the trap, by recursion.

    `Z_N(beta) = 1/N sum_{k=1}^N (-1)^{k+1} z(k beta) Z_{N-k}(beta)` with `z(beta) = (2 sinh(beta / 2))^-dim`.
    Its terms cancel at low temperature, so it is evaluated with as many digits as they lose.

    Args:
        particles: `Particles(N, dim)`.
        beta: inverse temperature, > 0.

    Returns:
        Free energy, energy and entropy.

    Raises:
        ValueError: if beta is not positive and finite.

    >>> round(ideal_fermions(Particles(1, 2), beta=1.0).energy, 6)
    2.163953
    """
    beta, (number, dim) = check_positive(beta, "beta"), particles.shape
    lost = beta * (fermi_sea_energy(particles) - 0.5 * particles.size) / math.log(10)
    with localcontext() as context:
        context.prec = 40 + math.ceil(lost) + number

        @cache
        def single(k: int) -> tuple[Decimal, Decimal]:
            """Return z(k beta) and its derivative in beta."""
            half = (Decimal(beta) * k / 2).exp()
            sinh, cosh = (half - 1 / half) / 2, (half + 1 / half) / 2
            value = (2 * sinh) ** -dim
            return value, -value * dim * k * cosh / (2 * sinh)

        values, slopes = [Decimal(1)], [Decimal(0)]
        for n in range(1, number + 1):
            value, slope = Decimal(0), Decimal(0)
            for k in range(1, n + 1):
                z, dz = single(k)
                sign = (-1) ** (k + 1)
                value += sign * z * values[n - k]
                slope += sign * (dz * values[n - k] + z * slopes[n - k])
            values.append(value / n)
            slopes.append(slope / n)
        log_z, energy = float(values[-1].ln()), float(-slopes[-1] / values[-1])
    return ExactThermal(-log_z / beta, energy, beta * energy + log_z)


def two_fermions(electrons: TrappedElectrons, *, beta: float) -> ExactThermal:
    """Return the thermodynamics of two spin-polarised fermions that repel each other in the trap.

    The centre of mass is a free particle in the trap. The relative motion has odd angular momentum and the
    energies of `relative_levels`. At Z = sqrt(3) in two dimensions the ground state has the energy 4 exactly.

    Args:
        electrons: the Hamiltonian of two particles in one to three dimensions.
        beta: inverse temperature, > 0; `math.inf` for the ground state.

    Returns:
        Free energy, energy and entropy; at zero temperature the entropy is that of the degeneracy.

    Raises:
        ValueError: if there are not two particles in one to three dimensions, or beta is below about 0.5.
    """
    number, dim = electrons.particles.shape
    if number != 2 or dim > 3:
        raise ValueError(f"Expected two particles in 1 to 3 dimensions, got {number} in {dim}.")
    if beta != math.inf:
        beta = check_positive(beta, "beta")
    ground = relative_levels(dim, electrons.Z, 1)[0]
    if beta == math.inf:
        total = 0.5 * dim + ground
        return ExactThermal(total, total, math.log(_degeneracy(dim, 1)))
    levels: list[float] = []
    for angular in range(1, 2 if dim == 1 else 10_000, 2):
        found = relative_levels(dim, electrons.Z, angular)
        found = found[: len(found) // 2]
        if math.exp(-beta * (found[0] - ground)) < _NEGLIGIBLE:
            break
        if math.exp(-beta * (found[-1] - ground)) > 1e-12:
            raise ValueError(
                f"beta={beta} needs more than {_FUNCTIONS // 2} levels of each angular momentum; give 0.5 or "
                "more."
            )
        levels += _degeneracy(dim, angular) * found.tolist()
    factor = np.exp(-beta * (np.array(levels) - ground))
    relative = float((factor * levels).sum() / factor.sum())
    log_z = math.log(factor.sum()) - beta * ground - dim * math.log(2 * math.sinh(beta / 2))
    energy = relative + 0.5 * dim / math.tanh(beta / 2)
    return ExactThermal(-log_z / beta, energy, beta * energy + log_z)


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of a Gauss-Legendre rule on the radius, where states are not negligible."""
    reach = 2 * math.sqrt(2 * _FUNCTIONS) + 8
    node, weight = np.polynomial.legendre.leggauss(8 * _FUNCTIONS)
    return 0.5 * reach * (node + 1), 0.5 * reach * weight


def relative_levels(dim: int, Z: float, angular: int) -> np.ndarray:
    r"""Return the energies of the relative motion `-lap + r^2 / 4 + Z / r` of two particles in the trap.

    `u(r) = r^{(dim - 1)/2} R(r)` obeys `-u'' + lam (lam - 1) u / r^2 + (r^2 / 4 + Z / r) u = E u` with
    `lam = l + (dim - 1) / 2`. It is expanded in `r^lam exp(-r^2 / 4)` times polynomials in r of all degrees,
    orthonormal by Lanczos' recursion, so that the cusp at r = 0 is represented exactly.

    Args:
        dim: dimension of space, 1 to 3.
        Z: strength of the repulsion.
        angular: angular momentum l; in one dimension 1 stands for odd functions.

    Returns:
        Energies, ascending; the lower half of them is exact to about 1e-9.
    """
    check_count(angular, "angular")
    r, weight = _grid()
    lam = angular + 0.5 * (dim - 1)
    log_start = 2 * lam * np.log(r) - 0.5 * r**2
    start = np.sqrt(np.exp(log_start - log_start.max()) * weight)
    p, dp = np.zeros((_FUNCTIONS, len(r))), np.zeros((_FUNCTIONS, len(r)))
    p[0] = start / np.linalg.norm(start)
    # Polynomials p_k times the root of the weight, and their derivatives, by r p_k = sum of neighbours.
    for k in range(_FUNCTIONS - 1):
        step, slope = r * p[k], r * dp[k] + p[k]
        for _ in range(2):  # Twice is enough for orthogonality to rounding.
            share = p[: k + 1] @ step
            step, slope = step - share @ p[: k + 1], slope - share @ dp[: k + 1]
        size = np.linalg.norm(step)
        p[k + 1], dp[k + 1] = step / size, slope / size
    # u = r^lam exp(-r^2/4) p has the derivative (p' + (lam / r - r / 2) p) times the same factor.
    du = dp + (lam / r - 0.5 * r) * p
    matrix = du @ du.T + (p * (lam * (lam - 1) / r**2 + 0.25 * r**2 + Z / r)) @ p.T
    found: np.ndarray = np.linalg.eigvalsh(matrix)
    return found


def _degeneracy(dim: int, angular: int) -> int:
    """Return the number of states of one angular momentum."""
    return {1: 1, 2: 2, 3: 2 * angular + 1}[dim]
