"""One HTML page about a trained flow, with its plots inside (extra `report`).

`Page` fills the template `page.html`. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiflow.analysis import Measurements
from equiflow.report.plots import ladder_curve
from equiflow.report.report import Report
from equiflow.report.style import FLOW, INK, MUTED, PALETTE, REFERENCE, style
from equiflow.report.words import comparison_rows, name_of_correlator
from equiflow.runtime.storage import written_atomically
from equiflow.testing import CheckReport
from equiflow.training import Rung

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: colours of the figures, and the variables that stand for them in the page's light and dark style
COLOURS = {
    **{colour: f"var(--curve-{n})" for n, colour in enumerate(PALETTE)},
    **{FLOW: "var(--flow)", REFERENCE: "var(--reference)", MUTED: "var(--muted)", INK: "currentColor"},
}
#: groups of rows by the first words of their names; what is in no group stands last
GROUPS = {
    "Samples that count": ("reverse ess", "forward ess", "acceptance", "tau int"),
    "Free energy": ("log z", "levels"),
    "Solver": ("log Z under", "largest change", "round trip", "solver"),
    "Magnetisation": (
        "magnetisation",
        "abs magnetisation",
        "susceptibility",
        "connected susceptibility",
        "binder",
    ),
    "On sites and links": ("phi ", "nearest", "action density"),
    "Masses and lengths": ("structure", "correlation length", "pole", "mass"),
}
#: captions of the figures by name
CAPTIONS = {
    "training": "Loss, effective sample size and gradient norm along the training. The ESS on the batch is a "
    "noisy monitor; points with errors are on fresh samples. A mean of log q + S cannot fall below -log Z.",
    "ladder": "Effective sample size on the batch. Each lattice starts from what the one before learned.",
    "weights": "Distribution of the log weights about log Z. A long left tail wastes samples. A tail of "
    "target samples alone is a part of the target that the flow misses.",
    "two_point": "Zero-momentum two-point function along the first axis, with errors. In a theory "
    "without the symmetry phi -> -phi it is the connected one, less its constant part V / L times the square "
    "of the mean field.",
    "effective_mass": "Effective mass, and the mass of the fit (band) over the times that it takes. Where "
    "the masses still fall, the fit begins too early; chi2 tells.",
    "magnetisation": "Magnetisation in the model, in the reweighted model and in the reference, if there is "
    "one. Fields of several components are shown by the first one. A dropped mode shows here.",
    "histograms": "Observables in the model, in the reweighted model and in the reference, if there is one. "
    "A topological sector that the flow has dropped, or one where the reference is frozen, shows here.",
    "histories": "Observables along two chains of the flow, and of the reference if there is one. A charge "
    "that does not move is frozen.",
    "configurations": "Configurations drawn from the flow, on one colour scale.",
}


@dataclass(frozen=True)
class Page:
    """Everything that the page shows.

    Attributes:
        report: report about the flow.
        title: title of the page.
        config: text of the resolved config.
        evaluations: measurements on fresh samples during training, with `step`, `ess` and `ess_error`.
        laws: results of checking the laws on the flow; None if they were not checked.
        sessions: start and versions of each session of training.
        rungs: the lattices of a ladder, including the last one; empty without a ladder.
    """

    report: Report
    title: str
    config: str = ""
    evaluations: Sequence[Mapping[str, Any]] = ()
    laws: CheckReport | None = None
    sessions: Sequence[Mapping[str, Any]] = field(default=())
    rungs: Sequence[Rung] = ()

    def html(self) -> str:
        """Return the text of the page."""
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
            quality=grouped(self.report.quality()),
            rows=grouped(self._observables()),
            ladder=[("", self._ladder())],
            correlator=[("", self._correlator())],
            figures={name: inline_svg(figure, name) for name, figure in self._figures().items()},
            captions=CAPTIONS,
        )

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        text = self.html()
        with written_atomically(path) as temporary:
            # Names of folders may hold bytes that are no text, which UTF-8 would refuse.
            temporary.write_bytes(text.encode("utf-8", errors="replace"))

    def _figures(self) -> dict[str, Figure]:
        """Return the figures of the page by name."""
        fresh = [(row["step"], row["ess"], row["ess_error"]) for row in self.evaluations if "ess" in row]
        figures = self.report.figures(fresh)
        if self.rungs:
            figures["ladder"] = ladder_curve(self.rungs)
        return figures

    def _observables(self) -> list[tuple[str, ...]]:
        """Return the rows of the table of observables."""
        flow, reference = self.report.measurements
        if reference is not None:
            return comparison_rows(flow, reference)
        return [(name.replace("_", " "), str(value)) for name, value in flow.scalars().items()]

    def _ladder(self) -> list[tuple[str, ...]]:
        """Return rows `lattice, steps, seconds, best ESS` of the ladder."""
        return [
            (
                " x ".join(map(str, rung.flow.lattice.shape)),
                str(len(rung.history)),
                f"{rung.history.seconds[-1]:.0f}",
                "" if "ess" not in rung.flow.about else f"{rung.flow.about['ess']:.4f}",
            )
            for rung in self.rungs
        ]

    @property
    def correlator_title(self) -> str:
        """Heading of the table of the two-point function; empty for a theory without it."""
        flow, _ = self.report.measurements
        if not isinstance(flow, Measurements):
            return ""
        return f"{name_of_correlator(flow)}, along the first axis"

    def _correlator(self) -> list[tuple[str, ...]]:
        """Return the rows of the table of the two-point function."""
        flow, reference = self.report.measurements
        if not self.report.shows_fields:
            return []
        if reference is None:
            return [(str(t), str(value)) for t, value in enumerate(flow.decaying_correlator)]
        pairs = enumerate(zip(flow.decaying_correlator, reference.decaying_correlator, strict=True))
        return [(str(t), str(a), str(b), f"{a.sigmas_from(b):+.1f}") for t, (a, b) in pairs]


def inline_svg(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element that takes its colours from the page.

    Args:
        figure: a figure in the colours of `equiflow.report.style`.
        name: name of the figure, unique on the page; the identifiers in the element start with it.

    Returns:
        Text of the element, without declarations in front of it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text is kept as text, so that it can be searched and read aloud, and follows the page's font.
    with style(), rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # drops the XML declaration and the address of a DTD
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    label = CAPTIONS[name].split(".")[0]
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def grouped(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return rows by groups of `GROUPS`, for a table with a heading for each group.

    Args:
        rows: the name of each first.

    Returns:
        Names of the groups with their rows; a single group is called "Results".

    >>> grouped([("log z", "1"), ("binder", "2"), ("log z bridge", "3"), ("mine", "4")])
    [('Free energy', [('log z', '1'), ('log z bridge', '3')]), ('Magnetisation', [('binder', '2')]), \
('Others', [('mine', '4')])]
    """
    found: dict[str, list[tuple[str, ...]]] = {name: [] for name in (*GROUPS, "Others")}
    for row in rows:
        found[next((name for name, starts in GROUPS.items() if row[0].startswith(starts)), "Others")].append(
            row
        )
    known = [(name, inside) for name, inside in found.items() if inside]
    return known if len(known) > 1 else [("Results", inside) for _, inside in known]
