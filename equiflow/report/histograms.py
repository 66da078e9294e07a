"""Figures of how observables are distributed, and how they move along chains; see `equiflow.report.plots`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from equiflow.report.style import FLOW, MUTED, REFERENCE, legend_below, new_figure, styled
from equiflow.samplers import Chain, Ensemble
from equiflow.samplers.samples import per_configuration
from equiflow.theories.scalar import observables as scalar_observables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def magnetisation(
    ensemble: Ensemble, chain: Chain | None = None, *, label: str = "HMC", title: str = ""
) -> Figure:
    """Plot histograms of M for the model, the reweighted model and a reference.

    A dropped mode shows here.

    Args:
        ensemble: weighted samples of the flow, a scalar field.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference, and where it comes from.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, (5.8, 4), title=title)
    model = as_array(scalar_observables.magnetisation(ensemble.phi))
    reference = None if chain is None else as_array(scalar_observables.magnetisation(chain.configurations))
    weight = as_array((ensemble.log_weight - ensemble.log_weight.max()).exp())
    reach = max(abs(values).max() for values in (model, reference) if values is not None)
    bins = np.linspace(-reach, reach, 41)
    _densities(axes, bins, model, weight, reference, label)
    axes.set(xlabel="magnetisation M", ylabel="density")
    legend_below(figure, axes)
    return figure


@styled
def histograms(
    observables: Mapping[str, Callable[[Tensor], Tensor]],
    ensemble: Ensemble,
    chain: Chain | None = None,
    *,
    label: str = "HMC",
    title: str = "",
) -> Figure:
    """Plot histograms of observables for the model, the reweighted model and a reference.

    A topological sector that is missing, or too rare, shows here. Integers have a bin each.

    Args:
        observables: functions of a batch with one value for each configuration, by name.
        ensemble: weighted samples of the flow.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference, and where it comes from.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    rows = -(-len(observables) // 2)
    figure, panels = new_figure(rows, 2, (6.6, 2.3 * rows + 0.8), title=title, squeeze=False)
    weight = as_array((ensemble.log_weight - ensemble.log_weight.max()).exp())
    for axes, (name, observable) in zip(panels.flat, observables.items(), strict=False):
        model = as_array(per_configuration(observable, ensemble.phi))
        reference = None if chain is None else as_array(chain.series(observable)).ravel()
        bins = _bins(model if reference is None else np.concatenate([model, reference]))
        _densities(axes, bins, model, weight, reference, label)
        axes.set(xlabel=name.replace("_", " "), ylabel="density")
    legend_below(figure, panels.flat[0])
    for axes in panels.flat[len(observables) :]:
        axes.set_axis_off()
    return figure


@styled
def histories(
    observables: Mapping[str, Callable[[Tensor], Tensor]],
    metropolis: Chain,
    chain: Chain | None = None,
    *,
    label: str = "HMC",
    title: str = "",
) -> Figure:
    """Plot observables along a chain of flow proposals, beside those along a reference chain.

    A charge that is frozen in one of them shows here.

    Args:
        observables: functions of a batch with one value for each configuration, by name.
        metropolis: chain of independence Metropolis.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    sources = [(metropolis, "flow with Metropolis", FLOW)]
    sources = [*([(chain, label, REFERENCE)] if chain is not None else []), *sources]
    size = (6.6, 1.4 * len(observables) + 0.8)
    figure, panels = new_figure(
        len(observables), len(sources), size, title=title, squeeze=False, sharey="row", sharex="col"
    )
    for axes, (_, name, _) in zip(panels[0], sources, strict=True):
        axes.set_title(name)
    for row, (name, observable) in zip(panels, observables.items(), strict=True):
        for axes, (source, _, colour) in zip(row, sources, strict=True):
            values = as_array(source.series(observable))
            for k in range(min(2, values.shape[1])):
                axes.plot(values[:, k], color=colour, lw=0.8, alpha=1 - 0.4 * k)
        row[0].set_ylabel(name.replace("_", " "), fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("step of two chains")
    return figure


def as_array(values: Tensor) -> np.ndarray:
    """Return a tensor as a float64 array."""
    return values.detach().double().cpu().numpy()


def _densities(
    axes: Any,
    bins: np.ndarray,
    model: np.ndarray,
    weight: np.ndarray,
    reference: np.ndarray | None,
    label: str,
) -> None:
    """Draw histograms of a reference, of the model and of the reweighted model."""
    if reference is not None:
        axes.hist(reference, bins, density=True, color=REFERENCE, alpha=0.35, label=label)
    axes.hist(model, bins, density=True, histtype="step", color=MUTED, label="flow")
    axes.hist(
        model, bins, weights=weight, density=True, histtype="step", color=FLOW, label="flow, reweighted"
    )


def _bins(values: np.ndarray) -> np.ndarray:
    """Return the edges of bins: one for each integer, or forty from the least value to the largest."""
    lowest, highest = float(values.min()), float(values.max())
    if bool((values == values.round()).all()):
        return np.arange(lowest - 0.5, highest + 1)
    return np.linspace(lowest, highest, 41)
