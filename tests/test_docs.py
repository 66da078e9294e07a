"""The site of the API: what is linked is there, and what is wrong is told. CI builds all of its pages."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import equiflow

pytest.importorskip("pdoc")
pytest.importorskip("latex2mathml")

BUILD = Path(__file__).parents[1] / ".docs" / "build.py"
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


def test_no_page_loads_anything_from_elsewhere(built):
    folder, _ = built
    loaded = re.compile(
        r'\bsrc=["\']?(?:https?:)?//|<link[^>]*href=["\']?(?:https?:)?//|@import|url\(["\']?(?:https?:)?//'
    )
    for example in (
        '<script src="https://a.b/c.js">',
        '<link rel="x" href="//a.b/c.css">',
        "url(http://a.b)",
    ):
        assert loaded.search(example)
    pages = list(folder.rglob("*.html"))
    assert len(pages) > len(MODULES)
    assert [path.name for path in pages if loaded.search(path.read_text())] == []


def test_the_page_of_mathematics_is_typeset_and_leads_on(docs, built):
    folder, _ = built
    source = (BUILD.parent / "mathematics.md").read_text()
    page = (folder / "guides" / "mathematics.html").read_text()
    text, formulas = docs.typeset(source)
    assert list(docs.untypeset(text, formulas)) == []
    assert len(formulas) > 80
    assert all(formula in page for formula in formulas.values())
    assert not re.search(r"FORMULA\d|\$|href=.https?:", page)
    sections = re.findall(r"^## (.*)$", source, flags=re.MULTILINE)
    assert re.findall(r'<li><a href="#[\w-]+">(.*?)</a>', page) == sections
    assert 'href="guides/mathematics.html"' in (folder / "index.html").read_text()
    assert '<a href="../equiflow/statistics/estimate.html#Estimate">' in page
    # What is named is there, in every section.
    for section in re.split(r"^## ", source, flags=re.MULTILINE)[1:]:
        names = set(re.findall(r"`([A-Za-z]\w+)(?:\.\w+)*`", section)) - {"log_det"}
        assert names
        assert names <= {*equiflow.__all__, "equiflow"}


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (r"$\nabla \nabble x$", r"there is no \nabble"),
        (r"$$x = \frac{1}$$", "a fraction has one part"),
        ("from $x on", "a formula has no end"),
    ],
)
def test_a_formula_that_cannot_be_typeset_is_a_fault(docs, wrong, fault):
    assert list(docs.untypeset(*docs.typeset(wrong))) == [fault]


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
    assert not [fault for fault in faults if ": there is no equiflow." not in fault]


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
