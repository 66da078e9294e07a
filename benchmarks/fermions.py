"""How far is the free energy of six trapped electrons from published ones, over a range of temperatures?

Runs `examples/fermions_in_a_trap.py` for each inverse temperature, and draws free energy and energy beside
those of FermiFlow (arXiv:2105.08644) and the energies of path integral Monte Carlo, all for Z = 0.5.

Rows of a file that is there are kept unless they are measured anew; `--beta` without numbers only draws.

    python benchmarks/fermions.py --beta 2 3 --out benchmarks/results/fermions_six.json
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from equiflow.report import print_table, write_json
from equiflow.report.plots import save_figure

EXAMPLE = Path(__file__).parents[1] / "examples" / "fermions_in_a_trap.py"
#: of FermiFlow, from the data of its authors: github.com/buwantaiji/FermiFlow at 3480ed4,
#: datas/BetaFermionHO2D/sumup_Z_0.5_nup_6_ndown_0_deltaE_4.0_boltzmann_[...]_batch_8000.txt;
#: beta: (F, standard deviation, E, standard deviation) of 8000 samples
FERMIFLOW = {
    2.0: (17.42805, 0.21538, 19.42779, 1.03102),
    2.5: (17.77276, 0.19505, 19.00355, 0.85641),
    3.0: (17.95320, 0.19605, 18.71452, 0.69273),
    4.0: (18.09645, 0.17882, 18.40346, 0.48391),
    5.0: (18.14227, 0.19611, 18.26446, 0.36117),
    6.0: (18.15758, 0.19628, 18.20022, 0.26886),
}
#: energies of permutation-blocking path integrals (J. Chem. Phys. 153, 234104): jcp_data/PBPIMC.txt there
PATH_INTEGRALS = {2.0: (19.47575, 0.00093), 2.5: (18.99591, 0.00116), 3.0: (18.71448, 0.00139)}
#: samples behind each figure of FermiFlow
PUBLISHED_SAMPLES = 8000

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--beta", type=float, nargs="*", default=list(FERMIFLOW), help="inverse temperatures (those published)"
)
parser.add_argument("--steps", type=int, default=300, help="optimiser steps (300)")
parser.add_argument("--samples", type=int, default=10_000, help="fresh samples of each state (10000)")
parser.add_argument("--seed", type=int, default=0, help="seed of training and samples (0)")
parser.add_argument("--out", type=Path, help="JSON file; the picture goes beside it")


def measured(beta: float, args: argparse.Namespace) -> dict:
    """Return the results of the example at one inverse temperature."""
    numbers = {
        "n": 6,
        "dim": 2,
        "beta": beta,
        "Z": 0.5,
        **{k: getattr(args, k) for k in ("steps", "samples", "seed")},
    }
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(EXAMPLE), *options, "--out", folder], check=True)
        return json.loads((Path(folder) / "results.json").read_text())


def with_error(value: float, error: float) -> str:
    return f"{value:.4f} ± {error:.4f}"


def shown(one: dict) -> list[str]:
    """Return the row of one inverse temperature."""
    row = [f"{one['beta']:g}", with_error(one["free_energy"], one["free_energy_error"])]
    published = FERMIFLOW.get(one["beta"])
    scale = PUBLISHED_SAMPLES**-0.5
    row.append("" if published is None else with_error(published[0], published[1] * scale))
    row.append(with_error(one["energy"], one["energy_error"]))
    row.append("" if published is None else with_error(published[2], published[3] * scale))
    exact = PATH_INTEGRALS.get(one["beta"])
    row.append("" if exact is None else with_error(*exact))
    return [
        *row,
        f"{one['entropy']:.3f}",
        str(one["determinants"]),
        f"{one['processor_seconds_of_training']:.0f}",
    ]


def picture(found: list[dict]) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    beta = [one["beta"] for one in found]
    scale = PUBLISHED_SAMPLES**-0.5
    for panel, name, column in ((left, "free_energy", 0), (right, "energy", 2)):
        ours = [one[name] for one in found], [one[f"{name}_error"] for one in found]
        panel.errorbar(beta, *ours, fmt="o-", ms=4, capsize=3, label="equiflow")
        published = (
            [row[column] for row in FERMIFLOW.values()],
            [row[column + 1] * scale for row in FERMIFLOW.values()],
        )
        panel.errorbar(list(FERMIFLOW), *published, fmt="s", mfc="none", capsize=3, label="FermiFlow")
        panel.set(xlabel=r"inverse temperature $\beta$ [1 / $\hbar\omega$]")
        panel.grid(alpha=0.3)
    left.set(ylabel=r"free energy F [$\hbar\omega$], an upper bound")
    right.errorbar(
        list(PATH_INTEGRALS),
        *zip(*PATH_INTEGRALS.values(), strict=True),
        fmt="x",
        capsize=3,
        label="path integrals",
    )
    right.set(ylabel=r"energy E [$\hbar\omega$]")
    for panel in (left, right):
        panel.legend(frameon=False)
    return figure


def main() -> None:
    args = parser.parse_args()
    rows = {beta: measured(beta, args) for beta in args.beta}
    if args.out is not None and args.out.exists():
        rows = {one["beta"]: one for one in json.loads(args.out.read_text())["rows"]} | rows
    found = [rows[beta] for beta in sorted(rows)]
    header = ["beta", "F", "FermiFlow", "E", "FermiFlow", "path integrals", "entropy", "determinants", "s"]
    print_table("six electrons, Z = 0.5", header, [shown(one) for one in found])
    if args.out is not None:
        machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
        write_json({**machine, "rows": found}, args.out)
        save_figure(picture(found), args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
