"""The standard set of lattice observables, with errors, from chains or weighted ensembles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiflow.analysis.correlators import (
    CoshFit,
    effective_mass,
    fit_cosh,
    low_momentum,
    second_moment_length,
)
from equiflow.flows import Certificate
from equiflow.runtime.checks import check_type
from equiflow.samplers.importance import Ensemble
from equiflow.samplers.kernel import Chain
from equiflow.statistics import Estimate, error_of_fluctuations, normalised_weights
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar import observables

#: configurations that are measured at a time, in float64, which bounds the memory
AT_ONCE = 1024
#: `|M|, M, M^2, M^3, M^4, phi^2, phi^4, phi_x phi_{x+mu}, S / V` come before the correlators
N_LOCAL = 9

#: what is averaged, from a batch of configurations
OfBatch = Callable[[Tensor], Tensor]
#: one number, 0-d, or several
Quantity = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Measurements:
    """Averages over the target with their errors.

    `M = mean_x phi_x`; `G(x) = <phi_y phi_{y+x}>`; L and t run along the first axis. Of a multiplet products
    are scalar products, `|M|` is a length, and `M` and `M^3` stand for `M_1` and `|M|^2 M_1`.

    Attributes:
        abs_magnetisation: `<|M|>`.
        susceptibility: `chi2 = V <M^2> = sum_x G(x)`.
        connected_susceptibility: `V (<M^2> - <|M|>^2)`.
        phi_squared: `<phi^2>`.
        phi_fourth: `<phi^4>`.
        nearest_neighbour: `E_nn = <phi_x phi_{x+mu}>`, averaged over directions (the "Ising energy").
        action_density: `<S> / V`; None unless `measure` was given the action.
        binder: `U4 = 1 - <M^4> / (3 <M^2>^2)`.
        structure_factor: `F = sum_t C(t) cos(2 pi t / L) = <|phi_p|^2> / V` at the smallest momentum.
        correlation_length: second-moment length `xi`, `4 sin^2(pi/L) xi^2 = chi2 / F - 1`.
        pole_mass: m_p of the correlated fit in `mass_fit`.
        mass_times_length: `m_p L`.
        mass_fit: the fit behind the pole mass, with its chi2; see `fit_cosh`.
        moments: `<M>, <M^2>, <M^3>, <M^4>`.
        correlator: zero-momentum two-point function `C(t) = sum_{x_1 = t} G(x)`.
        connected_correlator: `G_c(t) = C(t) - V / L <|M|>^2`, whose sum is the connected susceptibility.
        two_point: `G(x)` at the sites `x = (t, 0, ...)`.
        effective_mass: `arcosh[(C(t-1) + C(t+1)) / (2 C(t))]` for `1 <= t <= L / 2`.
    """

    abs_magnetisation: Estimate
    susceptibility: Estimate
    connected_susceptibility: Estimate
    phi_squared: Estimate
    phi_fourth: Estimate
    nearest_neighbour: Estimate
    action_density: Estimate | None
    binder: Estimate
    structure_factor: Estimate
    correlation_length: Estimate
    pole_mass: Estimate
    mass_times_length: Estimate
    mass_fit: CoshFit
    moments: tuple[Estimate, ...]
    correlator: tuple[Estimate, ...]
    connected_correlator: tuple[Estimate, ...]
    two_point: tuple[Estimate, ...]
    effective_mass: tuple[Estimate, ...]

    def scalars(self) -> dict[str, Estimate]:
        """All single numbers by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, Estimate)}


