"""How does the cost of an independent sample grow with the lattice, and which sampler stops it?

Integrated autocorrelation times of |M| and of chi2 = V M^2, and evaluations per independent sample
(2 tau_int times the evaluations of an update), against L: on the line m_p L = 4, where the correlation length
grows with L, and at the critical coupling. Evaluations are gradients of the action for HMC and clusters (a
cluster update counts as one), velocities of the flow for the others (a gradient through a solve counts as
three solves); on a CPU a velocity costs about ten gradients.

Flows start from the packaged one nearest in size, at the critical coupling from that of the size before.
They are trained for `--steps` steps at each size; `seconds` in the CSV is the time this took.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from equiflow import (
    HMC,
    Alternate,
    Chain,
    EquivariantCNF,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    PathGradient,
    Phi4,
    Solver,
    SwendsenWang,
    fit,
)
from equiflow import observables as obs
from equiflow.report import print_table
from equiflow.report.style import (
    FLOW,
    MUTED,
    PALETTE,
    REFERENCE,
    legend_below,
    new_figure,
    readable_log,
    save_figure,
    styled,
)
from equiflow.samplers import LEAPFROG, Integrator

M2, CRITICAL = -4.0, 4.24
M_PL_4 = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.970, 20: 4.807}
OBSERVABLES = {"|M|": obs.abs_magnetisation, "chi2": obs.susceptibility}
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--L", type=int, nargs="+", default=sorted(M_PL_4), choices=sorted(M_PL_4))
parser.add_argument(
    "--series", nargs="+", default=["m_p L = 4", "critical"], choices=["m_p L = 4", "critical"]
)
parser.add_argument("--steps", type=int, default=100, help="of training, per lattice")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--chains", type=int, default=64)
parser.add_argument("--trajectories", type=int, default=500, help="of HMC, with and without clusters")
parser.add_argument("--latent", type=int, default=100, help="trajectories in the latent space")
parser.add_argument("--proposals", type=int, default=200, help="steps of independence Metropolis")
parser.add_argument("--solver-steps", type=int, default=5, help="of rk5, for sampling")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=RESULTS / "critical_slowing_down.csv")
parser.add_argument(
    "--redraw", action="store_true", help="draw --plot and print tables from --out, run nothing"
)
parser.add_argument("--plot", type=Path, default=RESULTS / "critical_slowing_down.png")


@dataclass(frozen=True)
class Counted(Integrator):
    """Leapfrog that counts its gradients."""

    gradients: list[int] = field(default_factory=list)

    def __call__(self, action: Any, phi: Any, momentum: Any, step_size: float, n_steps: int) -> Any:
        self.gradients.append(n_steps * len(self.drifts) + 1)
        return super().__call__(action, phi, momentum, step_size, n_steps)


def counted() -> Counted:
    return Counted(LEAPFROG.name, LEAPFROG.kicks, LEAPFROG.drifts)


def trained(start: EquivariantCNF, action: Phi4, args: argparse.Namespace) -> tuple[EquivariantCNF, float]:
    """Train a flow for one lattice; return it with the seconds of its training."""
    same = start.lattice == action.lattice
    flow, begin = (start if same else start.resized(action.lattice)), time.perf_counter()
    fit(
        flow,
        action,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=flow.learning_rate / 2,
        # At the critical coupling training runs away unless the penalty slows the trajectories down.
        objective=PathGradient(kinetic_penalty=1e-2, solver=Solver("rk5", steps=5)),
        seed=args.seed,
        progress=False,
    )
    flow.solver = Solver("rk5", steps=args.solver_steps)
    return flow, time.perf_counter() - begin


def chains(
    flow: EquivariantCNF, action: Phi4, args: argparse.Namespace
) -> dict[str, tuple[Chain, float, str]]:
    """Return the chain of each method, its evaluations per update, and the name of an evaluation."""
    side, found = action.lattice.shape[0], {}
    common = {"n_chains": args.chains, "generator": torch.Generator().manual_seed(args.seed)}

    def mean(integrator: Counted, n: int) -> float:
        return sum(integrator.gradients[-n:]) / n

    # The length grows with the correlation length: a fixed one would slow down with z = 2.
    count = counted()
    chain = HMC(action, trajectory_length=side / 4, integrator=count).sample(args.trajectories, **common)
    found["HMC"] = chain, mean(count, args.trajectories), "gradients"
    count = counted()
    kernel = Alternate(HMC(action, trajectory_length=1.0, integrator=count), SwendsenWang(action))
    chain = kernel.sample(args.trajectories, **common)
    found["cluster + HMC"] = chain, mean(count, args.trajectories) + 1, "gradients"
    nfe = 6 * args.solver_steps
    chain = IndependenceMetropolis(flow, action).sample(args.proposals, batch_size=1024, **common)
    found["flow Metropolis"] = chain, nfe, "velocities"
    count = counted()
    chain = LatentHMC(flow, action, integrator=count).sample(args.latent, n_thermalisation=30, **common)
    # Two energies and the maps to the noise and back are solves, too.
    found["latent HMC"] = chain, nfe * (3 * mean(count, args.latent) + 4), "velocities"
    return found


def rows_of(
    series: str, action: Phi4, flow: EquivariantCNF, seconds: float, args: argparse.Namespace
) -> list[Row]:
    rows = []
    for method, (chain, evaluations, unit) in chains(flow, action, args).items():
        # The sequence of Metropolis starts with a plain proposal.
        kept = Chain(chain.samples[len(chain.samples) // 10 :], chain.acceptance)
        row: Row = {"series": series, "L": action.lattice.shape[0], "lam": action.lam, "method": method}
        row |= {"acceptance": f"{chain.acceptance.mean():.3f}", "updates": len(kept.samples)}
        row |= {"evaluations": f"{evaluations:.1f}", "unit": unit, "seconds": f"{seconds:.0f}"}
        for name, observable in OBSERVABLES.items():
            tau = kept.tau_int(observable)
            row |= {f"tau {name}": f"{tau.mean:.4g}", f"error {name}": f"{tau.error:.2g}"}
            row[f"cost {name}"] = f"{2 * tau.mean * evaluations:.4g}"
            row[f"mean {name}"] = str(kept.mean(observable))
        rows.append(row)
    return rows


def exponent(rows: list[Row], name: str) -> str:
    """Return the least-squares slope of log cost against log L, with the scatter of the points."""
    if len(rows) < 3:
        return ""
    x, y = (torch.tensor([math.log(float(row[k])) for row in rows]) for k in ("L", f"cost {name}"))
    x = x - x.mean()
    slope = (x @ y) / (x @ x)
    rest = y - y.mean() - slope * x
    return f"{slope:.2f} ± {(rest.square().sum() / (len(rows) - 2) / (x @ x)).sqrt():.2f}"


@styled
def picture(rows: list[Row]) -> Figure:
    names = list(dict.fromkeys(row["series"] for row in rows))
    styles = {
        "HMC": (REFERENCE, "o"),
        "cluster + HMC": (MUTED, "D"),
        "flow Metropolis": (FLOW, "s"),
        "latent HMC": (PALETTE[2], "^"),
    }
    title = "phi4 at m2 = -4: cost of an independent sample, |M| (solid) and chi2 (dotted)"
    figure, panels = new_figure(1, len(names), (10, 5), title=title, squeeze=False, sharey=True)
    for panel, series in zip(panels[0], names, strict=True):
        for method, (colour, marker) in styles.items():
            mine = [row for row in rows if row["series"] == series and row["method"] == method]
            for name, line in zip(OBSERVABLES, ("-", ":"), strict=True):
                cost = [float(row[f"cost {name}"]) for row in mine]
                relative = [float(row[f"error {name}"]) / float(row[f"tau {name}"]) for row in mine]
                error = [c * r for c, r in zip(cost, relative, strict=True)]
                panel.errorbar(
                    [row["L"] for row in mine],
                    cost,
                    error,
                    color=colour,
                    marker=marker,
                    ls=line,
                    ms=5,
                    capsize=2,
                    label=f"{method} ({mine[0]['unit']})" if mine and name == "|M|" else None,
                )
        title = f"{series}, lam from L to L" if series != "critical" else f"lam = {CRITICAL}"
        panel.set(xscale="log", xlabel="side L", title=title)
        sides = sorted({row["L"] for row in rows})
        panel.set_xticks(sides, [str(side) for side in sides])
        panel.minorticks_off()
    for panel in panels[0]:
        readable_log(panel)
    figure.axes[0].set_ylabel(r"evaluations per independent sample")
    legend_below(figure, figure.axes[-1], columns=4)
    return figure


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="") as stream:
        return [row | {"L": int(row["L"])} for row in csv.DictReader(stream)]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_csv(args.out) if args.redraw else run(args)
    save_figure(picture(rows), args.plot)
    header = ["series", "L", "method", "acceptance", "tau |M|", "tau chi2", "cost |M|", "cost chi2", "unit"]
    print_table("critical slowing down", header, [[str(row[name]) for name in header] for row in rows])
    for series in dict.fromkeys(row["series"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            mine = [row for row in rows if row["series"] == series and row["method"] == method]
            print(f"{series}, {method}: cost of |M| grows like L^({exponent(mine, '|M|')})")


def run(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for series in args.series:
        last: EquivariantCNF | None = None
        for side in sorted(args.L):
            lam = M_PL_4[side] if series == "m_p L = 4" else CRITICAL
            action = Phi4(Lattice((side, side)), m2=M2, lam=lam)
            if last is None or series == "m_p L = 4":
                last = EquivariantCNF.pretrained("phi4-2d-L8" if side <= 10 else "phi4-2d-L16")
            last, seconds = trained(last, action, args)
            rows += rows_of(series, action, last, seconds, args)
            write_csv(rows, args.out)
            print(series, side, *(row["cost |M|"] for row in rows[-4:]), flush=True)
    return rows


if __name__ == "__main__":
    main()
