"""Build the site of the API: an overview by task, a page for each module, search, guides and examples.

`python .docs/build.py site` writes it to the folder `site`; with `--open` a browser shows it. Nothing is
loaded from elsewhere: the formulas of `mathematics.md` become MathML, which browsers draw alone; MathJax
would want a network or two megabytes of scripts. Formulas of docstrings stay code: the same text is read in
`help()`, in an editor and here. A warning, a link that leads nowhere, a name in a docstring that does not
exist, and a formula that cannot be typeset are errors.
"""

from __future__ import annotations

import argparse
import ast
import html
import json
import pkgutil
import re
import sys
import warnings
import webbrowser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import latex2mathml.converter
import markdown2
import pygments
from markupsafe import Markup
from pdoc import render
from pdoc.doc import Module
from pdoc.search import make_index
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import equiflow

DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "examples"
GUIDES = EXAMPLES / "guides"
#: a name in backticks, such as `Flow.save` or `fit(...)`, as Markdown makes it
NAMED = re.compile(r"<code>(equiflow(?:\.\w+)+|[A-Za-z]\w+(?:\.\w+)*)((?:\(\w*\.*\))?)</code>(?!</a>)")

#: a link to a class by its full name, as signatures have it; the last part says enough
QUALIFIED = re.compile(r'(<a href="[^"]*">)equiflow\.(?:\w+\.)*([A-Z]\w*</a>)')
#: a formula in TeX, displayed or within a line
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)
MATHML = "http://www.w3.org/1998/Math/MathML"
#: what pdoc says of classes that pydantic has made, and of annotations in named tuples
HARMLESS = re.compile(r"^Cannot determine where equiflow\.cli|^Error parsing type annotation ForwardRef")


