"""Masses and lengths from an averaged zero-momentum correlator `C(t)`, t = 0 ... side - 1.

On a periodic side a single state of mass m gives `C(t) = A (exp(-m t) + exp(-m (side - t)))`. A free field
has one state, with `cosh m = 1 + m2 / 2`. `measure` does all of this for samples; start with `fit_cosh` for a
correlator of your own. Where `<phi>` is not 0, take its square off the correlator first: a constant part does
not decay and has no mass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.runtime.checks import check_type, plain
from equiflow.statistics import Estimate

#: smallest `m * side` that a fit can tell from zero
MIN_MASS_TIMES_SIDE = 0.02
#: largest mass that a fit can find, in lattice units; a larger one would be noise at the first t of a window
MAX_MASS = 20.0
#: probability of chi2 below which a fit is flagged
MIN_P_VALUE = 0.01
#: masses at which a fit looks for its start
N_MASSES_TRIED = 60


def low_momentum(correlator: Tensor) -> Tensor:
    """Return the structure factor at the smallest momentum, `F = sum_t C(t) cos(2 pi t / side)`, 0-d."""
    side = len(correlator)
    return correlator @ torch.cos(2 * math.pi * torch.arange(side).to(correlator) / side)


def second_moment_length(correlator: Tensor) -> Tensor:
    """Return the second-moment length `xi = sqrt(chi2 / F - 1) / (2 sin(pi / side))`, 0-d.

    Here `chi2 = sum_t C(t)`, and F is `low_momentum`. A propagator `1 / (p^2 + xi^-2)` has
    `chi2 / F = 1 + 4 sin^2(pi / side) xi^2`. The length is NaN for a side of 1, and if noise makes F larger
    than chi2: then the data only say that xi is too small to be seen.
    """
    side = len(correlator)
    if side == 1:
        return math.nan * correlator.sum()
    excess = correlator.sum() / low_momentum(correlator) - 1
    return excess.sqrt() / (2 * math.sin(math.pi / side))


def effective_mass(correlator: Tensor) -> list[Tensor]:
    """Return `m(t) = arcosh[(C(t-1) + C(t+1)) / (2 C(t))]` for `1 <= t <= side / 2`, each 0-d.

    It is constant where a single state is left, and NaN where noise makes the ratio smaller than 1.
    """
    side = len(correlator)
    times = range(1, side // 2 + 1)
    around = [correlator[t - 1] + correlator[(t + 1) % side] for t in times]
    return [torch.acosh(c / (2 * correlator[t])) for c, t in zip(around, times, strict=True)]


@dataclass(frozen=True)
class CoshFit:
    """Least squares fit of `A (exp(-m t) + exp(-m (side - t)))` to a correlator.

    Attributes:
        mass: m with its error from the covariance, in lattice units; NaN if no mass fits.
        amplitude: A.
        chi2: sum of squared deviations in units of the covariance. It is about `dof` if one state is enough.
        dof: number of fitted points minus 2.
        window: first and last t of the fit.
        slope: `d mass / d C(t)` at fixed covariance, `(side,)`; 0 outside of the window.
    """

    mass: Estimate
    amplitude: Estimate
    chi2: float
    dof: int
    window: tuple[int, int]
    slope: Tensor = field(repr=False, compare=False)

    @property
    def p_value(self) -> float:
        """Probability of a larger `chi2` if there is a single state; NaN for `dof` = 0."""
        from scipy import special  # here, because it takes longer to import than all of this package

        return float(special.chdtrc(self.dof, self.chi2)) if self.dof > 0 else math.nan

    @property
    def note(self) -> str:
        """What is wrong with the fit, in words; empty if `p_value` is not below `MIN_P_VALUE`."""
        # For dof = 0 there is no p-value, and the comparison is false.
        return "bad fit: several states, choose a larger t_min" if self.p_value < MIN_P_VALUE else ""

    def __str__(self) -> str:
        first, last = self.window
        mass = replace(self.mass, note=self.mass.note or self.note)
        return f"m = {mass} from t = {first} to {last}, chi2 / dof = {self.chi2:.2f} / {self.dof}"


def fit_cosh(correlator: Tensor, covariance: Tensor, *, t_min: int | None = None) -> CoshFit:
    """Fit one state to `t_min <= t <= side / 2`, with all correlations between times.

    The fit minimises `chi2 = r^T cov^-1 r` with `r = C(t) - A (exp(-m t) + exp(-m (side - t)))`. Neighbouring
    times fluctuate together, so a fit without the correlations gets both chi2 and the error wrong.

    Args:
        correlator: averaged `C(t)`, `(side,)`.
        covariance: of the averages, `(side, side)`.
        t_min: first time; `side / 4` by default, but at least 1.

    Returns:
        The fit. Its mass is NaN if the window has less than two points, the covariance cannot be inverted or
        the correlator does not decay.

    Raises:
        TypeError: if `t_min` is no integer.
        ValueError: if `t_min` is not between 0 and half of the side.
    """
    side = len(correlator)
    if t_min is not None:
        check_type(t_min, int, "t_min")
    if t_min is not None and not 0 <= t_min <= side // 2:
        raise ValueError(f"t_min must be 0 to side / 2 = {side // 2}, got {t_min}.")
    window = (max(1, side // 4) if t_min is None else plain(t_min), side // 2)
    t = np.arange(window[0], window[1] + 1)
    unknown = Estimate(math.nan, math.nan)
    slope = torch.full_like(correlator, math.nan, dtype=torch.float64)
    none = CoshFit(unknown, unknown, math.nan, max(0, len(t) - 2), window, slope)
    inside = _float64(covariance)[np.ix_(t, t)]
    if len(t) < 2 or not np.isfinite(inside).all():
        return none
    try:
        whiten = np.linalg.inv(np.linalg.cholesky(inside))
    except np.linalg.LinAlgError:
        return none
    mass, first, found = _least_squares(whiten, whiten @ _float64(correlator)[t], t, side)
    # A mass at the bound of the search is no minimum.
    if not MIN_MASS_TIMES_SIDE / side < mass < 0.99 * MAX_MASS or first <= 0:
        return none
    # Around the minimum d(log m, A) = pinv(J) whiten dC, where whiten dC has unit covariance.
    linear = np.linalg.pinv(found.jac)
    mass_error, first_error = np.linalg.norm(linear, axis=1) * (mass, 1.0)
    norm = math.exp(-mass * t[0]) + math.exp(-mass * (side - t[0]))
    slope = torch.zeros_like(slope)
    slope[t] = torch.from_numpy(mass * (linear @ whiten)[0]).to(slope)
    return CoshFit(
        Estimate(mass, float(mass_error)),
        Estimate(first / norm, float(first_error) / norm),
        2 * float(found.cost),
        len(t) - 2,
        window,
        slope,
    )


def _least_squares(
    whiten: np.ndarray, data: np.ndarray, t: np.ndarray, side: int
) -> tuple[float, float, Any]:
    """Return the mass, C at the first t, and scipy's result for the parameters `(log m, C)`."""
    from scipy import optimize  # here, see `CoshFit.p_value`

    def residual(parameters: np.ndarray) -> np.ndarray:
        log_mass, first = parameters
        return first * (whiten @ _shape(math.exp(log_mass), t, side)) - data

    bounds = ([math.log(1e-2 * MIN_MASS_TIMES_SIDE / side), -np.inf], [math.log(MAX_MASS), np.inf])
    start = _start(whiten, data, t, side)
    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    found = optimize.least_squares(residual, start, bounds=bounds, x_scale="jac", **tolerances)
    return math.exp(found.x[0]), float(found.x[1]), found


def _float64(values: Tensor) -> np.ndarray:
    """Return a tensor as an array in float64."""
    return values.detach().double().cpu().numpy()


def _shape(mass: float, t: np.ndarray, side: int) -> np.ndarray:
    """Return `exp(-m t) + exp(-m (side - t))`, scaled to 1 at the first t."""
    waves = np.exp(-mass * (t - t[0])) + np.exp(-mass * (side - t - t[0]))
    return waves / (1 + math.exp(-mass * (side - 2 * t[0])))


def _start(whiten: np.ndarray, data: np.ndarray, t: np.ndarray, side: int) -> tuple[float, float]:
    """Return the best `log m` and C of a grid of masses, since chi2 may have several local minima."""
    masses = np.geomspace(MIN_MASS_TIMES_SIDE / side, 0.5 * MAX_MASS, N_MASSES_TRIED)
    shapes = np.stack([_shape(mass, t, side) for mass in masses]) @ whiten.T
    first = shapes @ data / (shapes**2).sum(1)
    best = int(((first[:, None] * shapes - data) ** 2).sum(1).argmin())
    return math.log(masses[best]), float(first[best])