@torch.no_grad()
def measure(
    source: Ensemble | Chain,
    *,
    action: Action | None = None,
    space: Space | None = None,
    t_min: int | None = None,
) -> Measurements:
    """Measure the standard observables of a lattice field on an ensemble (reweighted) or a chain.

    Every error is that of the quantity's own fluctuations, to first order in those of the averages
    behind it. Along a chain they have an autocorrelation, which the Gamma method takes into account
    (hep-lat/0306017) and reports as `tau_int`; those of an ensemble are weighted and independent. If the
    source knows its certificate, every estimate carries its change under a finer solve as `systematic`.

    Averages along an axis are taken over all axes that are as long as the first.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        action: adds the action density.
        space: of the configurations, if it is a `Multiplet` and no action says so.
        t_min: first time of the fit of the pole mass; L / 4 by default, but at least 1.

    Raises:
        TypeError: if the action is not one of a field on a lattice.
        ValueError: if there are too few samples for an error, or a weight is NaN or infinite.
    """
    given = tuple(source.phi.shape[1:] if isinstance(source, Ensemble) else source.samples.shape[2:])
    space = action.space if action is not None else Lattice(given) if space is None else space
    remedy = "Only a field on a lattice has these observables."
    check_type(space, (Lattice, Multiplet), "The space of the configurations", remedy)
    if given != space.shape:
        raise ValueError(f"The configurations have shape {given}, expected those of {space}.")
    of_batch = partial(_of_batch, action=action, n_axes=lattice_of(space).dim)
    means, fluctuations = _averages(source, of_batch)
    shape = lattice_of(space).shape
    fit = _mass_fit(means, fluctuations, shape[0], t_min)

    def derived(averages: Tensor) -> dict[str, Quantity]:
        # Linear around the fit: exact to the order of everything else, and differentiable.
        mass = fit.mass.mean + (averages - means)[_correlator(shape[0])] @ fit.slope
        return _derived(averages, shape, mass)

    values, slopes = _with_slopes(derived, means)
    errors = error_of_fluctuations(fluctuations @ slopes.T, scale=slopes.abs() @ means.abs())
    shift = torch.stack(list(_flat(derived(means + _shift(source.certificate, of_batch, means))))) - values
    estimates = [
        errors.estimate(k, mean, systematic=abs(change))
        for k, (mean, change) in enumerate(zip(values.tolist(), shift.tolist(), strict=True))
    ]
    found = _grouped(derived(means), estimates)
    return Measurements(**found | ({"action_density": None} if action is None else {}), mass_fit=fit)


def _averages(source: Ensemble | Chain, of_batch: OfBatch) -> tuple[Tensor, Tensor]:
    """Averages over the target, `(a,)`, and deviations from them, `(n, n_chains, a)`.

    An ensemble is as many chains of one sample. The deviations of its reweighted averages are
    `w / mean w (O - <O>)`.
    """
    if isinstance(source, Ensemble):
        if len(source.phi) < 2:
            raise ValueError(f"measure needs at least 2 samples, got {len(source.phi)}.")
        weight = normalised_weights(source.log_weight)
        weight = (weight / weight.mean())[:, None]
        values = _per_configuration(source.phi, of_batch)
        means = (weight * values).mean(0)
        return means, (weight * (values - means))[None]
    n, n_chains = source.samples.shape[:2]
    if n < 4 and n_chains < 2:
        raise ValueError(f"measure needs a chain of n >= 4 samples, or several chains; got n = {n} of one.")
    values = _per_configuration(source.samples.flatten(0, 1), of_batch).unflatten(0, (n, n_chains))
    means = values.mean((0, 1))
    return means, values - means


def _per_configuration(phi: Tensor, of_batch: OfBatch) -> Tensor:
    """What is averaged: `N_LOCAL` numbers, `C(t)`, `G(t, 0, ...)`, `(batch, N_LOCAL + 2 side)` in float64."""
    return torch.cat([of_batch(part) for part in phi.split(AT_ONCE)])


def _of_batch(phi: Tensor, *, action: Action | None, n_axes: int) -> Tensor:
    """See `_per_configuration`; the lattice axes are the last `n_axes` ones."""
    density = torch.zeros(len(phi)).to(phi) if action is None else observables.action_density(phi, action)
    phi = phi.double().reshape(len(phi), -1, *phi.shape[-n_axes:])

    def summed(observable: Callable[[Tensor], Tensor]) -> Tensor:
        """Over the components."""
        return observable(phi.flatten(0, 1)).unflatten(0, phi.shape[:2]).sum(1)

    m = observables.magnetisation(phi.flatten(0, 1)).view(phi.shape[:2])
    length, first = torch.linalg.vector_norm(m, dim=1), m[:, 0]
    powers = (length, first, length**2, length**2 * first, length**4)
    phi_fourth = phi.square().sum(1).square().flatten(1).mean(1)
    local = (summed(observables.phi_squared), phi_fourth, summed(observables.nearest_neighbour))
    columns = [torch.stack([*powers, *local, density.double()], 1)]
    shape = phi.shape[2:]
    equal = [axis for axis, side in enumerate(shape) if side == shape[0]]
    for observable in (observables.zero_momentum_correlator, observables.axis_two_point):
        columns.append(torch.stack([summed(partial(observable, axis=axis)) for axis in equal]).mean(0))
    return torch.cat(columns, 1)


