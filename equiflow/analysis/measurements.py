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
    Averages,
    Estimates,
    Linear,
    Observable,
    check_names,
    estimate_observables,
)
from equiflow.analysis.correlators import CoshFit, fit_cosh
from equiflow.analysis.lattice_fields import LatticeFields
from equiflow.analysis.sign import is_even
from equiflow.analysis.standard import StandardMeasurements, has_standard, measure_listed
from equiflow.runtime.checks import check_flag, check_type
from equiflow.runtime.progress import progress_as
from equiflow.samplers.samples import Samples, only_lattice_of
from equiflow.statistics import Estimate, noted
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import lattice_of
from equiflow.theories.base.space import Space

#: distance of <M> from 0, in errors, from which connected quantities that assume <M> = 0 say so
MEAN_NOT_ZERO = 5.0
#: what is computed on the assumption that <M> = 0, see `Measurements.z2`
ASSUME_NO_MEAN = ("correlation_length", "pole_mass", "mass_times_length")


@dataclass(frozen=True, repr=False)
class Measurements(ShownAsTable):
    """Averages over the target with their errors.

    `M = mean_x phi_x`; `G(x) = <phi_y phi_{y+x}>`; L and t run along the first axis. For a multiplet,
    products are scalar products, `|M|` is a length, and `M` and `M^3` stand for `M_1` and `|M|^2 M_1`.
    `measurements["binder"]` is `measurements.binder`, and your own observables are found by name in the same
    way. `print(measurements)` shows a table.

    Where `phi -> -phi` is a symmetry, `<phi> = 0`. Masses and lengths follow from `C(t)`, and connected
    quantities subtract `<|M|>`, the magnetisation of a phase where the symmetry is broken:

        chi_c = V (<M^2> - <|M|>^2),  C_c(t) = C(t) - V / L <|M|>^2,  U4 = 1 - <M^4> / (3 <M^2>^2).

    Where it is no symmetry, `<M>` is subtracted everywhere, also for masses and lengths, with `d = M - <M>`:

        chi_c = V (<M^2> - <M>^2),  C_c(t) = C(t) - V / L <M>^2,  U4 = 1 - <d^4> / (3 <d^2>^2).

    Errors include those of `<M>`. For a multiplet, `C_c(t)` sums longitudinal and transverse components.

    Attributes:
        magnetisation: `<M> = <phi>`, of a multiplet `<M_1>`.
        abs_magnetisation: `<|M|>`.
        susceptibility: `chi2 = V <M^2> = sum_x G(x)`.
        connected_susceptibility: see above; the sum of `connected_correlator`.
        phi_squared: `<phi^2>`.
        phi_fourth: `<phi^4>`.
        nearest_neighbour: `E_nn = <phi_x phi_{x+mu}>`, averaged over directions (the "Ising energy").
        action_density: `<S> / V`; None unless `measure` was given the action.
        binder: cumulant `U4`, see above; 0 for Gaussian fluctuations of a scalar field.
        structure_factor: `F = sum_t C(t) cos(2 pi t / L) = <|phi_p|^2> / V` at the smallest momentum.
        correlation_length: second-moment length `xi`, `4 sin^2(pi/L) xi^2 = chi2 / F - 1`, or `chi_c / F - 1`
            without Z2; NaN if noise makes F the larger one.
        pole_mass: m_p of the correlated fit in `mass_fit`.
        mass_times_length: `m_p L`.
        mass_fit: the fit behind the pole mass, with its chi2; see `fit_cosh`. Its mass is `pole_mass`, with
            the error from the fluctuations of the fitted mass.
        moments: `<M>, <M^2>, <M^3>, <M^4>`.
        correlator: zero-momentum two-point function `C(t) = sum_{x_1 = t} G(x)`.
        connected_correlator: `C(t)` less its part that does not decay, see above.
        two_point: `G(x)` at the sites `x = (t, 0, ...)`.
        effective_mass: `arcosh[(C(t-1) + C(t+1)) / (2 C(t))]` for `1 <= t <= L / 2`, without Z2 of `C_c`.
        component_means: `<M_a>` of every component; of a scalar field `<M>` alone.
        z2: whether `phi -> -phi` was taken for a symmetry, see above.
        own: results of your own observables by name; a tuple for an observable of several numbers.
        read_as: as what the configurations were read where nothing but their shape says what they are, in
            words; empty if their space is known.
    """

    magnetisation: Estimate
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
    component_means: tuple[Estimate, ...]
    z2: bool = True
    own: Mapping[str, Estimates] = field(default_factory=dict, repr=False, hash=False)
    read_as: str = field(default="", repr=False, compare=False)

    @property
    def decaying_correlator(self) -> tuple[Estimate, ...]:
        """The correlator that masses and lengths follow from: `correlator`, without Z2 the connected one."""
        return self.correlator if self.z2 else self.connected_correlator

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
        rows |= {} if self.z2 else {"connected": "<M> is subtracted, as phi -> -phi is no symmetry"}
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
        standard = {name: value for name, value in known.items() if name not in ("own", "read_as", "z2")}
        return standard | dict(self.own)


