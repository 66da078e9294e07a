"""The house is kept: who may import whom, which files stand in the root, and how simple the picture is.

`python -m tests.test_architecture` prints the rooms by floors.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equiflow
from tests.support.house import House, circles_of, hands_names_on, imported, module_name

PACKAGE = Path(equiflow.__file__).parent
HOUSE = House.of(PACKAGE)

#: from the ground up; what stands on one line may import from lower lines and from itself alone
FLOORS = [
    ["runtime"],
    ["statistics", "ode", "fused"],
    ["theories"],
    ["nn"],
    ["vector_fields"],
    ["flows"],
    ["training", "samplers"],
    ["analysis", "testing", "oracles", "interop"],
    ["report"],
    ["public"],
    [""],
    ["cli"],
    ["__main__"],
]
#: the same inside of folders
INNER_FLOORS = {
    "theories": [
        ["base"],
        ["scalar"],
        ["multiplets", "angles", "particles", "gauge"],
        ["fermions"],
        ["kinds"],
        [""],
    ],
    "cli": [
        ["config", "versions"],
        ["building"],
        ["run"],
        ["presets", "info", "watching", "flow_files"],
        ["ensembles"],
        ["results", "endings"],
        ["training"],
        ["app"],
        [""],
    ],
}
#: other names of modules, which people import from
ALIASES = {"distributed": 1, "observables": 3, "presets": 3, "solvers": 2}
ROOT_FILES = {"__init__.py", "__main__.py", "public.py", *(f"{name}.py" for name in ALIASES)}
ONLY_IMPORTED_IN = {
    "torchdiffeq": {"ode.integrate"},
    "numba": {"fused"},
    "escnn": {"nn.irreps.escnn_kernels"},
    "e3nn": {"nn.irreps.e3nn_kernels"},
    "zuko": {"nn.couplings.splines"},
    "h5py": {"interop.hdf5"},
    "arviz": {"interop.inference_data"},
    "xarray": {"interop.inference_data"},
    "matplotlib": {"report"},
    "jinja2": {"report.page"},
    "rich": {"report.terminal", "cli.watching"},
    "typer": {"cli.app", "cli.endings", "cli.training"},
    "pydantic": {"cli.config"},
}
MAY_PRINT = {"cli.app", "report.terminal"}
MAX_LINES = 360
MOST_ROOMS, MOST_FLOORS, MOST_ARROWS = 20, 10, 85


def floor_of(name: str, floors: list[list[str]]) -> int | None:
    return next((n for n, floor in enumerate(floors) if name in floor), None)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module (named without `equiflow.`, "" for the package itself) does against the house."""
    home, name = module.split(".")[0], module.split(".")[-1]
    found = [f"is called {name}"] if name in ("utils", "helpers", "common", "misc") else []
    if home in ALIASES:
        return [*found, *([] if hands_names_on(source) else ["defines something, as an alias must not"])]
    if floor_of(home, FLOORS) is None:
        return [*found, f"{home} has no place in the house"]
    tree = ast.parse(source)
    for target in imported(tree, module, is_package=is_package):
        found += import_violations(target, module)
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    if module not in MAY_PRINT and any(isinstance(f, ast.Name) and f.id == "print" for f in calls):
        found.append("prints")
    if len(source.splitlines()) > MAX_LINES:
        found.append(f"has more than {MAX_LINES} lines")
    return found


def import_violations(name: str, module: str) -> list[str]:
    """What is wrong with the import of a name, such as `equiflow.flows.Flow`, in a module."""
    home, _, inside = module.partition(".")
    outer, _, target = name.partition(".")
    if outer != "equiflow":
        allowed = ONLY_IMPORTED_IN.get(outer)
        fits = allowed is None or any(f"{module}.".startswith(f"{place}.") for place in allowed)
        return [] if fits else [f"imports {outer}"]
    room, _, rest = target.partition(".")
    # A public name of the package, or an alias, is imported from the root.
    room = room if floor_of(room, FLOORS) is not None else ""
    here, there = floor_of(home, FLOORS), floor_of(room, FLOORS)
    assert here is not None
    assert there is not None
    if there > here or (there == here and room != home):
        return [f"imports {name} from a higher floor or a neighbour"]
    if room == home and home in INNER_FLOORS and rest and not is_lower(inside, rest, home):
        return [f"imports {name} from a higher floor of {home}"]
    return []