class Site:
    """What all pages share: the modules, where names are defined, and how a page looks.

    Args:
        modules: names of the modules that have a page.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        exec("from equiflow import *", {})  # the package imports its names when they are asked for
        self.modules = {name: Module.from_name(name) for name in modules}
        for module in self.modules.values():
            _keep_own_members(module)
        self.public = _public_names(self.modules)
        #: what is wrong, one sentence each
        self.faults: list[str] = []
        formatters = {"light": HtmlFormatter(style="default"), "dark": HtmlFormatter(style="github-dark")}
        styles = {name: one.get_style_defs(".pdoc-code") for name, one in formatters.items()}
        render.configure(docformat="google", show_source=False, template_directory=DOCS / "templates")
        # With all of the docstrings, or compiled, the index would be ten times as large as the longest page.
        render.make_index = _short_index
        render.precompile_index = lambda documents, _: json.dumps(documents)
        render.env.globals.update(reexports=self.reexports, syntax=styles, title="equiflow")

    def where(self, name: str) -> str | None:
        """Return the page and anchor of a name, relative to the root of the site; None if it has none."""
        name = self.public.get(name.partition(".")[0], "") + name[len(name.partition(".")[0]) :]
        parts = name.split(".")
        for n in range(len(parts), 0, -1):
            module = self.modules.get(".".join(parts[:n]))
            if module is None:
                continue
            rest = ".".join(parts[n:])
            page = "/".join(parts[:n]) + ".html"
            if not rest:
                return page
            found = module.get(rest)
            if found is not None:
                return f"{page}#{rest}"
            inherited = self._inherited(module, rest)
            if inherited is not None:
                return inherited
            # Handed on from where it is defined, as `equiflow.fit` or `equiflow.analysis.measure` is.
            first, *others = rest.split(".")
            home = getattr(getattr(module.obj, first, None), "__module__", None)
            if home in self.modules and home != module.modulename:
                return self.where(".".join([home, first, *others]))
            value = getattr(module.obj, first, None)
            return page if hasattr(module.obj, first) and not isinstance(value, ModuleType) else None
        return None

    def _inherited(self, module: Module, name: str) -> str | None:
        """Return the place of a member that a class of a module has from a base."""
        owner, _, member = name.rpartition(".")
        cls = module.get(owner) if owner else None
        for base in getattr(getattr(cls, "obj", None), "__mro__", ())[1:]:
            home = self.modules.get(base.__module__)
            if home is not None and home.get(f"{base.__qualname__}.{member}") is not None:
                return f"{base.__module__.replace('.', '/')}.html#{base.__qualname__}.{member}"
        if cls is not None and hasattr(cls.obj, member):  # from torch or Python, on no page
            return self.where(f"{module.modulename}.{owner}")
        return None

    def reexports(self, module: Module) -> list[tuple[str, str, str]]:
        """Return names that a module hands on, with where they are defined and their first sentences."""
        found = []
        for name in getattr(module.obj, "__all__", ()):
            place = self.where(f"{module.modulename}.{name}")
            if module.get(name) is None and place is not None and not name.startswith("_"):
                up = "../" * module.modulename.count(".")
                found.append((name, up + place, _first_sentence(getattr(module.obj, name))))
        return found

    def linked(self, text: str, depth: int, page: str) -> str:
        """Return HTML whose names in backticks are links.

        Args:
            text: of the page.
            depth: number of folders that the page is below the root.
            page: name of the page, for messages.

        Returns:
            The text with links.
        """

        def link(match: re.Match[str]) -> str:
            name = match[1]
            known = name.startswith("equiflow.") or name.partition(".")[0] in self.public
            place = self.where(name) if known else None
            if place is None:
                if name.startswith("equiflow."):
                    self.faults.append(f"{page}: there is no {name}")
                return match[0]
            return f'<a href="{"../" * depth}{place}"><code>{name}{match[2]}</code></a>'

        return NAMED.sub(link, QUALIFIED.sub(r"\1\2", text))

    def page(self, title: str, body: str, depth: int, contents: str = "") -> str:
        """Return a page that is not one of a module.

        Args:
            title: of the page.
            body: HTML of its main part.
            depth: number of folders that it is below the root.
            contents: HTML of its table of contents.

        Returns:
            The text of the page.
        """
        template = render.env.get_template("page.html.jinja2")
        options = {
            "heading": title,
            "body": Markup(body),
            "contents": Markup(contents),
            "root": "../" * depth,
        }
        return template.render(all_modules=self.modules, **options)

    def write(self, folder: Path) -> None:
        """Write all pages; what is wrong with them is in `faults`."""
        for name, module in self.modules.items():
            depth = name.count(".")
            text = self.linked(render.html_module(module, self.modules), depth, name)
            _write(folder / (name.replace(".", "/") + ".html"), text)
        for path in sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]):
            body = notebook(path) if path.suffix == ".ipynb" else script(path)
            _write(
                folder / "examples" / f"{path.stem}.html",
                self.linked(self.page(path.name, body, 1), 1, path.name),
            )
        for path in sorted(GUIDES.glob("*.md")):
            body = _own_links_only(_markdown(path.read_text(encoding="utf-8")))
            _write(
                folder / "guides" / f"{path.stem}.html",
                self.linked(self.page(path.stem.replace("_", " "), body, 1), 1, path.name),
            )
        _write(folder / "guides" / "mathematics.html", self.linked(self.mathematics(), 1, "mathematics"))
        body, contents = self.overview()
        _write(folder / "index.html", self.linked(self.page("equiflow", body, 0, contents), 0, "overview"))
        _write(folder / "search.js", render.search_index(self.modules))
        mend_anchors(folder, folder / "equiflow")
        self.faults += list(broken_links(folder))

    def mathematics(self) -> str:
        """Return the page of formulas."""
        text, formulas = typeset((DOCS / "mathematics.md").read_text(encoding="utf-8"))
        self.faults += [f"mathematics.md: {fault}" for fault in untypeset(text, formulas)]
        body = _markdown(text)
        contents, made = body.toc_html or "", str(body)
        for name, formula in formulas.items():
            made = made.replace(name, formula)
        return self.page("mathematics", made, 1, contents)

    def overview(self) -> tuple[str, str]:
        """Return the main page and its table of contents: tasks, examples, and all modules."""
        lines = [(DOCS / "overview.md").read_text(encoding="utf-8"), "\n## Guides\n"]
        lines.append("- [The mathematics behind it](guides/mathematics.html)")
        for path in _guides():
            lines.append(f"- [{_heading(path)}](guides/{path.stem}.html)")
        lines.append("\n## Examples\n")
        for path in sorted([*EXAMPLES.glob("*.ipynb"), *EXAMPLES.glob("*.py")]):
            lines.append(f"- [{path.name}](examples/{path.stem}.html): {_about(path)}")
        lines.append("\n## All modules\n")
        for name, module in self.modules.items():
            if name.count(".") < 2:
                lines.append("")
            lines.append(f"{'    ' * max(name.count('.') - 1, 0)}- `{name}`: {_first_sentence(module.obj)}")
        rendered = _markdown("\n".join(lines))
        return rendered, rendered.toc_html or ""


def all_modules() -> list[str]:
    """Return the names of all modules of the package, in the order of the folders."""
    found = [one.name for one in pkgutil.walk_packages(equiflow.__path__, "equiflow.")]
    return sorted(["equiflow", *(name for name in found if not name.endswith("__main__"))])


def script(path: Path) -> str:
    """Return an example as HTML: its docstring, then its code."""
    source = path.read_text(encoding="utf-8")
    about = ast.get_docstring(ast.parse(source)) or ""
    return _markdown(about) + _highlighted(source)


def notebook(path: Path) -> str:
    """Return a notebook as HTML: text, code, and what it printed and drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(_markdown(source) if cell["cell_type"] == "markdown" else _highlighted(source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", "")))
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="what the code above draws" src="data:image/png;base64,{picture}">')
            elif text.strip():
                parts.append(f'<pre class="output">{html.escape(text)}</pre>')
    return "\n".join(parts)


def typeset(text: str) -> tuple[str, dict[str, str]]:
    r"""Return Markdown with a name in place of each formula, and the formulas in MathML by name.

    Args:
        text: Markdown with formulas of TeX, `$$...$$` displayed and `$...$` within a line. Parts of a
            displayed one with `\qquad` between them stand on lines of their own where the page is narrow.
    """
    formulas: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        name = f"FORMULA{len(formulas)}X"
        if match[1]:
            parts = [
                latex2mathml.converter.convert(part, display="block") for part in match[1].split(r"\qquad")
            ]
            formulas[name] = f'<span class="formula">{"".join(parts)}</span>'
        else:
            formulas[name] = latex2mathml.converter.convert(match[2])
        return name

    return FORMULA.sub(named, text), formulas


def untypeset(text: str, formulas: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each thing in formulas that `typeset` could not read."""
    for formula in formulas.values():
        # Commands that it does not know stay as they are, and fractions of one part are made.
        for command in re.findall(r"\\\w*", formula):
            yield f"there is no {command}"
        for fraction in ElementTree.fromstring(formula).iter(f"{{{MATHML}}}mfrac"):
            if len(fraction) != 2:
                yield "a fraction has one part"
    if "$" in text:
        yield "a formula has no end"


def mend_anchors(folder: Path, made_by_pdoc: Path) -> None:
    """Let links to members that no page shows, such as those that torch gives a module, lead to their class.

    Args:
        folder: of the site.
        made_by_pdoc: folder of the pages whose links are mended.
    """
    anchors = {path: _Links.of(path).anchors for path in folder.rglob("*.html")}
    for path in [made_by_pdoc.with_suffix(".html"), *made_by_pdoc.rglob("*.html")]:

        def mended(match: re.Match[str], path: Path = path) -> str:
            target, names = match[1], match[2].split(".")
            known = anchors.get((path.parent / target).resolve() if target else path, set())
            shown = next((n for n in range(len(names), 0, -1) if ".".join(names[:n]) in known), 0)
            return f'href="{target}{"#" if shown else ""}{".".join(names[:shown])}"'

        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'href="([^"#:]*)#([\w.]+)"', mended, text), encoding="utf-8")


def broken_links(folder: Path) -> Iterator[str]:
    """Yield a sentence for each link of a site that leads nowhere."""
    pages = {path: _Links.of(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        for link in sorted(page.links):
            target, _, anchor = link.partition("#")
            if "://" in link or link.startswith(("mailto:", "data:")):
                continue
            there = (path.parent / target).resolve() if target else path
            if there not in pages and not there.exists():
                yield f"{path.relative_to(folder)}: {link} is no page"
            elif anchor and there in pages and anchor not in pages[there].anchors:
                yield f"{path.relative_to(folder)}: {link} is no place on that page"


class _Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()

    @classmethod
    def of(cls, path: Path) -> _Links:
        found = cls()
        found.feed(path.read_text(encoding="utf-8"))
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.links.add(str(given["href"]))
        if given.get("id"):
            self.anchors.add(str(given["id"]))


def _keep_own_members(module: Module) -> None:
    """Leave what a module hands on to the page of the module that defines it."""
    own = {}
    for name, member in module.members.items():
        construct = getattr(member, "members", {}).get("__init__")
        if construct is not None and not vars(member.obj).get("__init__", construct).__doc__:
            vars(construct)["docstring"] = ""  # that of the class says it; torch's own would stand here
        home = getattr(member.obj, "__module__", module.modulename)
        if member.kind == "module" or member.kind == "variable" or home == module.modulename:
            own[name] = member
    # A cached property of pdoc, from which it derives all else.
    vars(module)["members"] = own


def _public_names(modules: Mapping[str, Module]) -> dict[str, str]:
    """Return the full names of everything that the package or a folder of it offers, by short name."""
    found = {"equiflow": "equiflow"}
    for module in modules.values():
        for name in getattr(module.obj, "__all__", ()):
            home = getattr(getattr(module.obj, name), "__module__", None)
            if home in modules:
                found.setdefault(name, f"{home}.{name}")
    return found


def _first_sentence(documented: Any) -> str:
    text = (getattr(documented, "__doc__", None) or "").strip().split("\n\n")[0]
    return re.split(r"(?<=[.:])\s", " ".join(text.split()))[0]


def _guides() -> list[Path]:
    """Return the guides in the order in which the gallery names them."""
    gallery = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    return sorted(GUIDES.glob("*.md"), key=lambda path: gallery.find(f"(guides/{path.name})"))


def _heading(path: Path) -> str:
    """Return the title of a guide."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#")), path.stem)


