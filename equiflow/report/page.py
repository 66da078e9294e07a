"""One HTML page about a trained flow, plots inside, nothing loaded from elsewhere (extra `report`)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiflow.report import plots
from equiflow.report.report import Report, comparison_rows
from equiflow.runtime.storage import written_atomically
from equiflow.testing import CheckReport
from equiflow.training import Rung

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: colours of the figures, which the page's style sheet knows for light and dark surroundings
COLOURS = {plots.FLOW: "var(--flow)", plots.REFERENCE: "var(--reference)", plots.MUTED: "var(--muted)"}
#: stands for the colour of the text around; no figure uses it otherwise
INK = "#010203"
CAPTIONS = {
    "training": "Loss, effective sample size and gradient norm along the training. The ESS on the batch is a "
    "noisy monitor; points with errors are on fresh samples.",
    "ladder": "Effective sample size on the batch. Each lattice starts from what the one before has learned.",
    "weights": "Distribution of the log weights about log Z. A long left tail wastes samples; a tail that "
    "only target samples have is a part of the target that the flow misses.",
    "two_point": "Zero-momentum two-point function along the first axis, with errors.",
    "magnetisation": "Magnetisation, of several components the first, in the model, in the reweighted model "
    "and, if there is one, in the reference. A dropped mode shows here.",
    "configurations": "Configurations as the flow draws them, on one colour scale.",
}


@dataclass(frozen=True)
class Page:
    """Everything that the page shows.

    Attributes:
        report: the measured flow.
        title: of the page.
        config: text of the resolved config.
        evaluations: measurements on fresh samples while training, with `step`, `ess` and `ess_error`.
        laws: the laws that were checked on the flow.
        sessions: versions and start of each time that training was begun or resumed.
        rungs: the lattices of a ladder, the last one's training included; empty without one.
    """

    report: Report
    title: str
    config: str = ""
    evaluations: Sequence[Mapping[str, Any]] = ()
    laws: CheckReport | None = None
    sessions: Sequence[Mapping[str, Any]] = field(default=())
    rungs: Sequence[Rung] = ()

    def html(self) -> str:
        """The page."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("equiflow.report", ""),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html").render(
            page=self,
            report=self.report,
            rows=self._observables(),
            ladder=self._ladder(),
            correlator=self._correlator(),
            figures={name: inline_svg(figure, name) for name, figure in self._figures().items()},
            captions=CAPTIONS,
        )

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        text = self.html()
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _figures(self) -> dict[str, Figure]:
        fresh = [(row["step"], row["ess"], row["ess_error"]) for row in self.evaluations if "ess" in row]
        figures = self.report.figures()
        if fresh and len(self.report.history):
            figures["training"] = plots.training_curve(self.report.history, fresh)
        if self.rungs:
            figures["ladder"] = plots.ladder_curve(self.rungs)
        return figures

    def _observables(self) -> list[tuple[str, ...]]:
        flow, reference = self.report.measurements
        if reference is not None:
            return comparison_rows(flow, reference)
        return [(name.replace("_", " "), str(value)) for name, value in flow.scalars().items()]

    def _ladder(self) -> list[tuple[str, ...]]:
        return [
            (
                " x ".join(map(str, rung.flow.lattice.shape)),
                str(len(rung.history)),
                f"{rung.history.seconds[-1]:.0f}",
                "" if "ess" not in rung.flow.about else f"{rung.flow.about['ess']:.4f}",
            )
            for rung in self.rungs
        ]

    def _correlator(self) -> list[tuple[str, ...]]:
        flow, reference = self.report.measurements
        if reference is None:
            return [(str(t), str(value)) for t, value in enumerate(flow.correlator)]
        pairs = enumerate(zip(flow.correlator, reference.correlator, strict=True))
        return [(str(t), str(a), str(b), f"{a.sigmas_from(b):+.1f}") for t, (a, b) in pairs]


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element that takes its colours from the page around it.

    Args:
        figure: drawn in the colours of `equiflow.report.plots`.
        name: unique on the page: identifiers inside start with it.
    """
    from matplotlib import rc_context

    _ink(figure)
    buffer = io.StringIO()
    # Text stays text: it can be searched, read aloud, and follows the page's font.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML declaration and the address of a DTD
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for colour, variable in {**COLOURS, INK: "currentColor"}.items():
        svg = svg.replace(colour, variable)
    label = CAPTIONS[name].split(".")[0]
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _ink(figure: Figure) -> None:
    """Give axes and text the colour that becomes the text colour of the page."""
    for axes in figure.axes:
        axes.tick_params(which="both", color=INK, labelcolor=INK)
        for spine in axes.spines.values():
            spine.set_edgecolor(INK)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.offsetText, axes.yaxis.offsetText):
            text.set_color(INK)
        legend = axes.get_legend()
        for text in () if legend is None else legend.get_texts():
            text.set_color(INK)
