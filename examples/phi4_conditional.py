"""One flow for a range of couplings: the free energy as a curve, and its derivative as a check.

Trains a `ConditionalFlow` on two-dimensional phi^4 for lam in [4, 6]. At each of several couplings it takes
an ordinary flow out of it and measures the ESS, log Z and `<sum_x phi^4>`, which must be `-d log Z / d lam`.
The change of log Z from one coupling to the next is compared with the integral of this derivative.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    Estimate,
    Lattice,
    OverCouplings,
    Phi4,
    fit,
)
from equiflow import importance_sample as sample
from equiflow.report import print_table
from equiflow.report.style import REFERENCE, legend_below, new_figure, save_figure, styled
from equiflow.training import AdaptivePathGradient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=8, help="side of the periodic square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared (S has no factor 1/2)")
parser.add_argument("--lam", type=float, nargs=2, default=[4.0, 6.0], help="range of the quartic coupling")
parser.add_argument("--degree", type=int, default=3, help="degree of the weights as polynomials in lam")
parser.add_argument("--steps", type=int, default=500, help="optimiser steps")
parser.add_argument("--batch-size", type=int, default=16, help="model samples per optimiser step")
parser.add_argument("--focus", type=float, default=1.0, help="power of var log w in the density of couplings")
parser.add_argument("--points", type=int, default=9, help="number of couplings to measure at")
parser.add_argument(
    "--samples", type=int, default=8192, help="fresh model samples at each coupling, drawn twice"
)
parser.add_argument("--accuracy", type=float, default=5e-4, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--seed", type=int, default=0, help="seed of training and samples")
parser.add_argument("--out", type=Path, help="folder for the plot and flow.pt")


def measure(
    flow: EquivariantCNF, action: Phi4, args: argparse.Namespace, generator: torch.Generator
) -> tuple[Estimate, ...]:
    """Measure ESS and log Z on some samples and <sum_x phi^4> on others, so that errors are independent."""
    flow.tune_solver(args.accuracy, action=action, generator=generator)
    one, other = (sample(flow, action, args.samples, batch_size=512, generator=generator) for _ in range(2))
    phi4 = other.mean(lambda phi: action.coupling_grad(phi, "lam"))
    return one.effective_sample_size(), one.log_z(), phi4


@styled
def picture(lam: list[float], rows: list[tuple[Estimate, ...]], title: str) -> Figure:
    figure, panels = new_figure(1, 3, (10, 3.8), title=title)
    labels = ("effective sample size", r"$\log Z$", r"$\langle\sum_x \phi^4\rangle = -d \log Z / d \lambda$")
    for axes, label, column in zip(panels, labels, zip(*rows, strict=True), strict=True):
        axes.errorbar(lam, [e.mean for e in column], [e.error for e in column], fmt="o-", label="one flow")
        axes.set(xlabel=r"$\lambda$", title=label)
    # Between two points, the slope of log Z must equal the expectation value.
    middle = [(a + b) / 2 for a, b in pairwise(lam)]
    steps = zip(pairwise(rows), pairwise(lam), strict=True)
    slopes = [(a[1].mean - b[1].mean) / (y - x) for (a, b), (x, y) in steps]
    panels[2].plot(middle, slopes, "x", color=REFERENCE, label=r"differences of $\log Z$")
    legend_below(figure, panels[2], columns=2)
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lattice, ranges = Lattice((args.L, args.L)), {"lam": tuple(args.lam)}
    family = ActionFamily(Phi4, lattice, m2=args.m2, **ranges)
    conditional = ConditionalFlow(EquivariantCNF(lattice), ranges, degree=args.degree).to(args.device)
    # The solver is as fine as the hardest coupling needs, and hard couplings are drawn more often.
    objective = OverCouplings(AdaptivePathGradient(), focus=args.focus)
    history = fit(
        conditional, family, steps=args.steps, batch_size=args.batch_size, objective=objective, seed=args.seed
    )
    print(f"trained in {history.seconds[-1]:.0f} s")

    lam = torch.linspace(*args.lam, args.points, dtype=torch.float64).tolist()
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    rows = [measure(conditional.at(lam=x), family.at(lam=x), args, generator) for x in lam]
    shown = [[f"{x:.3f}", *map(str, row)] for x, row in zip(lam, rows, strict=True)]
    print_table(f"L = {args.L}, m2 = {args.m2}", ["lam", "reverse ESS", "log Z", "<sum phi^4>"], shown)
    # Simpson's rule over pairs of intervals: the integral of <phi^4> is minus the change of log Z.
    for a, b, c, x, z in zip(rows[::2], rows[1::2], rows[2::2], lam[::2], lam[2::2], strict=False):
        integral = (z - x) / 6 * (a[2].mean + 4 * b[2].mean + c[2].mean)
        error = (z - x) / 6 * math.hypot(a[2].error, 4 * b[2].error, c[2].error)
        change, its_error = a[1].mean - c[1].mean, math.hypot(a[1].error, c[1].error)
        sigma = (integral - change) / math.hypot(error, its_error)
        found = f"{Estimate(integral, error)}, change of log Z {Estimate(change, its_error)}"
        print(f"lam {x:.2f} to {z:.2f}: integral {found}: {sigma:+.1f} sigma")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        conditional.save(args.out / "flow.pt")
        title = f"phi4 on {args.L} x {args.L}, m2 = {args.m2:g}: one flow for all couplings"
        save_figure(picture(lam, rows, title), args.out / "conditional.png")
        print(f"wrote flow.pt and conditional.png to {args.out}")


if __name__ == "__main__":
    main()
