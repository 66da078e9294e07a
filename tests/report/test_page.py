"""The report as one HTML page: well-formed, nothing from elsewhere, every section there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch

from equiflow import HMC, EquivariantCNF, Lattice, OrbitConvField, Phi4, Solver, fit, importance_sample
from equiflow.report import Report, plots
from equiflow.report.page import CAPTIONS, Page, grouped, inline_svg
from equiflow.testing import Check, CheckReport
from equiflow.training import History

SECTIONS = [
    *("summary", "training", "weights", "certificate", "observables", "two-point", "configurations"),
    *("symmetry", "configuration"),
]
LAWS = CheckReport("a flow", (Check("equivariance", "Z2 phi -> -phi", 1e-16, 1e-12, ""),))
SVG = "{http://www.w3.org/2000/svg}"


def make(shape: tuple[int, ...]) -> Report:
    lattice = Lattice(shape)
    action = Phi4(lattice, m2=-4.0, lam=7.0)
    field = OrbitConvField(lattice, n_frequencies=2, n_time_modes=2, max_frequency=4.0)
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=6)).double()
    history = fit(flow, action, steps=20, batch_size=32, warmup=5, progress=False)
    generator = torch.Generator().manual_seed(1)
    ensemble = importance_sample(flow, action, 256, certify=64, generator=generator)
    chain = HMC(action).sample(20, n_chains=16, generator=generator)
    return Report(flow, action, history, ensemble, chain)


@pytest.fixture(scope="module")
def report() -> Report:
    return make((4, 4))


@pytest.fixture(scope="module")
def page(report) -> Page:
    evaluations = [{"step": 10, "ess": 0.5, "ess_error": 0.1}, {"step": 20, "error": "too stiff"}]
    sessions = [{"from_step": 0, "torch": "2.13"}]
    return Page(report, "a <run> & more", "steps = 20  # <b>", evaluations, LAWS, sessions)


@pytest.fixture(scope="module")
def html(page) -> str:
    return page.html()


def parsed(html: str) -> ET.Element:
    doctype, _, rest = html.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ET.fromstring(rest)


def test_it_is_well_formed_and_has_every_section_once(html):
    root = parsed(html)
    assert [section.get("id") for section in root.iter("section")] == SECTIONS
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    targets = [link.get("href") for link in root.find(".//nav").iter("a")]
    assert targets == [f"#{section}" for section in SECTIONS]


def test_nothing_is_loaded_from_elsewhere(html):
    root = parsed(html)
    assert not list(root.iter("script")) + list(root.iter("link")) + list(root.iter("iframe"))
    identifiers = {element.get("id") for element in root.iter()}
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.split("}")[-1] in ("href", "src"):
                assert value.startswith("data:image/png;base64,") or value[1:] in identifiers, value
    text = re.sub(r' xmlns="http://www.w3.org/2000/svg"', "", html)
    assert "http" not in text
    assert "@import" not in text
    for reference in re.findall(r"url\(([^)]*)\)", text):
        assert reference[0] == "#"
        assert reference[1:] in identifiers


def test_a_reference_that_leads_nowhere_would_be_noticed(report):
    svg = inline_svg(plots.weights(report.ensemble), "weights")
    assert 'id="weights-' in svg
    assert 'id="figure' not in svg


def test_every_figure_is_there_with_a_caption_and_a_label(html):
    root = parsed(html)
    figures = list(root.iter("figure"))
    assert len(figures) == 6
    for figure in figures:
        assert figure.find("figcaption").text in CAPTIONS.values()
        svg = figure.find(f"{SVG}svg")
        assert svg.get("role") == "img"
        assert svg.get("aria-label")


def test_figures_follow_light_and_dark(html):
    assert "prefers-color-scheme: dark" in html
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    for variable in ("var(--flow)", "var(--reference)", "currentColor"):
        assert variable in svg
    for colour in (plots.FLOW, plots.REFERENCE, "#010203"):
        assert colour not in svg
    # White boxes would glare in the dark: all that is left of matplotlib's white is transparent.
    assert "fill: #ffffff; opacity: 0" in svg or "#ffffff" not in svg
    assert not re.search(r"<text[^>]*fill: #0{6}", svg)


def test_tables_have_captions_and_header_cells(html):
    root = parsed(html)
    tables = list(root.iter("table"))
    assert len(tables) == 7  # three of them on the quality of the flow
    for table in tables:
        assert table.find("caption").text
        assert all(cell.get("scope") == "col" for cell in table.find("thead").iter("th"))
    assert root.get("lang") == "en"


def test_every_number_is_on_the_page(page, html):
    for _, value in page.report.quality():
        assert value in html
    for source in page.report.measurements:
        for estimate in (*source.scalars().values(), *source.correlator):
            assert str(estimate) in html
    assert str(page.report.certificate) in html
    assert "All laws hold" in html


def test_it_opens_with_the_verdict_in_one_sentence(page, html):
    root = parsed(html)
    first = next(root.find("body/header").iter("p"))
    assert first.text == page.report.verdict[1]
    assert first.text.count(". ") == 0
    assert first.text.startswith("Few of its samples count (reverse ESS ")  # after twenty steps


def test_rows_stand_in_groups_and_each_once(page):
    rows = page._observables()
    groups = dict(grouped(rows))
    assert list(groups) == ["Magnetisation", "On sites and links", "Masses and lengths"]
    assert sorted(row for inside in groups.values() for row in inside) == sorted(rows)
    assert [name for name, _ in grouped(page.report.quality())] == [
        "Samples that count",
        "Free energy",
        "Solver",
    ]


def test_what_is_given_is_escaped(html):
    assert "a &lt;run&gt; &amp; more" in html
    assert "&lt;b&gt;" in html
    assert "<run>" not in html


@pytest.fixture
def _undrawn(monkeypatch):
    """Figures take most of the time; here they are not looked at."""
    monkeypatch.setattr("equiflow.report.page.inline_svg", lambda figure, name: "<svg />")


@pytest.mark.usefixtures("_undrawn")
def test_violations_and_warnings_are_not_hidden(page):
    broken = CheckReport("a flow", (*LAWS.checks, Check("divergence", "", 0.3, 1e-11, "")))
    html = replace(page, laws=broken).html()
    parsed(html)
    assert "1 laws are violated" in html
    assert "All laws hold" not in html
    shifted = replace(
        page.report.ensemble,
        log_weight=page.report.ensemble.log_weight + 2 * (page.report.ensemble.phi.mean((1, 2)) > 0),
    )
    html = replace(page, report=replace(page.report, ensemble=shifted)).html()
    parsed(html)
    assert "Warning: log Z from model samples" in html
    assert "Both directions agree" not in html


@pytest.mark.usefixtures("_undrawn")
def test_without_chain_history_and_laws_it_says_so(report):
    html = Page(replace(report, chain=None, history=History()), "bare").html()
    root = parsed(html)
    assert [section.get("id") for section in root.iter("section")] == SECTIONS
    assert "without HMC" in html
    assert "forward ess" not in html
    assert "No step is on record" in html
    assert "The laws were not checked" in html


@pytest.mark.usefixtures("_undrawn")
def test_in_three_dimensions_no_configuration_is_drawn(tmp_path):
    page = Page(make((2, 2, 2)), "three dimensions")
    page.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed(text)
    assert "Only configurations of two dimensions are drawn" in text


def test_without_a_chain_a_report_leaves_out_what_needs_it(report, tmp_path, capsys):
    bare = replace(report, chain=None)
    bare.print()
    assert "HMC" not in capsys.readouterr().out
    bare.save(tmp_path)
    assert not replace(bare, history=History()).figures().keys() & {"training"}
    assert {"forward_ess", "log_z_bridge"} & bare.results().keys() == set()
    assert bare.results()["n_hmc_samples"] == 0
    assert bare.results()["reverse_ess"] == report.results()["reverse_ess"]
