"""The standard observables of a lattice field, and your own, with errors from a chain or a weighted ensemble.

Start with `measure`. `Measurements` holds its results, by attribute and by name, and prints as a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from equiflow.analysis.averages import (
    Average,
    Averages,
    Estimates,
    Observable,
    check_names,
    estimate_observables,
)
from equiflow.analysis.correlators import CoshFit, fit_cosh
from equiflow.analysis.lattice_fields import LatticeFields
from equiflow.analysis.standard import StandardMeasurements, has_standard, measure_listed
from equiflow.runtime.checks import check_type
from equiflow.runtime.progress import progress_as
from equiflow.samplers.samples import Samples, only_lattice_of
from equiflow.statistics import Estimate, noted
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import lattice_of
from equiflow.theories.base.space import Space


@dataclass(frozen=True, repr=False)
class Measurements(ShownAsTable):
    """Averages over the target with their errors.

    `M = mean_x phi_x`; `G(x) = <phi_y phi_{y+x}>`; L and t run along the first axis. For a multiplet,
    products are scalar products, `|M|` is a length, and `M` and `M^3` stand for `M_1` and `|M|^2 M_1`.
    `measurements["binder"]` is `measurements.binder`, and your own observables are found by name in the same
    way. `print(measurements)` shows a table.

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
        correlation_length: second-moment length `xi`, `4 sin^2(pi/L) xi^2 = chi2 / F - 1`; NaN if noise makes
            F larger than chi2.
        pole_mass: m_p of the correlated fit in `mass_fit`.
        mass_times_length: `m_p L`.
        mass_fit: the fit behind the pole mass, with its chi2; see `fit_cosh`. Its mass is `pole_mass`, with
            the error from the fluctuations of the fitted mass.
        moments: `<M>, <M^2>, <M^3>, <M^4>`.
        correlator: zero-momentum two-point function `C(t) = sum_{x_1 = t} G(x)`.
        connected_correlator: `G_c(t) = C(t) - V / L <|M|>^2`, whose sum is the connected susceptibility.
        two_point: `G(x)` at the sites `x = (t, 0, ...)`.
        effective_mass: `arcosh[(C(t-1) + C(t+1)) / (2 C(t))]` for `1 <= t <= L / 2`.
        own: results of your own observables by name; a tuple for an observable of several numbers.
        read_as: as what the configurations were read where nothing but their shape says what they are, in
            words; empty if their space is known.
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
    own: Mapping[str, Estimates] = field(default_factory=dict, repr=False, hash=False)
    read_as: str = field(default="", repr=False, compare=False)

    def scalars(self) -> dict[str, Estimate]:
        """Return all single numbers by name, your own last."""
        return {name: value for name, value in self._by_name().items() if isinstance(value, Estimate)}

    def __getitem__(self, name: str) -> Any:
        """Return a result by its name.

        Raises:
            KeyError: if nothing of this name was measured.
        """
        return self._by_name()[name]

    def _rows(self) -> dict[str, object]:
        """Return the single numbers, the mass fit, and all results of your own observables."""
        rows: dict[str, object] = {"read_as": self.read_as} if self.read_as else {}
        # What is known about the mass stands behind `pole_mass`; here is what the fit says.
        fit = replace(self.mass_fit, mass=replace(self.mass_fit.mass, note=self.mass_fit.note))
        rows |= {**self.scalars(), "mass_fit": fit}
        for name, value in self.own.items():
            if isinstance(value, tuple):
                rows |= {f"{name}[{k}]": one for k, one in enumerate(value)}
        return rows

    def _by_name(self) -> dict[str, Any]:
        """Return all results that exist, by name."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        standard = {name: value for name, value in known.items() if name not in ("own", "read_as")}
        return standard | dict(self.own)


@torch.inference_mode(False)
@torch.no_grad()
def measure(
    source: Samples,
    *,
    action: Action | None = None,
    space: Space | None = None,
    t_min: int | None = None,
    observables: Sequence[Observable] = (),
    progress: bool | None = None,
) -> Measurements | StandardMeasurements:
    """Measure the standard observables of a theory on an ensemble (reweighted) or a chain.

    Real fields on a lattice have `Measurements`. Other theories that list observables, such as links and
    angles, have `StandardMeasurements`, see `measure_standard`.

    The error of a quantity comes from its own fluctuations, to first order in the fluctuations of the
    averages behind it. Along a chain it takes the autocorrelation into account by the Gamma method
    (hep-lat/0306017) and reports it as `tau_int`. The samples of an ensemble are weighted and independent. If
    the source has a certificate, every estimate carries its change under a finer solve as `systematic`.

    Averages along an axis are taken over all axes that are as long as the first.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        action: adds the action density.
        space: of the configurations. Give it for tensors of another program, if no action is given: a
            `Multiplet` looks like a lattice of more dimensions. Where the shape could well be that of
            several spaces, or the numbers those of angles, it is needed; else the fields are taken for
            scalar ones, and the result says so. Samples drawn or loaded here know their space.
        t_min: first time of the fit of the pole mass of real fields; L / 4 by default, but at least 1.
        observables: more quantities, with names of your own. They do not change the standard ones. For a
            theory that has no lattice field see `equiflow.analysis.estimate_observables`.
        progress: whether to show a bar, see `fit`.

    Returns:
        All results with their errors.

    Raises:
        TypeError: if the theory is no field on a lattice and lists no observables, if `t_min` is given for
            one without a mass, or an argument is of another type.
        ValueError: if the configurations are of another space or have NaN values, there are too few samples
            for an error, or a weight is NaN or +inf. Also if an observable has the name of another one.

    >>> from equiflow import HMC, Lattice, Phi4
    >>> from equiflow.analysis import Observable
    >>> action, generator = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0), torch.Generator().manual_seed(0)
    >>> chain = HMC(action, step_size=0.1).sample(40, n_chains=32, n_thermalisation=20, generator=generator)
    >>> links = Observable("links", lambda phi: (phi - phi.roll(-1, 1)).square().mean((1, 2)))
    >>> measured = measure(chain, action=action, observables=[links])
    >>> expected = 2 * (measured.phi_squared.mean - measured.nearest_neighbour.mean)
    >>> abs(measured["links"].sigmas_from(expected)) < 4
    True
    """
    check_type(source, Samples, "source", "Give an Ensemble or a Chain.")
    if action is not None:
        check_type(action, Action, "action")
    name, found, read_as = _space_of(source, action, space)
    if not found.is_real_field:
        if not has_standard(found):
            raise TypeError(
                f"{name} must belong to a real field on a lattice, a Lattice or Multiplet, or to a theory "
                f"that lists observables; got {found}. Use equiflow.analysis.estimate_observables."
            )
        if t_min is not None:
            raise TypeError(f"t_min is for the mass of real fields on a lattice; {name} is {found}.")
        with progress_as(progress):
            return measure_listed(source, found, action, observables)
    check_names(observables, taken=[one.name for one in fields(Measurements)])
    lattice = lattice_of(found)
    lattice_fields = LatticeFields(lattice, action)
    with progress_as(progress):
        averages = Averages.over(source, lattice_fields.averages())
    if not bool(averages.means.isfinite().all()):
        raise ValueError(
            "The configurations, or their action, have NaN or infinite values; expected finite ones."
        )
    correlator = averages.mean_of(lattice_fields.correlator)
    fit = _mass_fit(averages, lattice_fields.correlator, t_min)

    def mass(c: Tensor) -> Tensor:
        # Linear around the fit: differentiable, and as exact as the propagation of all other errors.
        return fit.mass.mean + (c - correlator) @ fit.slope

    standard: dict[str, Any] = averages.estimates(lattice_fields.observables(mass))
    mass_estimate = noted(standard["pole_mass"], fit.note)
    standard |= {
        "pole_mass": mass_estimate,
        "mass_times_length": replace(standard["mass_times_length"], note=mass_estimate.note),
        "mass_fit": replace(fit, mass=mass_estimate),
    }
    own = estimate_observables(source, observables, progress=progress)
    unknown = {"action_density": None} if action is None else {}
    return Measurements(**(standard | unknown), own=own, read_as=read_as)


def _space_of(source: Samples, action: Action | None, space: Space | None) -> tuple[str, Space, str]:
    """Return the space of the configurations, what it is called, and whether it is a guess, in words."""
    if space is not None:
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
    named = {
        "action.space": None if action is None else action.space,
        "space": space,
        "source.space": source.space,
    }
    known = {name: one for name, one in named.items() if one is not None}
    name, found = next(iter(known.items()), ("space", None))
    for other, one in known.items():
        if one != found:
            raise ValueError(f"{name} is {found}, but {other} is {one}; expected the same space.")
    read_as = ""
    if found is None:
        found = only_lattice_of(source.configurations)
        read_as = f"a scalar field on {found}: nothing but the shape says so. Give space=..., if it is not."
    if source.configuration_shape != found.shape:
        raise ValueError(
            f"The configurations have shape {source.configuration_shape}, expected those of {found}."
        )
    return name, found, read_as


def _mass_fit(averages: Averages, correlator_of: Average, t_min: int | None) -> CoshFit:
    """Fit the mass with the correlations of single configurations, scaled to the errors of the averages.

    For independent samples this is the jackknife covariance. Along a chain a covariance of blocks would be
    noisy.
    """
    correlator, fluctuations = averages.mean_of(correlator_of), averages.fluctuations_of(correlator_of)
    error = averages.errors(fluctuations, scale=correlator.abs()).error
    deviations = fluctuations.flatten(0, 1)
    covariance = deviations.T @ deviations
    spread = covariance.diagonal().sqrt()
    covariance = covariance * torch.outer(error / spread, error / spread)
    # The inverse of a covariance from fewer samples is meaningless.
    enough = len(deviations) >= 2 * len(correlator)
    covariance = covariance if enough else math.nan * covariance
    return fit_cosh(correlator, covariance, t_min=t_min)
