"""Frequencies of mechanical systems from other methods: the Hessian, and self-consistent phonons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.runtime.autograd import as_leaf
from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.phi4 import Phi4


@dataclass(frozen=True)
class NormalModes:
    """Harmonic motion about an equilibrium.

    Attributes:
        frequencies: ascending, `(V,)` in float64; NaN along directions in which the potential falls.
        patterns: orthonormal displacements in the same order, `(mode, *lattice)` in float64.
    """

    frequencies: Tensor
    patterns: Tensor


def normal_modes(potential: Action, equilibrium: Tensor) -> NormalModes:
    """Return frequencies and patterns of small oscillations, from the Hessian of a potential.

    `omega_k^2` are the eigenvalues of `d^2 V / dq dq'`, for unit masses. Use it for any potential; it takes
    one gradient for each degree of freedom.

    Args:
        potential: V, an action of a scalar field.
        equilibrium: a minimum of V, `(*lattice)`.

    Returns:
        The modes.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the equilibrium is not a point of the lattice.
    """
    check_type(potential, Action, "potential")
    check_type(equilibrium, Tensor, "equilibrium")
    q = as_leaf(equilibrium.double()[None])
    potential.space.check(q, "equilibrium[None]")
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(potential(q).sum(), q, create_graph=True)
        rows = [torch.autograd.grad(one, q, retain_graph=True)[0].flatten() for one in slope.flatten()]
    squares, vectors = torch.linalg.eigh(torch.stack(rows))
    return NormalModes(squares.sqrt(), vectors.T.reshape(-1, *equilibrium.shape))


@dataclass(frozen=True)
class Phonons:
    """The best harmonic approximation of a phi^4 field in motion.

    Attributes:
        frequencies: ascending, `(V,)` in float64.
        mean: displacement of every site.
        variance: `<(phi - mean)^2>`.
        free_energy: upper bound of `-log int dphi dp exp(-beta H)`, the value of `-log Z` of the phonons.
    """

    frequencies: Tensor
    mean: float
    variance: float
    free_energy: float


def self_consistent_phonons(potential: Phi4, *, beta: float, tolerance: float = 1e-13) -> Phonons:
    r"""Return the Gaussian nearest to `exp(-beta H)`, `H = S[phi] + sum p^2 / 2`, in reverse KL divergence.

    `omega_k^2 = 2 k^2 + 2 m2 + 12 lam (mean^2 + variance)` with `variance = sum_k 1 / (beta V omega_k^2)`.
    The mean is 0, or in the broken phase `mean^2 = -(m2 + 6 lam variance) / (2 lam)`. It is what a linear
    canonical flow learns, and for `beta -> inf` the harmonic motion about a minimum.

    Args:
        potential: S, as the potential energy.
        beta: inverse temperature.
        tolerance: relative change of the variance at which the iteration stops.

    Returns:
        The phonons, about a displaced mean if `m2 < 0`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if beta is not positive, or there is no stable solution at this temperature.
    """
    check_type(potential, Phi4, "potential")
    beta = check_positive(beta, "beta")
    k2 = potential.lattice.squared_momenta().double().flatten()
    m2, lam, volume = potential.m2, potential.lam, potential.lattice.volume
    variance = 0.0
    for _ in range(10_000):
        mean2 = max(0.0, -(m2 + 6 * lam * variance) / (2 * lam)) if lam > 0 and m2 < 0 else 0.0
        # The iteration may pass through the temperature at which the displaced state ends.
        squares = (2 * k2 + 2 * m2 + 12 * lam * (mean2 + variance)).clamp(min=1e-6)
        new = float((1 / squares).mean() / beta)
        if abs(new - variance) < tolerance * new:
            break
        variance = 0.5 * (variance + new)
    else:
        raise ValueError(f"No stable phonons of {potential} at beta={beta}; lower the temperature.")
    omega = squares.sqrt()
    kinetic_and_entropy = volume * math.log(beta / (2 * math.pi)) + float(omega.log().sum())
    # <beta S> - <beta K_potential>, where the Gaussian average of the harmonic energy is V / 2.
    power4 = mean2**2 + 6 * mean2 * variance + 3 * variance**2
    fluctuation = float((k2 / omega.square()).sum() / beta)
    energy = fluctuation + volume * (m2 * (mean2 + variance) + lam * power4)
    free_energy = kinetic_and_entropy + beta * energy - 0.5 * volume
    return Phonons(omega.sort().values, math.sqrt(mean2), variance, free_energy)
