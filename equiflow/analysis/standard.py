"""The standard observables of theories other than real fields, as their `Kind` lists them.

`measure_standard` returns them by name. `measure` returns them as `StandardMeasurements`, with your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.analysis.averages import Estimates, Observable, check_names, estimate_observables
from equiflow.runtime.checks import check_type
from equiflow.samplers.kernel import Chain
from equiflow.samplers.samples import Samples
from equiflow.statistics import Estimate, noted
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.theories.base.kind import kind_of, kinds
from equiflow.theories.base.space import Space

#: changes of a charge along a chain below which its averages may depend on where the chain started
MIN_CHANGES = 10
#: part of the updates from which on a charge changes so often that the number of changes does not matter
MIN_CHANGING_PART = 0.2
#: stands for a function of averages that noise has moved out of its domain
UNKNOWN = Estimate(math.nan, math.nan, note="averages too noisy for it")


@dataclass(frozen=True, repr=False)
class StandardMeasurements(ShownAsTable):
    """Averages over the target with their errors, for a theory that is no real field on a lattice.

    `measured["plaquette"]` is `measured.plaquette`. `print(measured)` shows a table.

    Attributes:
        values: all results by name, your own last; a tuple for an observable of several numbers.
        read_as: empty, as in `Measurements`, where the space had to be guessed.
    """

    values: Mapping[str, Estimates]
    read_as: str = ""

    def scalars(self) -> dict[str, Estimate]:
        """Return all single numbers by name."""
        return {name: value for name, value in self.values.items() if isinstance(value, Estimate)}

    def __getitem__(self, name: str) -> Any:
        """Return a result by its name.

        Raises:
            KeyError: if nothing of this name was measured.
        """
        return self.values[name]

    def __getattr__(self, name: str) -> Any:
        """Return a result by its name, as an attribute.

        Raises:
            AttributeError: if nothing of this name was measured.
        """
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"There is no result {name!r}; known: {', '.join(values)}.")
        return values[name]

    def _rows(self) -> dict[str, object]:
        """Return all numbers."""
        rows: dict[str, object] = {}
        for name, value in self.values.items():
            one = isinstance(value, Estimate)
            rows |= {name: value} if one else {f"{name}[{k}]": part for k, part in enumerate(value)}
        return rows


def has_standard(space: Space) -> bool:
    """Return whether the theory of a space is registered and lists standard observables."""
    return any(isinstance(space, kind.space) for kind in kinds()) and bool(kind_of(space).observables(space))


def plain_observables(space: Space) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return those standard observables that have one value for each configuration, by name."""
    return {name: one for name, one in kind_of(space).observables(space).items() if callable(one)}


def measure_standard(source: Samples, *, space: Space | None = None) -> dict[str, Estimate]:
    """Measure the standard observables of a theory other than a real field on a lattice.

    For links these are the plaquette, loops and the topological charge, for angles magnetisation, energy and
    vortices. Real fields have `measure`. See `Samples.mean` for the errors. If a charge, an observable of
    integers, has hardly changed along the chains, all results say so: it may be frozen.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        space: of the configurations; by default the space that the samples know.

    Returns:
        The averages with their errors, by name.

    Raises:
        TypeError: if the theory lists no observables, as real fields do not.
        ValueError: if the space is not known, or another one than that of the samples.

    >>> import torch
    >>> from equiflow import HMC, Lattice, Links, WilsonAction
    >>> action = WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=1.0)
    >>> chain = HMC(action, step_size=0.3).sample(20, generator=torch.Generator().manual_seed(0))
    >>> abs(measure_standard(chain)["plaquette"].sigmas_from(0.4464)) < 4
    True
    """
    check_type(source, Samples, "source", "Give an Ensemble or a Chain.")
    if space is not None and source.space is not None and space != source.space:
        raise ValueError(f"space is {space}, but source.space is {source.space}; expected the same space.")
    space = source.space if space is None else space
    if space is None:
        raise ValueError("The samples do not say of which space they are; give space=....")
    if source.configuration_shape != space.shape:
        raise ValueError(
            f"The configurations have shape {source.configuration_shape}, expected those of {space}."
        )
    known = kind_of(space).observables(space)
    if not known:
        raise TypeError(
            f"No observables are listed for {space.kind}; use measure for real fields on a lattice, "
            "estimate_observables for your own."
        )
    found: dict[str, Estimate | Any] = {}
    for name, one in known.items():
        if callable(one):
            found[name] = source.mean(one)
        else:
            found |= estimate_observables(source, [Observable(name, *one)])
    found = {name: one if one.mean == one.mean else UNKNOWN for name, one in found.items()}
    note = frozen_charge(source, space)
    return {name: noted(estimate, note) for name, estimate in found.items()}


def measure_listed(
    source: Samples, space: Space, action: Action | None, observables: Sequence[Observable]
) -> StandardMeasurements:
    """Measure what a theory lists and what a caller adds, see `measure`.

    Args:
        source: an ensemble or a chain.
        space: of the configurations.
        action: adds the action density, `S / V`, if given.
        observables: of the caller.

    Returns:
        All results.

    Raises:
        ValueError: see `measure`.
    """
    density = [] if action is None else [Observable("action_density", _density_of(action, space))]
    check_names(observables, taken=[*kind_of(space).observables(space), *(one.name for one in density)])
    standard = measure_standard(source, space=space)
    return StandardMeasurements({**standard, **estimate_observables(source, [*density, *observables])})


def frozen_charge(source: Samples, space: Space) -> str:
    """Return the note that a charge hardly changes along chains; empty if there is nothing to note.

    Args:
        source: an ensemble, whose samples are independent, or a chain.
        space: of the configurations; a charge is a standard observable with integer values.

    Returns:
        A few words, such as "topological charge changed 0.5 times per chain of 200: frozen".
    """
    if not isinstance(source, Chain) or len(source.samples) < 2:
        return ""
    for name, observable in plain_observables(space).items():
        series = source.series(observable)
        if not bool((series == series.round()).all()):
            continue
        changing = float((series[1:] != series[:-1]).double().mean())
        n_updates = len(series) - 1
        if changing * n_updates < MIN_CHANGES and changing < MIN_CHANGING_PART:
            times = f"{changing * n_updates:.2g} times per chain of {len(series)}"
            return f"{name.replace('_', ' ')} changed {times}: frozen"
    return ""


def _density_of(action: Action, space: Space) -> Callable[[Tensor], Tensor]:
    """Return the action for each site."""
    sites = space.sites
    volume = 1 if sites is None else torch.Size(sites.shape).numel()
    return lambda phi: action(phi) / volume
