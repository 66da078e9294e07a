"""One flow for all couplings in a range: ESS everywhere, and log Z as a curve with errors.

Trains one `ConditionalFlow` in lam at m2 = -4 on a small lattice, resizes it and goes on, with couplings
drawn where log w varies most (`OverCouplings(AdaptivePathGradient(), focus=1.0)`); `--focus 0` draws them
evenly.
The range to train on goes further into the broken phase than the couplings that are measured: the flow is
worst at the ends of its range.
Every coupling then has fresh samples of its own: reverse ESS, log Z, `<sum_x phi^4> = -d log Z / d lam`. The
change of log Z from one coupling to the next is compared with the integral of this derivative by the
trapezoid rule with the correction of its slope, `-d <phi^4> / d lam = var(phi^4)`. At some couplings HMC by
turns with Wolff clusters gives the forward ESS.

    python benchmarks/conditional_range.py --out benchmarks/results/conditional_range.json
"""

import argparse
import json
import math
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _ranges import times_set_back, trained_on
from matplotlib.figure import Figure

import equiflow
from equiflow import (
    HMC,
    Alternate,
    ConditionalFlow,
    Lattice,
    Phi4,
    Solver,
    Wolff,
    importance_sample,
)
from equiflow.analysis import diagnose
from equiflow.report import print_table, write_json
from equiflow.report.plots import FLOW, MUTED, REFERENCE, save_figure

M2 = -4.0

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[16, 32], help="sides of the ladder")
parser.add_argument("--steps", type=int, nargs="+", default=[1200, 5000], help="per side")
parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 16], help="per side")
parser.add_argument("--couplings", type=int, default=4, help="per step")
parser.add_argument(
    "--learning-rate", type=float, nargs="+", help="per side; by default the flow's, then half"
)
parser.add_argument("--lam", type=float, nargs=2, default=[4.0, 6.0], help="range to measure in")
parser.add_argument("--trained-on", type=float, nargs=2, default=[3.9, 6.0], help="range to train on")
parser.add_argument("--kernels", default="orbits", choices=["smooth", "orbits"], help="of PotentialField")
parser.add_argument("--degree", type=int, default=3, help="of the weights as polynomials in lam")
parser.add_argument("--focus", type=float, nargs="+", default=[1.0, 1.0], help="power of var log w, per side")
parser.add_argument("--points", type=int, default=11, help="couplings to measure at, evenly spaced")
parser.add_argument("--also", type=float, nargs="*", default=[4.24], help="further couplings to measure at")
parser.add_argument("--samples", type=int, default=2048, help="fresh samples at each coupling")
parser.add_argument(
    "--forward",
    type=float,
    nargs="*",
    default=[4.0, 4.2, 4.24, 4.6, 5.0, 6.0],
    help="of these couplings, with a forward ESS",
)
parser.add_argument("--chain", type=int, default=1024, help="target samples there, of 64 chains")
parser.add_argument("--solver-steps", type=int, default=8, help="of rk5, for sampling")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--flows", type=Path, help="folder for the flow of each side, used again if it is there")
parser.add_argument("--out", type=Path, help="JSON file; the picture goes beside it")


