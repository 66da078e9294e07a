"""Draw the pictures of `benchmarks/results` again from the figures that lie beside them; nothing is measured.

python benchmarks/redraw.py            # all
python benchmarks/redraw.py families   # some
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from equiflow import Estimate, Lattice
from equiflow.report.plots import ladder_curve, save_figure
from equiflow.training import History

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def script(name: str) -> ModuleType:
    """Return a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def found(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def critical_slowing_down() -> Any:
    module = script("critical_slowing_down")
    with (RESULTS / "critical_slowing_down.csv").open(newline="") as stream:
        return module.picture([row | {"L": int(row["L"])} for row in csv.DictReader(stream)])


def families() -> Any:
    return script("families").draw(found("families")["rows"], "processor time")


def headline() -> Any:
    module = script("headline")
    return module.picture(found("cost")["sides"], module.parser.parse_args([]).seed)


def ladder() -> Any:
    figures = found("ladder")
    rungs = [
        SimpleNamespace(
            flow=SimpleNamespace(lattice=Lattice((row["L"],) * 2)),
            history=History(**curve),
        )
        for row, curve in zip(figures["rows"], figures["curves"].values(), strict=True)
    ]
    return ladder_curve(rungs, title="phi4 at m_p L = 4, smooth kernels")


def memory() -> Any:
    results, module = found("memory"), script("memory")
    lines = results["lines"]
    if isinstance(lines, dict):  # of the measurement that did not yet tell live blocks from freed ones
        for row in results["rows"]:
            for method in module.METHODS:
                row[method] |= {"live_mb": row[method].pop("peak_mb"), "resident_mb": math.nan}
        lines = [line | {"memory": "live_mb", "method": method} for method, line in lines.items()]
    fits = {
        (line["memory"], line["method"]): (Estimate(line["mb_per_step"], line["error"]),) for line in lines
    }
    return module.draw(results["rows"], fits, SimpleNamespace(**results["machine"]))


def scaling() -> Any:
    module, results = script("scaling"), found("scaling")
    rows = {}
    for row in results["rows"]:
        times = {quantity: module.Timing(**row.pop(quantity)) for quantity in module.QUANTITIES}
        rows[module.Point(**row | {"shape": tuple(row["shape"])})] = times
    fits = {
        curve: {q: Estimate(one["power"], one["error"]) for q, one in of_curve.items()}
        for curve, of_curve in results["powers"].items()
    }
    return module.draw(rows, fits)


def topological_freezing() -> Any:
    return script("topological_freezing").picture(found("topological_freezing"))


PICTURES = (critical_slowing_down, families, headline, ladder, memory, scaling, topological_freezing)


def main() -> None:
    about: dict[str, Any] = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**about)
    names = {draw.__name__: draw for draw in PICTURES}
    parser.add_argument("names", nargs="*", help=f"of pictures: {', '.join(names)}; all unless given")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the pictures")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or names:
        save_figure(names[name](), args.out / f"{name}.png")
        print(f"drew {name}.png")


if __name__ == "__main__":
    main()