def is_lower(inside: str, target: str, home: str) -> bool:
    """Whether one part of a folder may import from another: its own or a lower one."""
    one, other = inside.partition(".")[0], target.partition(".")[0]
    here, there = (floor_of(part, INNER_FLOORS[home]) for part in (one, other))
    return one == other or here is None or there is None or there < here


@pytest.mark.parametrize("module", sorted(HOUSE.sources), ids=lambda name: name or "equiflow")
def test_module_keeps_to_the_house(module):
    assert violations(HOUSE.sources[module], module, is_package=module in HOUSE.packages) == []


def test_every_part_of_a_folder_with_inner_floors_has_its_place():
    for home, floors in INNER_FLOORS.items():
        parts = {path.stem for path in (PACKAGE / home).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert parts - {"__init__", "__pycache__"} == {name for floor in floors for name in floor if name}


def test_only_six_entries_and_dotfiles_stand_beside_the_package():
    files = subprocess.run(["git", "ls-files"], cwd=PACKAGE.parent, capture_output=True, text=True).stdout
    names = {line.split("/")[0] for line in files.splitlines()}
    expected = {"README.md", "benchmarks", "equiflow", "examples", "pyproject.toml", "tests"}
    assert {name for name in names if not name.startswith(".")} in (expected, set())  # without git: none


def test_only_known_files_stand_in_the_root():
    assert {path.name for path in PACKAGE.glob("*.py")} == ROOT_FILES


def test_no_files_or_folders_import_each_other_in_a_circle():
    assert HOUSE.circles() == []


def test_the_picture_stays_simple():
    assert len(HOUSE.rooms) <= MOST_ROOMS
    assert max(HOUSE.floors.values()) <= MOST_FLOORS
    assert HOUSE.n_arrows <= MOST_ARROWS


def test_an_alias_is_the_module_it_stands_for():
    from equiflow import distributed, observables, presets, solvers
    from equiflow.ode import solver
    from equiflow.runtime import distributed as processes
    from equiflow.theories.scalar import observables as of_fields
    from equiflow.theories.scalar import presets as set_ups

    pairs = [(distributed, processes), (observables, of_fields), (presets, set_ups), (solvers, solver)]
    for alias, module in pairs:
        for name in alias.__all__:
            assert getattr(alias, name) is getattr(module, name, getattr(alias, name))
        assert len(alias.__all__) >= ALIASES[alias.__name__.removeprefix("equiflow.")]


@pytest.mark.parametrize(
    ("source", "module", "violation"),
    [
        ("from equiflow.theories.base.symmetry import SymmetryGroup", "runtime.checks", "higher floor"),
        ("import equiflow.flows", "vector_fields.base", "higher floor"),
        ("from equiflow.training import fit", "flows.cnf", "higher floor"),
        ("from equiflow.samplers import HMC", "training.trainer", "neighbour"),
        ("from equiflow.ode.solver import Solver", "statistics.series", "neighbour"),
        ("from equiflow import flows", "nn.time", "higher floor"),
        ("from equiflow import Lattice", "theories.base.action", "higher floor"),
        ("from equiflow.solvers import Solver", "flows.cnf", "higher floor"),
        ("from ..flows import Flow", "nn.time", "higher floor"),
        ("from .. import testing", "training.trainer", "higher floor"),
        ("def f():\n    from equiflow.report import Report", "samplers.hmc", "higher floor"),
        ("if TYPE_CHECKING:\n    from equiflow.cli import app", "samplers.hmc", "higher floor"),
        ("from equiflow.theories.scalar.phi4 import Phi4", "theories.base.action", "floor of theories"),
        ("from equiflow.theories.angles.xy import XYModel", "theories.particles.prior", "floor of theories"),
        ("from equiflow.theories.kinds import KINDS", "theories.scalar.phi4", "floor of theories"),
        ("from equiflow.cli.run.folder import Run", "cli.config.schema", "floor of cli"),
        ("if True:\n    import torchdiffeq", "flows.cnf", "imports torchdiffeq"),
        ("from torchdiffeq import odeint", "training.trainer", "imports torchdiffeq"),
        ("from escnn import nn", "vector_fields.steerable", "imports escnn"),
        ("import e3nn.o3", "nn.irreps.escnn_kernels", "imports e3nn"),
        ("from zuko.transforms import MonotonicRQSTransform", "flows.coupling", "imports zuko"),
        ("import matplotlib.pyplot as plt", "theories.scalar.observables", "imports matplotlib"),
        ("def f():\n    import h5py", "interop.samples", "imports h5py"),
        ("import arviz", "samplers.kernel", "imports arviz"),
        ("from pydantic import BaseModel", "cli.building", "imports pydantic"),
        ("print('hello')", "training.trainer", "prints"),
        ("x = 1\n" * 361, "flows.cnf", "more than 360 lines"),
        ("", "nn.utils", "is called utils"),
        ("", "lattice", "no place in the house"),
        ("def f(): pass", "presets", "an alias must not"),
    ],
)
def test_each_violation_is_seen(source, module, violation):
    assert any(violation in found for found in violations(source, module))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from equiflow.runtime.precision import full_precision", "ode.integrate"),
        ("from torchdiffeq import odeint", "ode.integrate"),
        (
            "from .orbits import OrbitKernel\nfrom ...theories.base.lattice import Lattice",
            "nn.kernels.convolution",
        ),
        ("from equiflow import Lattice\nprint('hello')", "cli.app"),
        ("from equiflow.theories.base.space import Space", "theories.angles.space"),
        ("from escnn import nn", "nn.irreps.escnn_kernels"),
        ("from e3nn import o3", "nn.irreps.e3nn_kernels"),
        ("def f():\n    import zuko", "nn.couplings.splines"),
        ("from pydantic import BaseModel", "cli.config.section"),
        ("'print(x)'\ntable.print()", "statistics"),
        ("from equiflow.ode.solver import Solver", "solvers"),
    ],
)
def test_what_is_allowed_passes(source, module):
    assert violations(source, module) == []


