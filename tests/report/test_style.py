"""How figures look: legends cover no data, ticks can be read, the style leaves no trace."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import matplotlib
import pytest

from equiflow import Estimate
from equiflow.analysis.correlators import CoshFit
from equiflow.report import plots
from equiflow.report.style import INK, PALETTE, SHEET, label_ends, new_figure, readable_log, style, styled
from equiflow.training import History
from tests.report.test_numbers import report  # noqa: F401


def test_the_sheet_has_the_palette_and_is_left_again():
    matplotlib.use("agg")
    before = matplotlib.rcParams.copy()
    with style():
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(PALETTE)
        assert matplotlib.rcParams["text.color"].strip("#") == INK[1:]
    assert matplotlib.rcParams == before
    assert SHEET.exists()

    @styled
    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert matplotlib.rcParams == before


def lightness(colour: str) -> float:
    """Relative luminance of a colour."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_is_seen_on_white():
    assert min((1.05) / (lightness(colour) + 0.05) for colour in PALETTE) > 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.09, 0.6), ["0.1", "0.15", "0.2", "0.3", "0.5"]),
        ((1, 1000), ["1", "10", "100", "1 000"]),
        ((0.8, 1.1), ["0.8", "0.9", "1", "1.1"]),
        ((1e-8, 1e8), [rf"$10^{{{n}}}$" for n in (-6, -3, 0, 3, 6)]),
    ],
)
def test_logarithmic_axes_have_ticks_that_can_be_read(values, expected):
    with style():
        _, axes = new_figure(1, 1, (6, 4))
        axes.plot([0, 1], values)
        readable_log(axes)
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert len(shown) >= 4
    assert set(expected) <= set(shown), shown


def test_labels_at_ends_of_curves_do_not_overlap():
    with style():
        _, axes = new_figure(1, 1, (6, 4))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        label_ends(axes, [(1, y, f"at {y}", PALETTE[0]) for y in (0.5, 0.505, 0.51, 0.9)])
    heights = sorted(text.xyann[1] for text in axes.texts)
    assert min(b - a for a, b in pairwise(heights)) > 0.04
    assert axes.texts[3].xyann[1] == pytest.approx(0.9)


def test_no_legend_stands_inside_of_the_axes(report):  # noqa: F811
    figures = report.figures()
    for name, figure in figures.items():
        assert all(axes.get_legend() is None for axes in figure.axes), name
        assert figure.get_suptitle() == "Phi4 on 3 x 4, m2 = 1, lam = 0.1", name
    legend = figures["two_point"].legends[0].get_texts()
    assert "chains of" in legend[0].get_text()
    assert "acceptance" in legend[0].get_text()


def test_the_loss_has_a_line_at_minus_log_z_and_the_axis_reaches_it():
    history = History()
    for step, loss in enumerate((5.0, 2.0, 1.0), 1):
        history.append(
            step=step, loss=loss, ess=0.5, grad_norm=1.0, learning_rate=0.1, nfe=4, seconds=float(step)
        )
    top = plots.training_curve(history, log_z=Estimate(2.5, 0.1)).axes[0]
    assert list(top.lines[1].get_ydata()) == [-2.5, -2.5]
    assert top.get_ylim()[0] < -2.5
    assert len(plots.training_curve(history).axes[0].lines) == 1


def test_losses_of_several_kinds_are_not_one_curve():
    history, zeros = History(), {"ess": None, "grad_norm": 1.0, "learning_rate": 1.0, "nfe": 4}
    for step, (name, loss) in enumerate([("int Var[r] dt", 9.0), *[("log q + S", -2.0)] * 3], 1):
        history.append(step=step, loss=loss, loss_name=name, seconds=float(step), **zeros)
    log_z = Estimate(2.5, 0.1)
    top = plots.training_curve(history, log_z=log_z).axes[0]
    assert list(top.lines[0].get_xdata()) == [2, 3, 4]
    assert list(top.lines[1].get_ydata()) == [-2.5, -2.5]
    assert top.get_ylim()[1] < 0
    assert any("int Var[r] dt = 9 at step 1" in text.get_text() for text in top.texts)
    # Another loss than <log q + S> has no line at -log Z, whatever the caller believes.
    other = replace(history, loss_name=["ForwardKL"] * 4)
    top = plots.training_curve(other, log_z=log_z).axes[0]
    assert (len(top.lines), top.get_ylabel()) == (1, "ForwardKL")
    unknown = plots.training_curve(replace(history, loss_name=[]), log_z=log_z).axes[0]
    assert len(unknown.lines[0].get_xdata()) == 4


def test_effective_masses_have_the_fit_and_its_chi2(report):  # noqa: F811
    measured = report.measurements[0]
    fit = CoshFit(Estimate(0.5, 0.1), Estimate(1.0, 0.1), 1.25, 2, (1, 4), measured.mass_fit.slope)
    flat = replace(measured, mass_fit=fit, effective_mass=tuple(Estimate(0.5, 0.05) for _ in range(4)))
    figure = plots.effective_mass(flat)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("m = 0.50 ± 0.10" in text and "1.25 / 2" in text for text in texts)
    (band,) = [one for one in figure.axes[0].collections if one.get_paths()[0].vertices[:, 1].max() == 0.6]
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.4)
    unknown = tuple(Estimate(math.nan, math.nan) for _ in range(4))
    bare = replace(flat, mass_fit=replace(fit, mass=Estimate(math.nan, math.nan)), effective_mass=unknown)
    axes = plots.effective_mass(bare).axes[0]
    assert axes.texts[0].get_text() == "no mass: C(t) is noise"
