"""Exact results of lattice gauge theory on a torus of two dimensions, for every group and coupling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from equiflow.oracles.characters import Characters, characters, integral_over_angle
from equiflow.runtime.checks import check_count, check_type, is_number
from equiflow.theories.gauge.u1 import U1
from equiflow.theories.gauge.wilson import WilsonAction


@dataclass(frozen=True)
class ExactGauge:
    """Averages over `exp(-S) / Z` on the torus, without statistical error.

    Attributes:
        log_z: `log Z`, with respect to the Haar measure of total weight one.
        plaquette: mean of `Re tr P / N`.
        charge: mean topological charge, which is zero without an imaginary theta; None for SU(N).
        topological_susceptibility: `(<Q^2> - <Q>^2) / V`; None for SU(N), which has no charge here.
        volume: number of plaquettes V.
    """

    log_z: float
    plaquette: float
    charge: float | None
    topological_susceptibility: float | None
    volume: int
    _beta: float = field(repr=False)
    _characters: Characters = field(repr=False)

    def wilson_loop(self, area: int) -> float:
        """Return the mean of `Re tr W / N` around an area of plaquettes without holes.

            <W> = sum_{r, s in r x fundamental} d_r / (d_s N) lambda_r^A lambda_s^(V - A) / Z

        A rectangle must be shorter than the lattice along both axes; else its boundary winds around it.

        Args:
            area: number A of plaquettes inside, from 0 to V.

        Returns:
            The average.

        Raises:
            ValueError: if the area is negative or larger than the torus.
        """
        area = check_count(area, "area", minimum=0)
        if area > self.volume:
            raise ValueError(f"area must be at most {self.volume}, the number of plaquettes, got {area}.")
        found = self._characters
        inside, outside = found.fundamental.T
        weights = found.ratio[inside] ** area * found.ratio[outside] ** (self.volume - area)
        total = (found.dimension[inside] / found.dimension[outside] * weights).sum() / found.n
        return float((total / (found.ratio**self.volume).sum()).real)

    def theta_factor(self, theta: float) -> float:
        """Return `Z(theta) / Z(0) = <cos(theta Q)>` of U(1), `Z(theta) = sum_n lambda_{n + theta/2pi}^V`.

        Args:
            theta: the angle.

        Returns:
            The ratio.

        Raises:
            TypeError: if theta is not a number.
            ValueError: if the group is not U(1), or there is an imaginary theta.
        """
        if not is_number(theta):
            raise TypeError(f"theta must be a number, got {theta!r}.")
        if self.charge is None or self.charge != 0:
            raise ValueError("A theta is known for U(1) without an imaginary theta only.")
        if self.volume < 3:
            return 1.0  # one plaquette is zero, and two cancel each other
        # Z is periodic in theta; near zero the sum converges fastest.
        nu = math.remainder(float(theta), 2 * math.pi) / (2 * math.pi)
        found = characters(U1(), self._beta, self.volume, nu)
        scale = math.exp(self.volume * (found.log_scale - self._characters.log_scale))
        ratio = (found.ratio**self.volume).sum() / (self._characters.ratio**self.volume).sum()
        return float(np.real(ratio)) * scale

    def charge_probabilities(self, largest: int) -> np.ndarray:
        """Return the probabilities of the topological charges of U(1), from `-largest` to `largest`.

            p(Q) = int dtheta / 2 pi  Z(theta) / Z(0) exp(-i theta Q)

        Args:
            largest: largest charge; all larger ones together should have no weight worth mentioning.

        Returns:
            `(2 * largest + 1,)` in float64.

        Raises:
            ValueError: if the group is not U(1), or there is an imaginary theta.
        """
        largest = check_count(largest, "largest", minimum=0)
        # The rule of equal steps is exact up to charges that differ by the number of steps.
        n_steps = 4 * largest + 64
        theta = 2 * math.pi * np.arange(n_steps) / n_steps
        factors = np.array([self.theta_factor(one) for one in theta])
        charges = np.arange(-largest, largest + 1)
        found: np.ndarray = np.cos(charges[:, None] * theta) @ factors / n_steps
        return found.clip(min=0.0)

    def draw_charges(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw independent topological charges of U(1) from `charge_probabilities`.

        Args:
            n: number of charges.
            generator: source of randomness.

        Returns:
            `(n,)`, integers.

        Raises:
            ValueError: if the group is not U(1), or there is an imaginary theta.
        """
        chi = self.topological_susceptibility or 0.0  # without one, there are no probabilities either
        largest = max(2, math.ceil(8 * math.sqrt(chi * self.volume)))
        weight = torch.from_numpy(self.charge_probabilities(largest))
        return torch.multinomial(weight, check_count(n, "n"), replacement=True, generator=generator) - largest