def _own_links_only(text: str) -> str:
    """Return the HTML of a guide; its links to guides and to the web stay, other files have no page."""

    def kept(match: re.Match[str]) -> str:
        target, words = match[1], match[2]
        if (GUIDES / target).suffix == ".md" and (GUIDES / target).parent == GUIDES:
            return f'<a href="{Path(target).stem}.html">{words}</a>'
        return match[0] if "://" in target or target.startswith("#") else words

    return re.sub(r'<a href="([^"]+)">(.*?)</a>', kept, text)


def _about(path: Path) -> str:
    """Return the first sentence of an example."""
    if path.suffix == ".py":
        return " ".join(
            (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split()
        )
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = next(("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"), "")
    return next((line.strip("# ") for line in text.splitlines() if line.strip()), "a notebook")


def _markdown(text: str) -> markdown2.UnicodeWithAttrs:
    extras = {
        "code-friendly": None,
        "cuddled-lists": None,
        "fenced-code-blocks": {"cssclass": "pdoc-code codehilite"},
    }
    return markdown2.markdown(
        text, extras={**extras, "header-ids": None, "tables": None, "toc": {"depth": 2}}
    )


def _highlighted(source: str) -> str:
    return pygments.highlight(source, PythonLexer(), HtmlFormatter(cssclass="pdoc-code codehilite"))


def _short_index(modules: Any, is_public: Any, docformat: str) -> list[dict[str, str]]:
    """Return what can be searched: names, signatures and the first paragraphs of docstrings."""
    items = make_index(modules, is_public, docformat)
    return [item | {"doc": item.get("doc", "").split("</p>")[0]} for item in items]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(folder: Path, modules: Sequence[str] = ()) -> list[str]:
    """Build the site.

    Args:
        folder: where it goes; made if it is missing.
        modules: those that have a page; by default all.

    Returns:
        What is wrong, one sentence each.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        site = Site(modules or all_modules())
        site.write(folder)
    said = [
        f"{one.category.__name__}: {one.message}" for one in caught if not HARMLESS.search(str(one.message))
    ]
    return [*dict.fromkeys(said), *site.faults]


def main() -> None:
    """Build the site from a shell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, default=Path("site"), help="folder; site unless given")
    parser.add_argument("--open", action="store_true", help="show it in a browser when it is built")
    args = parser.parse_args()
    folder = args.out
    faults = build(folder)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} faults")
    print(f"open {folder / 'index.html'}")
    if args.open:
        webbrowser.open((folder / "index.html").resolve().as_uri())


if __name__ == "__main__":
    main()
