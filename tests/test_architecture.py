"""The house of DESIGN section 3, read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import equiflow

PACKAGE = Path(equiflow.__file__).parent
LAYER = {
    **dict.fromkeys(
        [
            "allocation",
            "autograd",
            "compilation",
            "conventions",
            "lattice",
            "distributed",
            "ode",
            "precision",
            "randomness",
            "resizing",
            "solvers",
            "space",
            "statistics",
            "storage",
        ],
        0,
    ),
    **dict.fromkeys(
        [
            *("group", "point_groups", "symmetry", "orthogonal", "actions", "correlators", "families"),
            *("angles", "angle_observables", "particles", "priors", "observables"),
        ],
        1,
    ),
    "nn": 2,
    "vector_fields": 3,
    "flows": 4,
    **dict.fromkeys(["training", "samplers", "presets", "interop"], 5),
    **dict.fromkeys(["", "testing", "oracles", "report", "plots", "page", "cli", "__main__"], 6),
}
ONLY_IMPORTED_IN = {
    "torchdiffeq": {"ode"},
    "escnn": {"nn.steerable"},
    "e3nn": {"nn.o3"},
    "zuko": {"nn.splines"},
    "h5py": {"interop.hdf5"},
    "arviz": {"interop.inference_data"},
    "xarray": {"interop.inference_data"},
    "matplotlib": {"report", "plots", "page"},
    "jinja2": {"page"},
    "rich": {"report", "cli.watching"},
    "typer": {"cli.app"},
    "pydantic": {
        *("cli.config", "cli.config_file", "cli.section", "cli.field_sections", "cli.objective_sections"),
    },
}
MAY_PRINT = {"cli.app", "report"}
MAX_LINES = 400


def imported(tree: ast.AST, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Full names of the modules that a source imports, lazily or not."""
    package = ["equiflow", *module.split(".")] if module else ["equiflow"]
    package = package if is_package else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names) if name == "equiflow" else [name]


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module (named without `equiflow.`, "" for the package itself) does against the house."""
    found = []
    home = module.split(".")[0]
    if module.split(".")[-1] == "utils":
        found.append("is called utils")
    if home not in LAYER:
        return [*found, f"{home} has no place in the house"]
    tree = ast.parse(source)
    for name in imported(tree, module, is_package=is_package):
        outer, _, inner = name.partition(".")
        if outer in ONLY_IMPORTED_IN and module not in ONLY_IMPORTED_IN[outer]:
            found.append(f"imports {outer}")
        if outer == "equiflow":
            target = inner.split(".")[0]
            target = target if target in LAYER else ""  # a public name of the package
            if LAYER[target] > LAYER[home]:
                found.append(f"imports {name} from a higher layer")
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    if module not in MAY_PRINT and any(isinstance(f, ast.Name) and f.id == "print" for f in calls):
        found.append("prints")
    if len(source.splitlines()) > MAX_LINES:
        found.append(f"has more than {MAX_LINES} lines")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: module_name(p) or "equiflow")
def test_module_keeps_to_the_house(path):
    source = path.read_text(encoding="utf-8")
    assert violations(source, module_name(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("source", "module", "violation"),
    [
        ("from equiflow.theories.base.symmetry import SymmetryGroup", "lattice", "higher layer"),
        ("import equiflow.flows", "priors", "higher layer"),
        ("from equiflow.training import fit", "flows.cnf", "higher layer"),
        ("from equiflow import flows", "nn.kernels", "higher layer"),
        ("from equiflow import Lattice", "actions", "higher layer"),
        ("from ..flows import Flow", "nn.kernels", "higher layer"),
        ("from .. import testing", "training.trainer", "higher layer"),
        ("def f():\n    from equiflow.report.report import plot", "samplers.hmc", "higher layer"),
        ("if True:\n    import torchdiffeq", "flows.cnf", "imports torchdiffeq"),
        ("from torchdiffeq import odeint", "training.trainer", "imports torchdiffeq"),
        ("from escnn import nn", "vector_fields.steerable", "imports escnn"),
        ("import e3nn.o3", "nn.steerable", "imports e3nn"),
        ("from zuko.transforms import MonotonicRQSTransform", "flows.coupling", "imports zuko"),
        ("import matplotlib.pyplot as plt", "observables", "imports matplotlib"),
        ("def f():\n    import h5py", "interop.samples", "imports h5py"),
        ("import arviz", "samplers.chain", "imports arviz"),
        ("print('hello')", "training.trainer", "prints"),
        ("x = 1\n" * 401, "lattice", "more than 400 lines"),
        ("", "utils", "is called utils"),
        ("", "nn.utils", "is called utils"),
        ("", "helpers", "no place in the house"),
    ],
)
def test_each_violation_is_seen(source, module, violation):
    assert any(violation in found for found in violations(source, module))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from equiflow.theories.base.lattice import Lattice\nfrom torchdiffeq import odeint", "ode"),
        ("from .kernels import Kernel\nfrom ..lattice import Lattice", "nn.convolution"),
        ("from equiflow import Lattice\nprint('hello')", "cli.app"),
        ("from escnn import nn", "nn.steerable"),
        ("from e3nn import o3", "nn.o3"),
        ("def f():\n    import zuko", "nn.splines"),
        ("'print(x)'\ntable.print()", "statistics"),
    ],
)
def test_what_is_allowed_passes(source, module):
    assert violations(source, module) == []


def test_importing_the_package_stays_light():
    check = """
import sys, equiflow, equiflow.interop, equiflow.theories.scalar.presets
def heavy():
    heavy = {"arviz", "e3nn", "escnn", "h5py", "matplotlib", "xarray", "zuko"}
    heavy |= {"typer", "pydantic", "rich", "jinja2", "tensorboard", "equiflow.cli"}
    return sorted(heavy & set(sys.modules))
print(heavy())
sys.modules["e3nn"] = None
print(heavy())
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['e3nn']"]
