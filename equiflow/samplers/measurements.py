"""The standard set of lattice observables, with errors, from chains or weighted ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow import observables
from equiflow.samplers.chain import Chain
from equiflow.samplers.importance import Ensemble
from equiflow.statistics import Estimate, jackknife, jackknife_estimate, normalised_weights


@dataclass(frozen=True)
class Measurements:
    """Averages over the target with jackknife errors.

    Attributes:
        abs_magnetisation: `<|M|>`.
        susceptibility: `chi2 = V <M^2> = sum_x G(x)`.
        phi_squared: `<phi^2>`.
        nearest_neighbour: `<phi_x phi_{x+mu}>`, averaged over directions.
        binder: `U4 = 1 - <M^4> / (3 <M^2>^2)`.
        correlation_length: second-moment length `xi`, `4 sin^2(pi/L) xi^2 = chi2 / F - 1` with F the
            structure factor at the smallest momentum along the first axis.
        pole_mass: from `cosh m = (C(t-1) + C(t+1)) / (2 C(t))` in the middle of the first axis.
        mass_times_length: `m_p L`, pole mass times the first side.
        correlator: zero-momentum two-point function `C(t)` along the first axis.
    """

    abs_magnetisation: Estimate
    susceptibility: Estimate
    phi_squared: Estimate
    nearest_neighbour: Estimate
    binder: Estimate
    correlation_length: Estimate
    pole_mass: Estimate
    mass_times_length: Estimate
    correlator: tuple[Estimate, ...]

    def scalars(self) -> dict[str, Estimate]:
        """All single numbers by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, Estimate)}


def measure(source: Ensemble | Chain, *, n_blocks: int = 64) -> Measurements:
    """Measure the standard observables on an ensemble (reweighted) or a chain.

    On a square lattice the correlator is averaged over the axes of equal length.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        n_blocks: jackknife blocks; for a chain they should be longer than its autocorrelation time.
    """
    if isinstance(source, Ensemble):
        phi, weight = source.phi, normalised_weights(source.log_weight)
    else:
        phi = source.configurations
        weight = torch.ones(len(phi), dtype=torch.float64, device=phi.device)
    magnetisation = observables.magnetisation(phi).double()
    correlator = _correlator(phi).double()
    side, volume = phi.shape[1], math.prod(phi.shape[1:])
    phase = torch.cos(2 * math.pi * torch.arange(side, device=phi.device).double() / side)

    def mean_of(values: Tensor) -> Estimate:
        return jackknife_estimate(lambda wo, w: wo / w, weight * values.double(), weight, n_blocks=n_blocks)

    def of_correlator(function: Callable[[Tensor], Tensor]) -> Estimate:
        return jackknife_estimate(
            lambda wc, w: function(wc / w), weight[:, None] * correlator, weight, n_blocks=n_blocks
        )

    mean, error = jackknife(lambda wc, w: wc / w, weight[:, None] * correlator, weight, n_blocks=n_blocks)
    mass = of_correlator(pole_mass)
    return Measurements(
        abs_magnetisation=mean_of(magnetisation.abs()),
        susceptibility=mean_of(volume * magnetisation.square()),
        phi_squared=mean_of(observables.phi_squared(phi)),
        nearest_neighbour=mean_of(observables.nearest_neighbour(phi)),
        binder=jackknife_estimate(
            lambda m4, m2, w: 1 - m4 * w / (3 * m2.square()),
            weight * magnetisation**4,
            weight * magnetisation**2,
            weight,
            n_blocks=n_blocks,
        ),
        correlation_length=of_correlator(lambda c: second_moment_length(c, phase)),
        pole_mass=mass,
        mass_times_length=Estimate(mass.mean * side, mass.error * side),
        correlator=tuple(Estimate(m, e) for m, e in zip(mean.tolist(), error.tolist(), strict=True)),
    )


def second_moment_length(correlator: Tensor, phase: Tensor) -> Tensor:
    """`xi = sqrt(sum_t C(t) / sum_t C(t) cos(2 pi t / L) - 1) / (2 sin(pi / L))`."""
    side = len(phase)
    excess = correlator.sum() / (correlator @ phase) - 1
    return excess.clamp(min=0).sqrt() / (2 * math.sin(math.pi / side))


def pole_mass(correlator: Tensor) -> Tensor:
    """Mass of `C(t) ~ cosh(m (t - L/2))`, weighted towards the middle `L/4 <= t <= L/2`.

    `sum_t (C(t-1) + C(t+1)) / (2 sum_t C(t)) = cosh m` holds for every such window; NaN where noise
    makes the ratio smaller than 1 or the side is too short (< 4).
    """
    side = len(correlator)
    if side < 4:
        return correlator.new_tensor(math.nan)
    middle = torch.arange(max(1, side // 4), side // 2 + 1, device=correlator.device)
    around = correlator[(middle - 1) % side] + correlator[(middle + 1) % side]
    return torch.acosh(around.sum() / (2 * correlator[middle].sum()))


def _correlator(phi: Tensor) -> Tensor:
    equal = [axis for axis in range(phi.dim() - 1) if phi.shape[axis + 1] == phi.shape[1]]
    return torch.stack([observables.zero_momentum_correlator(phi, axis) for axis in equal]).mean(0)
