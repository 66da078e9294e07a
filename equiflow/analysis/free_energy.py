"""The free energy `-log Z`, from the weights of a flow, from both directions, and along a path of couplings.

The errors of these three ways have little in common, so their agreement is a strong check:

- `ensemble.log_z()`: `log Z = log <exp(-S) / q>_q`, importance weights of model samples alone;
- `log_z_bridge`: Bennett's acceptance ratio (1976), from model samples and samples of the target;
- `log_z_along`: `d log Z / dc = -<dS/dc>`, thermodynamic integration over couplings c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from equiflow.analysis.diagnosis import INVERSE_BATCH_SIZE
from equiflow.flows import Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import in_precision
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.samplers.importance import Ensemble, check_own_weights
from equiflow.samplers.kernel import Chain
from equiflow.samplers.samples import Samples
from equiflow.samplers.weighting import log_weights
from equiflow.statistics import Estimate, bridge_log_z
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily


def log_z_bridge(flow: Flow, action: Action, ensemble: Ensemble, chain: Chain) -> Estimate:
    """Estimate `log Z` of the target from samples of the flow and of the target, see `bridge_log_z`.

    No estimate from these log weights has a smaller error. The error includes the chain's autocorrelations.
    An error of log q shifts this estimate and `ensemble.log_z()` by the same amount, so both have the same
    `systematic`.

    Args:
        flow: the model.
        action: its target, `exp(-S)`.
        ensemble: weighted samples of the flow, not annealed.
        chain: samples of the target.

    Returns:
        log Z with its error.

    Raises:
        ValueError: if the ensemble is annealed, since weights of paths and of samples cannot be compared.
    """
    check_own_weights(ensemble)
    target = chain.series(
        lambda phi: log_weights(
            flow, action, in_precision(phi, flow.dtype).to(flow.device), batch_size=INVERSE_BATCH_SIZE
        )
    )
    estimate = bridge_log_z(ensemble.log_weight, target)
    return replace(estimate, systematic=ensemble.log_z().systematic)


@dataclass(frozen=True)
class CouplingIntegral:
    """A change of `log Z` by thermodynamic integration.

    Attributes:
        change: `log Z` at the end minus `log Z` at the start.
        couplings: points where the slope was measured, from start to end.
        slopes: `d log Z / ds` at these points, with s from 0 to 1 along the path.
        coarse: the change from every second point. If it differs from `change` beyond errors, use more
            points.
    """

    change: Estimate
    couplings: tuple[dict[str, float], ...]
    slopes: tuple[Estimate, ...]
    coarse: Estimate

    def __str__(self) -> str:
        return f"{self.change} ({len(self.slopes)} points; every second one: {self.coarse})"


def log_z_along(
    source: Callable[..., Samples],
    family: ActionFamily,
    start: Mapping[str, float],
    end: Mapping[str, float],
    *,
    n_points: int = 9,
    progress: bool | None = None,
) -> CouplingIntegral:
    """Integrate the slope of log Z along a straight path of couplings.

        log Z(end) - log Z(start) = -int_0^1 ds sum_c (end_c - start_c) <dS/dc>

    The quadrature is Clenshaw-Curtis. Its error falls exponentially with the number of points if the slope is
    smooth, so keep critical points off the path. Statistical errors of the points are added in quadrature,
    solver errors linearly.

    Args:
        source: draws samples at given couplings. Every call must draw anew, since the errors of the points
            are taken as independent. For a conditional flow it is
            `lambda **c: importance_sample(flow.at(**c), family.at(**c), 4096)`, or a chain of `HMC`.
        family: the action for every coupling; it must have `coupling_grad`.
        start: couplings at the start, by name.
        end: couplings at the end, by name.
        n_points: number of points, odd and at least 3, including both ends.
        progress: whether to show a bar, see `fit`.

    Returns:
        The change of log Z with its error, and the slopes behind it.

    Raises:
        TypeError: if `family` is no `ActionFamily`, or `n_points` is not an integer.
        ValueError: if `n_points` is even or below 3, or a coupling is unknown or out of range.
    """
    check_type(family, ActionFamily, "family")
    check_count(n_points, "n_points", minimum=3)
    if n_points % 2 == 0:
        raise ValueError(f"n_points must be odd, so that every second point is a rule too; got {n_points}.")
    first, last = family.couplings.check(start), family.couplings.check(end)
    times, weights = clenshaw_curtis(n_points)
    path = [{c: _between(first[c], last[c], s) for c in first} for s in times.tolist()]
    velocity, found = {c: last[c] - first[c] for c in first}, []
    with progress_as(progress), progress_bar(n_points, "log Z", "point") as bar:
        for point in path:
            found.append(_slope(source(**point), family.at(**point), velocity))
            bar.update()
    slopes = tuple(found)
    _, coarse = clenshaw_curtis(n_points // 2 + 1)
    return CouplingIntegral(
        _weighted_sum(weights, slopes), tuple(path), slopes, _weighted_sum(coarse, slopes[::2])
    )


def _between(start: float, end: float, s: float) -> float:
    """Return `(1 - s) start + s end`, which rounding must not take out of the range of the couplings."""
    return min(max((1 - s) * start + s * end, min(start, end)), max(start, end))


def _slope(source: Samples, action: Action, velocity: Mapping[str, float]) -> Estimate:
    """Estimate `-sum_c dc/ds <dS/dc>` as one observable, so that correlations between the terms count."""

    def slope(phi: Tensor) -> Tensor:
        terms = [-rate * action.coupling_grad(phi, c).double() for c, rate in velocity.items()]
        return sum(terms[1:], terms[0])

    return source.mean(slope)


def _weighted_sum(weights: np.ndarray, estimates: tuple[Estimate, ...]) -> Estimate:
    """Return the weighted sum of independent estimates whose solver errors may all have the same sign."""
    pairs = list(zip(weights.tolist(), estimates, strict=True))
    return Estimate(
        math.fsum(w * e.mean for w, e in pairs),
        math.hypot(*(w * e.error for w, e in pairs)),
        systematic=math.fsum(abs(w) * e.systematic for w, e in pairs),
    )


def clenshaw_curtis(n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points `(1 - cos(pi j / N)) / 2`, j = 0 ... N, and the weights of an integral over `[0, 1]`.

    The rule is exact for polynomials up to degree N. The points for N are every second point for 2 N.

    Args:
        n_points: N + 1, at least 2.

    Returns:
        Points and weights, `(n_points,)` each.
    """
    degree = n_points - 1
    x = -np.cos(np.pi * np.arange(n_points) / degree)
    powers = np.arange(n_points)
    # int_{-1}^1 T_k = 2 / (1 - k^2) for even k; each T_k must be integrated exactly.
    even = powers % 2 == 0
    moments = np.where(even, 2 / (1 - np.where(even, powers, 0.0) ** 2), 0.0)
    vandermonde = np.polynomial.chebyshev.chebvander(x, degree)
    return 0.5 * (1 + x), 0.5 * np.linalg.solve(vandermonde.T, moments)