def trained(args: argparse.Namespace) -> tuple[ConditionalFlow, list[dict[str, Any]]]:
    """Train on each side in turn; return the last flow and what each training took."""
    torch.manual_seed(args.seed)
    flow: ConditionalFlow | None = None
    rungs = []
    rates = args.learning_rate or [None] * len(args.L)
    settings = zip(args.L, args.steps, args.batch_size, args.focus, rates, strict=True)
    for rung, (side, steps, batch_size, focus, rate) in enumerate(settings):
        lattice = Lattice((side, side))
        path = None if args.flows is None else args.flows / f"conditional-{rung}-{side}-{focus:g}.pt"
        if path is not None and path.exists():
            flow = ConditionalFlow.load(path)
            rungs.append(flow.about)
            continue
        flow, history, seconds = trained_on(
            lattice,
            flow,
            tuple(args.trained_on),
            m2=M2,
            kernels=args.kernels,
            degree=args.degree,
            n_couplings=args.couplings,
            focus=focus,
            learning_rate=rate,
            steps=steps,
            batch_size=batch_size,
            seed=args.seed,
        )
        flow.about = {
            "L": side,
            "steps": steps,
            "batch_size": batch_size,
            "seconds": seconds,
            "training_nfe": [min(history.nfe), max(history.nfe)],
            "set_back": times_set_back(history),
            "parameters": sum(p.numel() for p in flow.parameters()),
        }
        rungs.append(flow.about)
        print(json.dumps(flow.about), flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            flow.save(path)
    assert flow is not None
    return flow, rungs


def measure(
    conditional: ConditionalFlow, lam: float, forward: bool, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure at one coupling."""
    action, flow = Phi4(conditional.template.lattice, m2=M2, lam=lam), conditional.at(lam=lam)
    generator = torch.Generator().manual_seed(args.seed + round(1e4 * lam))
    flow.solver = Solver("rk5", steps=args.solver_steps)
    size = max(16, 2**17 // action.lattice.volume)
    ensemble = importance_sample(flow, action, args.samples, batch_size=size, certify=32, generator=generator)

    def quartic(phi: torch.Tensor) -> torch.Tensor:
        return action.coupling_grad(phi, "lam")

    mean = ensemble.mean(quartic)
    estimates = {
        "ess": ensemble.effective_sample_size(),
        "log_z": ensemble.log_z(),
        "phi4": mean,
        "variance": ensemble.mean(lambda phi: (quartic(phi) - mean.mean).square()),
    }
    if forward:
        kernel = Alternate(HMC(action, trajectory_length=1.0), Wolff(action), Wolff(action))
        chain = kernel.sample(
            args.chain // 64, n_chains=64, n_thermalisation=300, thin=20, generator=generator
        )
        found = diagnose(flow, action, ensemble, chain, explain=False)
        estimates |= {"forward_ess": found.forward_ess, "log_z_forward": found.log_z_forward}
    row: dict[str, Any] = {"lam": lam, "nfe": ensemble.certificate.nfe}
    row["log_z_shift"] = ensemble.certificate.log_z_shift
    for name, estimate in estimates.items():
        row |= {name: estimate.mean, f"{name}_error": estimate.error}
    return row


def compared(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Compare changes of log Z with integrals of its derivative from the same couplings."""
    found = []
    for a, b in pairwise(rows):
        h = b["lam"] - a["lam"]
        change = b["log_z"] - a["log_z"]
        # Euler-Maclaurin: f = -<phi^4>, f' = var(phi^4).
        integral = -h / 2 * (a["phi4"] + b["phi4"]) - h * h / 12 * (b["variance"] - a["variance"])
        error = math.hypot(
            a["log_z_error"], b["log_z_error"], h / 2 * a["phi4_error"], h / 2 * b["phi4_error"]
        )
        found.append(
            {"from": a["lam"], "to": b["lam"], "change": change, "integral": integral, "error": error}
        )
    return found


def picture(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    rows, side = results["rows"], results["rungs"][-1]["L"]
    lam = [row["lam"] for row in rows]
    left, middle, right = figure.subplots(1, 3)
    left.errorbar(lam, [r["ess"] for r in rows], [r["ess_error"] for r in rows], fmt="o-", ms=4, color=FLOW,
                  label="reverse")  # fmt: skip
    both = [row for row in rows if "forward_ess" in row]
    forward, error = ([row[name] for row in both] for name in ("forward_ess", "forward_ess_error"))
    left.errorbar(
        [row["lam"] for row in both], forward, error, fmt="s", ms=4, color=REFERENCE, label="forward"
    )
    left.axhline(0.9, color=MUTED, ls="--", lw=0.8)
    left.set(xlabel=r"$\lambda$", ylabel="effective sample size", title=f"one flow, L = {side}, m2 = -4")
    left.legend(frameon=False)
    middle.errorbar(
        lam, [r["log_z"] for r in rows], [r["log_z_error"] for r in rows], fmt="o-", ms=3, color=FLOW
    )
    middle.set(xlabel=r"$\lambda$", ylabel=r"$\log Z$", title=r"$\log Z(\lambda)$; errors below the symbols")
    steps = results["integrals"]
    right.errorbar([(s["from"] + s["to"]) / 2 for s in steps], [s["change"] - s["integral"] for s in steps],
                   [s["error"] for s in steps], fmt="o", ms=4, capsize=2, color=FLOW)  # fmt: skip
    right.axhline(0, color=MUTED, lw=0.8)
    right.set(xlabel=r"$\lambda$", ylabel=r"$\Delta \log Z + \int \langle\sum\phi^4\rangle d\lambda$",
              title="change of log Z less its integral")  # fmt: skip
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    flow, rungs = trained(args)
    lams = {round(lam, 6) for lam in torch.linspace(*args.lam, args.points, dtype=torch.float64).tolist()}
    rows = []
    for lam in sorted({*lams, *args.also}):
        rows.append(measure(flow, lam, lam in args.forward, args))
        print(json.dumps(rows[-1]), flush=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "dtype": "float32",
        "clock": "processor time",
        **{name: value for name, value in vars(args).items() if name not in ("out", "flows")},
    }
    results = {"machine": machine, "rungs": rungs, "rows": rows, "integrals": compared(rows)}
    shown = [
        [f"{r['lam']:.2f}", *(f"{r[n]:.4f} ± {r[n + '_error']:.4f}" for n in ("ess", "log_z", "phi4")),
         f"{r['forward_ess']:.4f} ± {r['forward_ess_error']:.4f}" if "forward_ess" in r else "", r["nfe"]]
        for r in rows
    ]  # fmt: skip
    header = ["lam", "reverse ESS", "log Z", "<sum phi^4>", "forward ESS", "nfe"]
    print_table(f"one flow for lam in {args.lam}, m2 = {M2:g}", header, shown)
    pulls = [(s["change"] - s["integral"]) / s["error"] for s in results["integrals"]]
    print("change of log Z less its integral, in errors:", " ".join(f"{pull:+.1f}" for pull in pulls))
    if args.out is not None:
        write_json(results, args.out)
        save_figure(picture(results), args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
