"""The site of the API: what is linked is there, and what is wrong is told. CI builds all of its pages."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc")

BUILD = Path(__file__).parents[1] / "docs" / "build.py"
#: enough for the links of the overview to be looked at
MODULES = ["equiflow", "equiflow.statistics", "equiflow.statistics.estimate", "equiflow.training.history"]


@pytest.fixture(scope="module")
def docs():
    spec = importlib.util.spec_from_file_location("docs_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_build"] = module  # where its dataclasses and annotations are looked up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["docs_build"]


@pytest.fixture(scope="module")
def built(docs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return folder, docs.build(folder, MODULES)


def test_pages_have_signatures_formulas_and_links(built):
    folder, _ = built
    page = (folder / "equiflow" / "statistics" / "estimate.html").read_text()
    assert '<section id="Estimate">' in page
    assert 'id="Estimate.sigmas_from"' in page
    assert "<code>(mean - other) / error</code>" in page
    history = (folder / "equiflow" / "training" / "history.html").read_text()
    assert '<a href="../../equiflow/statistics/estimate.html#Estimate">' in history or (
        'href="../statistics/estimate.html#Estimate"' in history
    )
    # A folder lists what it offers, with links to where that is defined.
    assert (
        '<tr id="Estimate"><th><a href="../equiflow/statistics/estimate.html#Estimate">'
        in (folder / "equiflow" / "statistics.html").read_text()
    )
    assert "Estimate.sigmas_from" in (folder / "search.js").read_text()
    assert not re.search(r'(src|href)="https?://', page)  # nothing is loaded from elsewhere


def test_every_example_and_guide_has_a_page_and_a_line_in_the_overview(built):
    folder, _ = built
    overview = (folder / "index.html").read_text()
    for path in [*BUILD.parents[1].glob("examples/*.py"), *BUILD.parents[1].glob("examples/*.ipynb")]:
        assert f'href="examples/{path.stem}.html"' in overview
        assert "pdoc-code" in (folder / "examples" / f"{path.stem}.html").read_text()
    for path in BUILD.parents[1].glob("examples/guides/*.md"):
        assert f'href="guides/{path.stem}.html"' in overview
        assert (folder / "guides" / f"{path.stem}.html").exists()


def test_a_name_without_a_page_is_a_fault(built):
    """The overview names modules that were left out here."""
    _, faults = built
    assert "overview: there is no equiflow.oracles" in faults
    assert not [fault for fault in faults if not fault.startswith("overview: there is no equiflow.")]


def test_links_that_lead_nowhere_are_found(docs, tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x">1</a><a href="#here">2</a><i id="here"></i><a href="https://e.org">3</a>'
    )
    (tmp_path / "b.html").write_text('<p id="y"></p><a href="c.html">4</a><a href="a.html#here">5</a>')
    assert list(docs.broken_links(tmp_path)) == [
        "a.html: b.html#x is no place on that page",
        "b.html: c.html is no page",
    ]


def test_all_modules_have_pages(docs):
    package = BUILD.parents[1] / "equiflow"
    files = {path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")}
    names = {".".join(path.parts).removesuffix(".__init__") for path in files} - {"equiflow.__main__"}
    assert set(docs.all_modules()) == names