def test_a_circle_is_seen_wherever_it_hides():
    def house(**sources: str) -> House:
        return House(
            {"": "", **{name.replace("__", "."): text for name, text in sources.items()}}, frozenset()
        )

    straight = house(a="import equiflow.b", b="x = 1")
    assert straight.circles() == []
    mutual = house(a="import equiflow.b", b="if TYPE_CHECKING:\n    from equiflow.a import X")
    assert {"a", "b"} in mutual.circles()
    lazy = house(a="import equiflow.b", b="import equiflow.c", c="def f():\n    from equiflow import a")
    assert {"a", "b", "c"} in lazy.circles()
    # No file imports itself by a detour, but the folders p and q import each other.
    there, back = "from equiflow.q.one import X", "from equiflow.p.two import Y"
    folders = house(p__one=there, q__two=back, p__two="", q__one="")
    assert folders.circles() == [{"p", "q"}]
    assert circles_of({"a": ["b"], "b": ["c"], "c": []}) == []


def test_a_module_is_named_by_its_path():
    assert module_name(PACKAGE / "ode" / "__init__.py", PACKAGE) == "ode"
    assert module_name(PACKAGE / "ode" / "solver.py", PACKAGE) == "ode.solver"


def test_importing_the_package_stays_light():
    check = """
import sys, equiflow, equiflow.interop, equiflow.presets
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


if __name__ == "__main__":
    print(HOUSE)  # noqa: T201