def gauge_torus(action: WilsonAction) -> ExactGauge:
    """Solve a gauge theory on a periodic lattice of two dimensions: `Z = sum_r lambda_r^V`.

    The coefficients lambda are those of the character expansion of a plaquette, see `characters`. The charge
    of U(1) follows from `Z(theta)`, in which n becomes `n + theta / 2 pi`.

    Args:
        action: a Wilson action without rectangles, for any group; U(1) may have an imaginary theta.

    Returns:
        The averages.

    Raises:
        TypeError: if it is another action.
        ValueError: if the lattice has more dimensions, or there are rectangles.

    References:
        Migdal, Sov. Phys. JETP 42 (1975) 413; Rusakov, Mod. Phys. Lett. A 5 (1990) 693.

    >>> from equiflow import Lattice, Links
    >>> round(gauge_torus(WilsonAction(Links(Lattice((8, 8)), "U(1)"), beta=2.0)).plaquette, 6)
    0.697775
    """
    check_type(action, WilsonAction, "action", "Write WilsonAction(links, beta=2.0).")
    if action.lattice.dim != 2 or action.rectangle:
        raise ValueError(
            f"Exact results are known in two dimensions without rectangles, got {action}. Compare with HMC."
        )
    volume, lie = action.lattice.volume, action.space.lie
    # The charge depends on powers smaller by two.
    found = characters(lie, action.beta, max(1, volume - 2), _shift(action.imaginary_theta, volume))
    powers = found.ratio**volume
    total = powers.sum()
    below = found.ratio ** (volume - 1) * found.slope()
    charge, susceptibility = _charge(action, found) if lie.is_abelian else (None, None)
    return ExactGauge(
        log_z=volume * found.log_scale + math.log(total.real),
        plaquette=float((below.sum() / total).real),
        charge=charge,
        topological_susceptibility=susceptibility,
        volume=volume,
        _beta=action.beta,
        _characters=found,
    )


def _shift(imaginary_theta: float, volume: int) -> complex:
    """Return what an imaginary theta adds to the integers n; two plaquettes or one have no charge."""
    return -1j * imaginary_theta / (2 * math.pi) if volume > 2 and imaginary_theta else 0.0


def _charge(action: WilsonAction, found: Characters) -> tuple[float, float]:
    """Return mean and variance per plaquette of the charge: derivatives of log Z by an imaginary theta."""
    volume = action.lattice.volume
    if volume < 3:
        return 0.0, 0.0
    size = len(found.ratio) // 2
    nu = np.arange(-size, size + 1) + _shift(action.imaginary_theta, volume)
    scale = math.exp(found.log_scale - abs(action.beta))
    # Every derivative by an imaginary theta is one by nu times -i / 2 pi.
    first = integral_over_angle(action.beta, nu, lambda p, x: 1j * p * np.sin(x)) / (2 * math.pi * scale)
    second = integral_over_angle(action.beta, nu, lambda p, x: p**2 * np.cos(x)) / (4 * math.pi**2 * scale)
    ratio = found.ratio
    total = (ratio**volume).sum()
    mean = volume * (ratio ** (volume - 1) * first).sum() / total
    square = volume * (volume - 1) * (ratio ** (volume - 2) * first**2).sum()
    square = (square + volume * (ratio ** (volume - 1) * second).sum()) / total
    mean = mean.real if action.imaginary_theta else 0.0  # exactly: a sum of opposite numbers
    return float(mean), float(square.real - mean**2) / volume
