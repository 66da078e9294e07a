"""Figures of training and sampling, drawn with matplotlib (extra `report`).

Every function returns a matplotlib `Figure`; `save_figure` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from equiflow.analysis import Measurements
from equiflow.runtime.storage import written_atomically
from equiflow.samplers import Chain, Ensemble
from equiflow.samplers.samples import per_configuration
from equiflow.statistics import Estimate
from equiflow.theories.scalar import observables
from equiflow.training import History, Rung

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: colours of what the flow gives, of a reference, and of everything else
FLOW, REFERENCE, MUTED = "#1f5fa8", "#c8501e", "#8a8a8a"


def training_curve(history: History, fresh: Sequence[tuple[int, float, float]] = ()) -> Figure:
    """Plot loss, effective sample size and gradient norm against the step.

    Args:
        history: record of the training, with at least one step.
        fresh: step, ESS and its error of each measurement on fresh samples.

    Returns:
        The figure.
    """
    figure, (top, middle, bottom) = _axes(3, 1, (7, 7), sharex=True)
    top.plot(history.step, history.loss, color=FLOW, lw=0.8)
    late = history.loss[len(history) // 10 :]
    top.set_ylim(min(late) - 0.5, max(late) + 0.5)
    top.set_ylabel(r"$\langle \log q + S \rangle$")
    middle.plot(history.step, _with_gaps(history.ess), color=FLOW, lw=0.8, label="batch")
    middle.set(ylabel="ESS on the batch", ylim=(0, 1))
    if fresh:
        step, ess, error = zip(*fresh, strict=True)
        middle.errorbar(step, ess, error, fmt="o", ms=4, color=REFERENCE, label="fresh samples", zorder=3)
        middle.set(ylabel="ESS")
        middle.legend(frameon=False, loc="lower right")
    bottom.semilogy(history.step, history.grad_norm, color=FLOW, lw=0.8)
    bottom.set(ylabel="gradient norm", xlabel=f"optimiser step ({history.seconds[-1]:.0f} s in all)")
    return figure


def ladder_curve(rungs: Sequence[Rung]) -> Figure:
    """Plot the ESS on the batch against wall time, for one rung of a ladder after another."""
    figure, axes = _axes(1, 1, (7.5, 4))
    start = 0.0
    for i, rung in enumerate(rungs):
        history = rung.history
        minutes = (start + np.array(history.seconds)) / 60
        colour = f"C{i}"
        width = max(1, len(history) // 100)
        ess = _with_gaps(history.ess)
        smooth = np.convolve(ess, np.full(width, 1 / width), "valid")
        axes.plot(minutes, ess, color=colour, lw=0.4, alpha=0.3)
        label = " x ".join(map(str, rung.flow.lattice.shape))
        axes.plot(minutes[width - 1 :], smooth, color=colour, lw=1.8, label=label)
        start += history.seconds[-1]
    axes.set(xlabel="training time / min", ylabel="reverse ESS on the batch", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def two_point(flow: Measurements, reference: Measurements | None = None, *, label: str = "HMC") -> Figure:
    """Plot the zero-momentum two-point function, and its difference to a reference below.

    Args:
        flow: observables from the reweighted flow.
        reference: the same observables from another sampler; None leaves out the difference.
        label: name of the reference.

    Returns:
        The figure.
    """
    if reference is None:
        figure, top = _axes(1, 1, (7, 4))
        top.set_xlabel("separation t")
    else:
        figure, (top, bottom) = _axes(2, 1, (7, 6), sharex=True, height_ratios=(3, 1))
    t = np.arange(len(flow.correlator))
    for source, name, colour, shift in (
        (reference, label, REFERENCE, 0.08),
        (flow, "flow, reweighted", FLOW, -0.08),
    ):
        if source is None:
            continue
        mean, error = _columns(source.correlator)
        top.errorbar(t + shift, mean, error, fmt="o", ms=4, capsize=2, color=colour, label=name)
    top.set(yscale="log", ylabel="two-point function C(t)")
    top.legend(frameon=False)
    if reference is None:
        return figure
    sigma = [a.sigmas_from(b) for a, b in zip(flow.correlator, reference.correlator, strict=True)]
    bottom.axhspan(-1, 1, color=MUTED, alpha=0.2, lw=0)
    bottom.plot(t, sigma, "o", ms=4, color=FLOW)
    reach = max(3.0, 1.2 * max(map(abs, sigma)))
    bottom.set(ylabel=r"difference / $\sigma$", xlabel="separation t", ylim=(-reach, reach))
    return figure


def magnetisation(ensemble: Ensemble, chain: Chain | None = None, *, label: str = "HMC") -> Figure:
    """Plot histograms of M for the model, the reweighted model and a reference.

    A dropped mode shows here.

    Args:
        ensemble: weighted samples of the flow, a scalar field.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference.

    Returns:
        The figure.
    """
    figure, axes = _axes(1, 1, (7, 4))
    model = _numpy(observables.magnetisation(ensemble.phi))
    reference = None if chain is None else _numpy(observables.magnetisation(chain.configurations))
    weight = _numpy((ensemble.log_weight - ensemble.log_weight.max()).exp())
    reach = max(abs(values).max() for values in (model, reference) if values is not None)
    bins = np.linspace(-reach, reach, 41)
    _densities(axes, bins, model, weight, reference, label)
    axes.set(xlabel="magnetisation M", ylabel="density")
    axes.legend(frameon=False)
    return figure


def histograms(
    observables: Mapping[str, Callable[[Tensor], Tensor]],
    ensemble: Ensemble,
    chain: Chain | None = None,
    *,
    label: str = "HMC",
) -> Figure:
    """Plot histograms of observables for the model, the reweighted model and a reference.

    A topological sector that is missing, or too rare, shows here. Integers have a bin each.

    Args:
        observables: functions of a batch with one value for each configuration, by name.
        ensemble: weighted samples of the flow.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference.

    Returns:
        The figure.
    """
    figure, panels = _axes(-(-len(observables) // 2), 2, (8, 2.6 * -(-len(observables) // 2)), squeeze=False)
    weight = _numpy((ensemble.log_weight - ensemble.log_weight.max()).exp())
    for axes, (name, observable) in zip(panels.flat, observables.items(), strict=False):
        model = _numpy(per_configuration(observable, ensemble.phi))
        reference = None if chain is None else _numpy(chain.series(observable)).ravel()
        bins = _bins(model if reference is None else np.concatenate([model, reference]))
        _densities(axes, bins, model, weight, reference, label)
        axes.set(xlabel=name.replace("_", " "), ylabel="density")
    panels.flat[0].legend(frameon=False, fontsize=8)
    for axes in panels.flat[len(observables) :]:
        axes.set_axis_off()
    return figure


def histories(
    observables: Mapping[str, Callable[[Tensor], Tensor]],
    metropolis: Chain,
    chain: Chain | None = None,
    *,
    label: str = "HMC",
) -> Figure:
    """Plot observables along a chain of flow proposals, beside those along a reference chain.

    A charge that is frozen in one of them shows here.

    Args:
        observables: functions of a batch with one value for each configuration, by name.
        metropolis: chain of independence Metropolis.
        chain: reference samples of the target; None leaves them out.
        label: name of the reference.

    Returns:
        The figure.
    """
    sources = [(metropolis, "flow with Metropolis", FLOW)]
    sources = [*([(chain, label, REFERENCE)] if chain is not None else []), *sources]
    figure, panels = _axes(
        len(observables), len(sources), (8, 1.7 * len(observables)), squeeze=False, sharey="row"
    )
    for axes, (_, title, _) in zip(panels[0], sources, strict=True):
        axes.set_title(title, fontsize=10)
    for row, (name, observable) in zip(panels, observables.items(), strict=True):
        for axes, (source, _, colour) in zip(row, sources, strict=True):
            values = _numpy(source.series(observable))
            for k in range(min(2, values.shape[1])):
                axes.plot(values[:, k], color=colour, lw=0.8, alpha=1 - 0.4 * k)
        row[0].set_ylabel(name.replace("_", " "), fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("step of two chains")
    return figure


def weights(ensemble: Ensemble, forward_log_weight: Tensor | None = None) -> Figure:
    """Plot histograms of `log w - log Z` on model samples and on target samples.

    Args:
        ensemble: weighted samples of the flow.
        forward_log_weight: log weights of target samples, `(n_samples,)`; None leaves them out.

    Returns:
        The figure.
    """
    figure, axes = _axes(1, 1, (7, 4))
    log_z = ensemble.log_z().mean
    reverse = _numpy(ensemble.log_weight) - log_z
    bins = np.linspace(np.quantile(reverse, 0.002) - 0.3, np.quantile(reverse, 0.998) + 0.3, 61)
    axes.hist(reverse, bins, density=True, color=FLOW, alpha=0.5, label="model samples")
    if forward_log_weight is not None:
        forward = _numpy(forward_log_weight) - log_z
        if not bool(((forward >= bins[0]) & (forward <= bins[-1])).any()):
            forward = forward.clip(bins[0], bins[-1])  # all beyond the axis: at its end
        axes.hist(forward, bins, density=True, histtype="step", color=REFERENCE, label="target samples (HMC)")
    axes.set(xlabel=r"$\log w - \log Z$", ylabel="density")
    axes.legend(frameon=False)
    return figure


def configurations(phi: Tensor, *, n_shown: int = 6) -> Figure:
    """Draw a few two-dimensional configurations on one colour scale.

    Args:
        phi: `(batch, *lattice)`.
        n_shown: number of configurations, the first ones of the batch.

    Returns:
        The figure.

    Raises:
        ValueError: if the lattice is not two-dimensional.
    """
    shown = _numpy(phi[:n_shown])
    if shown.ndim != 3:
        raise ValueError(f"Only 2D configurations can be drawn, got shape {tuple(phi.shape)}.")
    figure, axes = _axes(2, -(-len(shown) // 2), (2.3 * -(-len(shown) // 2) + 0.8, 4.6))
    reach = float(np.abs(shown).max())
    for panel, configuration in zip(np.ravel(axes), shown, strict=False):
        image = panel.imshow(configuration, cmap="RdBu_r", vmin=-reach, vmax=reach)
        panel.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, shrink=0.8, label=r"$\phi$")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG; a crash leaves an old file intact.

    Args:
        figure: what to write.
        path: name of the file.
    """
    with written_atomically(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _axes(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a new figure of `size` inches and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


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


def _columns(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Return the means and the errors of estimates."""
    return [e.mean for e in estimates], [e.error for e in estimates]


def _with_gaps(values: Sequence[float | None]) -> np.ndarray:
    """Return values as an array with NaN, which is not drawn, in place of None."""
    return np.array(values, dtype=float)


def _numpy(values: Tensor) -> np.ndarray:
    """Return a tensor as a float64 array."""
    return values.detach().double().cpu().numpy()