def _correlator(side: int) -> slice:
    """Where `C(t)` is among the averages."""
    return slice(N_LOCAL, N_LOCAL + side)


def _derived(averages: Tensor, shape: tuple[int, ...], mass: Tensor) -> dict[str, Quantity]:
    """The fields of `Measurements` from averages over the target and the mass, each number 0-d."""
    abs_m, m1, m2, m3, m4, phi2, phi4, neighbour, density = averages[:N_LOCAL].unbind()
    volume, side = math.prod(shape), shape[0]
    correlator, two_point = averages[_correlator(side)], averages[N_LOCAL + side :]
    return {
        "abs_magnetisation": abs_m,
        "susceptibility": volume * m2,
        "connected_susceptibility": volume * (m2 - abs_m.square()),
        "phi_squared": phi2,
        "phi_fourth": phi4,
        "nearest_neighbour": neighbour,
        "action_density": density,
        "binder": 1 - m4 / (3 * m2.square()),
        "structure_factor": low_momentum(correlator),
        "correlation_length": second_moment_length(correlator),
        "pole_mass": mass,
        "mass_times_length": side * mass,
        "moments": (m1, m2, m3, m4),
        "correlator": correlator.unbind(),
        "connected_correlator": (correlator - volume / side * abs_m.square()).unbind(),
        "two_point": two_point.unbind(),
        "effective_mass": effective_mass(correlator),
    }


def _mass_fit(means: Tensor, fluctuations: Tensor, side: int, t_min: int | None) -> CoshFit:
    """Fit with the correlations of single configurations, scaled to the errors of the averages.

    For independent samples this is the jackknife covariance; that of blocks of a chain would be noisy.
    """
    deviations = fluctuations[..., _correlator(side)]
    error = error_of_fluctuations(deviations, scale=means[_correlator(side)].abs()).error
    deviations = deviations.flatten(0, 1)
    covariance = deviations.T @ deviations
    spread = covariance.diagonal().sqrt()
    covariance = covariance * torch.outer(error / spread, error / spread)
    # Fewer samples say nothing about the inverse of a covariance.
    enough = len(deviations) >= 2 * side
    covariance = covariance if enough else math.nan * covariance
    return fit_cosh(means[_correlator(side)], covariance, t_min=t_min)


def _flat(groups: Mapping[str, Quantity]) -> Iterator[Tensor]:
    for group in groups.values():
        yield from (group,) if isinstance(group, Tensor) else group


def _grouped(groups: Mapping[str, Quantity], estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Estimates in the places of the numbers that `_flat` took out."""
    rest = iter(estimates)
    return {
        name: next(rest) if isinstance(group, Tensor) else tuple(itertools.islice(rest, len(group)))
        for name, group in groups.items()
    }


def _with_slopes(derived: Callable[[Tensor], dict[str, Quantity]], means: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers, `(k,)`, and their derivatives in the averages, `(k, a)`.

    One at a time: a number that does not exist has no derivative, and would spoil those of the others.
    """
    leaf = means.clone().requires_grad_()
    with torch.enable_grad():
        numbers = list(_flat(derived(leaf)))
    slopes = [torch.autograd.grad(number, leaf, retain_graph=True)[0] for number in numbers]
    return torch.stack(numbers).detach(), torch.stack(slopes)


def _shift(certificate: Certificate | None, of_batch: OfBatch, means: Tensor) -> Tensor:
    """Change of the averages under a finer solve; zero where no flow is involved."""
    if certificate is None or certificate.n_samples == 0:
        return torch.zeros_like(means)
    twice = certificate.samples
    before = torch.softmax(twice.log_weight.double(), 0) @ _per_configuration(twice.phi, of_batch)
    after = torch.softmax(twice.refined_log_weight.double(), 0) @ _per_configuration(
        twice.refined_phi, of_batch
    )
    return (after - before).to(means)