@torch.inference_mode(False)
@torch.no_grad()
def measure(
    source: Samples,
    *,
    action: Action | None = None,
    space: Space | None = None,
    t_min: int | None = None,
    z2: bool | None = None,
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
        action: adds the action density, and tells whether `phi -> -phi` is a symmetry.
        space: of the configurations. Give it for tensors of another program, if no action is given: a
            `Multiplet` looks like a lattice of more dimensions. Where the shape could well be that of
            several spaces, or the numbers those of angles, it is needed; else the fields are taken for
            scalar ones, and the result says so. Samples drawn or loaded here know their space.
        t_min: first time of the fit of the pole mass of real fields; L / 4 by default, but at least 1.
        z2: whether `phi -> -phi` is a symmetry of real fields, and `<phi> = 0` by it. If not, `<M>` is
            subtracted, see `Measurements`. By default the action is compared with itself at -phi; without an
            action it is taken for symmetric, and results say so if `<M>` is clearly not 0. Give False for
            samples of one sector in a broken phase.
        observables: more quantities, with names of your own. They do not change the standard ones. For a
            theory that has no lattice field see `equiflow.analysis.estimate_observables`.
        progress: whether to show a bar, see `fit`.

    Returns:
        All results with their errors.

    Raises:
        TypeError: if the theory is no field on a lattice and lists no observables, if `t_min` or `z2` is
            given for one that is no real field, or an argument is of another type.
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
    if z2 is not None:
        z2 = check_flag(z2, "z2")
    name, found, read_as = _space_of(source, action, space)
    if not found.is_real_field:
        if not has_standard(found):
            raise TypeError(
                f"{name} must belong to a real field on a lattice, a Lattice or Multiplet, or to a theory "
                f"that lists observables; got {found}. Use equiflow.analysis.estimate_observables."
            )
        for option, value in (("t_min", t_min), ("z2", z2)):
            if value is not None:
                raise TypeError(f"{option} is for the mass of real fields on a lattice; {name} is {found}.")
        with progress_as(progress):
            return measure_listed(source, found, action, observables)
    check_names(observables, taken=[one.name for one in fields(Measurements)])
    if z2 is None:
        z2 = action is None or is_even(action, source.configurations)
    lattice_fields = LatticeFields(lattice_of(found), action, z2)
    with progress_as(progress):
        averages = Averages.over(source, lattice_fields.averages())
    if not bool(averages.means.isfinite().all()):
        raise ValueError(
            "The configurations, or their action, have NaN or infinite values; expected finite ones."
        )
    standard = _estimates(averages, lattice_fields, t_min)
    own = estimate_observables(source, observables, progress=progress)
    unknown = {"action_density": None} if action is None else {}
    return Measurements(**(standard | unknown), own=own, read_as=read_as, z2=z2)


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


def _estimates(averages: Averages, of_fields: LatticeFields, t_min: int | None) -> dict[str, Any]:
    """Return the standard results by name."""
    correlator = averages.linear([of_fields.of_states("correlator", lambda c: c)])
    fit = _mass_fit(averages, correlator, t_min)

    def mass(c: Tensor) -> Tensor:
        # Linear around the fit: differentiable, and as exact as the propagation of all other errors.
        return fit.mass.mean + (c - correlator.values) @ fit.slope

    found: dict[str, Any] = averages.estimates(of_fields.observables(mass))
    found["pole_mass"] = noted(found["pole_mass"], fit.note)
    found["mass_times_length"] = noted(found["mass_times_length"], fit.note)
    if of_fields.z2:
        mean = _mean_of_symmetric(found["component_means"])
        found |= {name: noted(found[name], mean) for name in ASSUME_NO_MEAN}
    return found | {"mass_fit": replace(fit, mass=found["pole_mass"])}


def _mean_of_symmetric(components: Sequence[Estimate]) -> str:
    """Return the note that fields which are to be symmetric have a mean; empty if they have none."""
    far = max((abs(mean.sigmas_from(0.0)) for mean in components), default=0.0)
    return f"<M> is {far:.0f} sigma from 0: z2=False subtracts it" if far > MEAN_NOT_ZERO else ""


def _mass_fit(averages: Averages, correlator: Linear, t_min: int | None) -> CoshFit:
    """Fit the mass with the correlations of single configurations, scaled to the errors of the averages.

    For independent samples this is the jackknife covariance. Along a chain a covariance of blocks would be
    noisy.
    """
    error = averages.errors(correlator.fluctuations, scale=correlator.scale).error
    deviations = correlator.fluctuations.flatten(0, 1)
    covariance = deviations.T @ deviations
    spread = covariance.diagonal().sqrt()
    covariance = covariance * torch.outer(error / spread, error / spread)
    # The inverse of a covariance from fewer samples is meaningless.
    enough = len(deviations) >= 2 * len(correlator.values)
    covariance = covariance if enough else math.nan * covariance
    return fit_cosh(correlator.values, covariance, t_min=t_min)
