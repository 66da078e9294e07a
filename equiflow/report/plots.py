"""Figures of training and sampling, drawn with matplotlib (extra `report`).

Every function returns a matplotlib `Figure`; `save_figure` writes it to a file. `equiflow.report.style` says
how all of them look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from equiflow.analysis import Measurements
from equiflow.report.histograms import as_array, histograms, histories, magnetisation
from equiflow.report.style import (
    FLOW,
    MUTED,
    PALETTE,
    REFERENCE,
    legend_below,
    new_figure,
    readable_log,
    save_figure,
    styled,
)
from equiflow.report.words import name_of_correlator
from equiflow.samplers import Ensemble
from equiflow.statistics import Estimate
from equiflow.training import History, Rung
from equiflow.training.history import REVERSE_KL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FLOW",
    "MUTED",
    "PALETTE",
    "REFERENCE",
    "configurations",
    "effective_mass",
    "histograms",
    "histories",
    "ladder_curve",
    "magnetisation",
    "save_figure",
    "training_curve",
    "two_point",
    "weights",
]

#: steps up to which each is marked by a dot
FEW_STEPS = 20


@styled
def training_curve(
    history: History,
    fresh: Sequence[tuple[int, float, float]] = (),
    *,
    log_z: Estimate | None = None,
    title: str = "",
) -> Figure:
    """Plot loss, effective sample size and gradient norm against the step.

    The curve of the loss is that of the last objective, see `History.losses`; what came before is said.

    Args:
        history: record of the training, with at least one step.
        fresh: step, ESS and its error of each measurement on fresh samples.
        log_z: for a line at `-log Z`, the least value of `<log q + S>`; None for another objective. There is
            no line if the history says that its loss is another one.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    figure, (top, middle, bottom) = new_figure(3, 1, (5.8, 6), title=title, sharex=True)
    *earlier, (name, steps) = history.losses()
    late = list(history.loss[steps.start + len(steps) // 10 : steps.stop])
    marker = "o" if len(steps) <= FEW_STEPS else None
    top.plot(
        history.step[steps.start :], history.loss[steps.start :], color=FLOW, lw=0.8, marker=marker, ms=3
    )
    is_reverse = name == REVERSE_KL or (not name and log_z is not None)
    if is_reverse and log_z is not None and math.isfinite(log_z.mean):
        late.append(-log_z.mean)
        top.axhline(-log_z.mean, color=MUTED, ls="--", lw=1)
        text = f"$-\\log Z$ = {-log_z.mean:.6g}"
        # Below the line, where the loss cannot be.
        top.annotate(text, (0.99, -log_z.mean), (0, -3), xycoords=("axes fraction", "data"), **_BELOW)
    margin = 0.15 * (max(late) - min(late)) + 0.05
    top.set_ylim(min(late) - max(2 * margin, 0.2), max(late) + margin)
    top.set_ylabel(r"$\langle \log q + S \rangle$" if is_reverse else name or "loss")
    if earlier:  # losses of another kind, which this axis cannot show
        words = [
            f"{kind or 'loss'} = {history.loss[at.stop - 1]:.3g} at step {at.stop}" for kind, at in earlier
        ]
        top.annotate(f"before: {', '.join(words)}", (0.99, 0.98), (0, 0), xycoords="axes fraction", **_BELOW)
    middle.plot(history.step, _with_gaps(history.ess), color=FLOW, lw=0.8, label="on the batch")
    middle.set(ylabel="ESS", ylim=(0, 1.02))
    if fresh:
        step, ess, error = zip(*fresh, strict=True)
        middle.errorbar(step, ess, error, fmt="o", color=REFERENCE, label="on fresh samples", zorder=3)
    bottom.plot(history.step, history.grad_norm, color=FLOW, lw=0.8)
    readable_log(bottom)
    bottom.set(ylabel="gradient norm", xlabel=f"optimiser step ({history.seconds[-1]:.0f} s in all)")
    legend_below(figure, middle, columns=2)
    return figure


@styled
def ladder_curve(rungs: Sequence[Rung], *, title: str = "") -> Figure:
    """Plot the ESS on the batch against wall time, for one rung of a ladder after another.

    Args:
        rungs: in the order in which they were trained.
        title: of the figure: theory, couplings.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, (5.8, 3.8), title=title)
    start = 0.0
    for i, rung in enumerate(rungs):
        history = rung.history
        minutes = (start + np.array(history.seconds)) / 60
        colour = PALETTE[i % len(PALETTE)]
        width = max(1, len(history) // 100)
        ess = _with_gaps(history.ess)
        smooth = np.convolve(ess, np.full(width, 1 / width), "valid")
        axes.plot(minutes, ess, color=colour, lw=0.4, alpha=0.3)
        label = " x ".join(map(str, rung.flow.lattice.shape))
        axes.plot(minutes[width - 1 :], smooth, color=colour, lw=1.8, label=label)
        start += history.seconds[-1]
    axes.set(xlabel="training time / min", ylabel="reverse ESS on the batch", ylim=(0, 1.02))
    legend_below(figure, axes, columns=4)
    return figure


@styled
def two_point(
    flow: Measurements, reference: Measurements | None = None, *, label: str = "HMC", title: str = ""
) -> Figure:
    """Plot the two-point function that masses follow from, and its difference to a reference below.

    Args:
        flow: observables from the reweighted flow.
        reference: the same observables from another sampler; None leaves out the difference.
        label: name of the reference, and where it comes from.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    if reference is None:
        figure, top = new_figure(1, 1, (5.8, 3.8), title=title)
        top.set_xlabel("separation t")
    else:
        figure, (top, bottom) = new_figure(2, 1, (5.8, 5), title=title, sharex=True, height_ratios=(3, 1))
    t = np.arange(len(flow.decaying_correlator))
    for source, name, colour, shift in (
        (reference, label, REFERENCE, 0.08),
        (flow, "flow, reweighted", FLOW, -0.08),
    ):
        if source is None:
            continue
        mean, error = _columns(source.decaying_correlator)
        top.errorbar(t + shift, mean, error, fmt="o", color=colour, label=name)
    top.set(ylabel=f"two-point function {name_of_correlator(flow)}")
    top.set_yscale("log", nonpositive="clip")
    readable_log(top)
    legend_below(figure, top)
    if reference is None:
        return figure
    pairs = zip(flow.decaying_correlator, reference.decaying_correlator, strict=True)
    sigma = [a.sigmas_from(b) for a, b in pairs]
    bottom.axhspan(-1, 1, color=MUTED, alpha=0.2, lw=0)
    bottom.plot(t, sigma, "o", color=FLOW)
    reach = max(3.0, 1.2 * max(map(abs, sigma)))
    bottom.set(ylabel=r"difference / $\sigma$", xlabel="separation t", ylim=(-reach, reach))
    return figure


@styled
def effective_mass(
    flow: Measurements, reference: Measurements | None = None, *, label: str = "HMC", title: str = ""
) -> Figure:
    """Plot effective masses, and the mass of the fit over the times that it takes.

    `m(t) = arcosh[(C(t-1) + C(t+1)) / (2 C(t))]` is constant where a single state is left. The band is the
    result of `fit_cosh`, with chi2 per degree of freedom in the legend.

    Args:
        flow: observables from the reweighted flow.
        reference: the same observables from another sampler; None leaves them out.
        label: name of the reference, and where it comes from.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, (5.8, 4), title=title)
    t = np.arange(1, len(flow.effective_mass) + 1)
    for source, name, colour, shift in (
        (reference, label, REFERENCE, 0.06),
        (flow, "flow, reweighted", FLOW, -0.06),
    ):
        if source is None:
            continue
        mean, error = _columns(source.effective_mass)
        axes.errorbar(t + shift, mean, error, fmt="o", color=colour, label=name)
    fit = flow.mass_fit
    if math.isfinite(fit.mass.mean):
        low, high = fit.mass.mean - fit.mass.error, fit.mass.mean + fit.mass.error
        first, last = fit.window
        axes.fill_between([first - 0.3, last + 0.3], low, high, color=FLOW, alpha=0.2, lw=0)
        name = f"fit to t = {first} ... {last}: m = {Estimate(fit.mass.mean, fit.mass.error)}"
        name += f", $\\chi^2$ / dof = {fit.chi2:.2f} / {fit.dof}" if fit.dof else ""
        axes.plot([first - 0.3, last + 0.3], [fit.mass.mean] * 2, color=FLOW, lw=1, label=name)
    masses = [*flow.effective_mass, *(() if reference is None else reference.effective_mass)]
    known = [one for one in masses if one.error < 0.3 * one.mean]  # late times may be all noise
    if known:
        low, high = min(one.mean - one.error for one in known), max(one.mean + one.error for one in known)
        axes.set_ylim(max(0, low - 0.15 * (high - low)), high + 0.15 * (high - low))
    elif not any(math.isfinite(one.mean) for one in masses):
        axes.text(0.5, 0.5, "no mass: C(t) is noise", ha="center", transform=axes.transAxes)
    axes.set(xlabel="separation t", ylabel="effective mass m(t)", xticks=t)
    legend_below(figure, axes)
    return figure


@styled
def weights(
    ensemble: Ensemble,
    forward_log_weight: Tensor | None = None,
    *,
    label: str = "HMC",
    title: str = "",
) -> Figure:
    """Plot histograms of `log w - log Z` on model samples and on target samples.

    Args:
        ensemble: weighted samples of the flow.
        forward_log_weight: log weights of target samples, `(n_samples,)`; None leaves them out.
        label: name of the sampler that gave the target samples, and where they come from.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, (5.8, 4), title=title)
    log_z = ensemble.log_z().mean
    reverse = as_array(ensemble.log_weight) - log_z
    bins = np.linspace(np.quantile(reverse, 0.002) - 0.3, np.quantile(reverse, 0.998) + 0.3, 61)
    axes.hist(reverse, bins, density=True, color=FLOW, alpha=0.5, label="model samples")
    if forward_log_weight is not None:
        forward = as_array(forward_log_weight) - log_z
        if not bool(((forward >= bins[0]) & (forward <= bins[-1])).any()):
            forward = forward.clip(bins[0], bins[-1])  # all beyond the axis: at its end
        name = f"target samples, {label}"
        axes.hist(forward, bins, density=True, histtype="step", color=REFERENCE, label=name)
    axes.set(xlabel=r"$\log w - \log Z$", ylabel="density")
    legend_below(figure, axes)
    return figure


@styled
def configurations(phi: Tensor, *, n_shown: int = 6, title: str = "") -> Figure:
    """Draw a few two-dimensional configurations on one colour scale.

    Args:
        phi: `(batch, *lattice)`.
        n_shown: number of configurations, the first ones of the batch.
        title: of the figure: theory, couplings, lattice.

    Returns:
        The figure.

    Raises:
        ValueError: if the lattice is not two-dimensional.
    """
    shown = as_array(phi[:n_shown])
    if shown.ndim != 3:
        raise ValueError(f"Only 2D configurations can be drawn, got shape {tuple(phi.shape)}.")
    columns = -(-len(shown) // 2)
    figure, axes = new_figure(2, columns, (1.7 * columns + 0.8, 3.8), title=title)
    reach = float(np.abs(shown).max())
    for panel, configuration in zip(np.ravel(axes), shown, strict=False):
        image = panel.imshow(configuration, vmin=-reach, vmax=reach)
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label=r"$\phi$")
    return figure


#: how a text stands below a line at the right end
_BELOW = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9, "color": MUTED}


def _columns(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Return the means and the errors of estimates."""
    return [e.mean for e in estimates], [e.error for e in estimates]


def _with_gaps(values: Sequence[float | None]) -> np.ndarray:
    """Return values as an array with NaN, which is not drawn, in place of None."""
    return np.array(values, dtype=float)
