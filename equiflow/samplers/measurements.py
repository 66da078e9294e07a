"""The standard set of lattice observables, with errors, from chains or weighted ensembles."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from equiflow import observables
from equiflow.samplers.chain import Chain
from equiflow.samplers.importance import Ensemble
from equiflow.statistics import Estimate, jackknife, normalised_weights


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


_SINGLE = tuple(f.name for f in fields(Measurements) if f.name != "correlator")


def measure(source: Ensemble | Chain, *, n_blocks: int = 64) -> Measurements:
    """Measure the standard observables on an ensemble (reweighted) or a chain.

    The correlator is averaged over all axes that are as long as the first. If the source knows its
    certificate, every estimate carries its change under a finer solve as `systematic`.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        n_blocks: jackknife blocks; for a chain they should be longer than its autocorrelation time.
    """
    if isinstance(source, Ensemble):
        phi, weight = source.phi, normalised_weights(source.log_weight)
    else:
        phi = source.configurations
        weight = torch.ones(len(phi), dtype=torch.float64, device=phi.device)
    if len(phi) < 2:
        raise ValueError(f"measure needs at least 2 samples, got {len(phi)}.")
    values, volume, side = _per_configuration(phi), math.prod(phi.shape[1:]), phi.shape[1]

    def derived(averages: Tensor) -> Tensor:
        return _derived(averages, volume, side)

    mean, error = jackknife(
        lambda wo, w: derived(wo / w), weight[:, None] * values, weight, n_blocks=n_blocks
    )
    averages = weight @ values / weight.sum()
    shift = derived(averages + _shift(source, len(averages)).to(averages)) - derived(averages)
    estimates = [
        Estimate(m, e, systematic=abs(s))
        for m, e, s in zip(mean.tolist(), error.tolist(), shift.tolist(), strict=True)
    ]
    single = zip(_SINGLE, estimates, strict=False)
    return Measurements(**dict(single), correlator=tuple(estimates[len(_SINGLE) :]))


def _per_configuration(phi: Tensor) -> Tensor:
    """What is averaged: `|M|, M^2, M^4, phi^2, phi phi', C(t)`, `(batch, 5 + side)`."""
    m = observables.magnetisation(phi)
    single = (m.abs(), m**2, m**4, observables.phi_squared(phi), observables.nearest_neighbour(phi))
    equal = [axis for axis in range(phi.dim() - 1) if phi.shape[axis + 1] == phi.shape[1]]
    correlators = [observables.zero_momentum_correlator(phi, axis) for axis in equal]
    return torch.cat([torch.stack(single, 1), torch.stack(correlators).mean(0)], 1).double()


def _derived(averages: Tensor, volume: int, side: int) -> Tensor:
    """All fields of `Measurements`, in their order, from averages over the target."""
    abs_m, m2, m4, phi2, neighbour = averages[:5]
    correlator = averages[5:]
    mass = pole_mass(correlator)
    single = (
        abs_m,
        volume * m2,
        phi2,
        neighbour,
        1 - m4 / (3 * m2.square()),
        second_moment_length(correlator),
        mass,
        mass * side,
    )
    return torch.cat([torch.stack(single), correlator])


def _shift(source: Ensemble | Chain, size: int) -> Tensor:
    """Change of the averages under a finer solve; zero where no flow is involved."""
    certificate = source.certificate
    if certificate is None or certificate.n_samples == 0:
        return torch.zeros(size)
    twice = certificate.samples
    before = torch.softmax(twice.log_weight.double(), 0) @ _per_configuration(twice.phi)
    after = torch.softmax(twice.refined_log_weight.double(), 0) @ _per_configuration(twice.refined_phi)
    return after - before


def second_moment_length(correlator: Tensor) -> Tensor:
    """`xi = sqrt(sum_t C(t) / sum_t C(t) cos(2 pi t / L) - 1) / (2 sin(pi / L))`; NaN for L = 1."""
    side = len(correlator)
    if side == 1:
        return correlator.new_tensor(math.nan)
    phase = torch.cos(2 * math.pi * torch.arange(side).to(correlator) / side)
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
