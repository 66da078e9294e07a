"""Scripts of `benchmarks/` and `examples/` that no test runs import only what the package has."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")])


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
