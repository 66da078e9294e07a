"""Scripts of `benchmarks/` and `examples/` that no test runs import only what the package has."""

from __future__ import annotations

import ast
import importlib
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")])


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: what some examples need that is no part of the package
NEEDS = {"with_lightning.py": "lightning"}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_every_example_says_its_options(script, monkeypatch, capsys):
    pytest.importorskip(NEEDS.get(script.name, "torch"))
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {script.name} [-h]")
    # What it is for, in the words of its docstring.
    assert "".join(ast.get_docstring(ast.parse(script.read_text()))[:40].split()) in "".join(said.split())


def missing(source: str) -> list[str]:
    """Names that a source imports from equiflow and that are not there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "equiflow":
            found += [
                f"{node.module}.{alias.name}" for alias in node.names if not exists(node.module, alias.name)
            ]
    return found


def exists(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_imported_name_exists(script):
    assert missing(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["from equiflow.nowhere import x", "from equiflow import NoSuchFlow", "from equiflow.ode import no"],
)
def test_a_name_that_is_gone_is_seen(source):
    assert len(missing(source)) == 1
