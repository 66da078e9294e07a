"""What does an independent topological charge cost where HMC freezes? U(1) in two dimensions against beta.

Autocorrelation times of the charge Q, and processor time per independent Q (2 tau_int times that of an
update), for HMC, for HMC with exact shifts between sectors, and for independence Metropolis with a flow,
which is trained at each beta from nothing by least squares for the continuity equation.

Chains of HMC start from sectors drawn by their exact probabilities. Where the charge hardly moves, no series
shows its tau_int; then it is estimated from the jumps. With `rho(1) = 1 - <(dQ)^2> / (2 <Q^2>)` per update,
`tau_int = 2 <Q^2> / <(dQ)^2> - 1/2`, with the exact `<Q^2>`. Without a jump there is a lower bound (95 %).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    HMC,
    Alternate,
    Chain,
    EquivariantCNF,
    IndependenceMetropolis,
    Lattice,
    Links,
    Solver,
    WilsonAction,
    fit_by_continuity,
    importance_sample,
)
from equiflow.oracles import ExactGauge, gauge_torus
from equiflow.report import print_table, write_json
from equiflow.report.style import (
    FLOW,
    MUTED,
    REFERENCE,
    legend_below,
    new_figure,
    readable_log,
    save_figure,
    styled,
)
from equiflow.samplers import Kernel
from equiflow.samplers.acceptance import Outcome, metropolis
from equiflow.theories.gauge.observables import plaquette, topological_charge, topological_susceptibility
from equiflow.theories.gauge.sectors import uniform_flux

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
#: methods whose charge makes steps of one
LOCAL = ("HMC", "HMC + sector shifts")
#: the others
GLOBAL = ("flow Metropolis",)
STYLES = {
    "HMC": (REFERENCE, "o"),
    "HMC + sector shifts": (MUTED, "D"),
    "flow Metropolis": (FLOW, "s"),
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--L", type=int, default=8, help="side of the lattice")
parser.add_argument("--beta", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
parser.add_argument("--chains", type=int, default=64, help="of HMC")
parser.add_argument("--trajectories", type=int, default=2000, help="of each chain of HMC")
parser.add_argument("--sweeps", type=int, default=2, help="of least squares, at each beta")
parser.add_argument("--sweep-samples", type=int, default=1024)
parser.add_argument("--samples", type=int, default=2048, help="proposals of the flow")
parser.add_argument("--solver-steps", type=int, default=12, help="of rk5, for sampling")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=RESULTS / "topological_freezing.json")
parser.add_argument("--plot", type=Path, default=RESULTS / "topological_freezing.png")
parser.add_argument(
    "--methods",
    nargs="+",
    default=["hmc", "flow"],
    choices=["hmc", "flow"],
    help="others are kept from --out",
)
parser.add_argument("--redraw", action="store_true", help="draw --plot and print tables from --out")


class SectorShift(Kernel):
    """Adds or takes away a uniform flux of charge one, and accepts or rejects; for two dimensions alone."""

    def __init__(self, action: WilsonAction) -> None:
        self.action = action

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`."""
        sign = 2 * torch.randint(2, (len(phi),), generator=generator) - 1
        proposal = self.action.space.nearest(phi + uniform_flux(self.action.space, sign).to(phi))
        return metropolis(self.action(phi) - self.action(proposal), proposal, phi, generator)


def starts(action: WilsonAction, exact: ExactGauge, n: int, generator: torch.Generator) -> Tensor:
    """Return fields near those of uniform flux, whose charges have the exact probabilities."""
    charge = exact.draw_charges(n, generator)
    noise = torch.randn((n, *action.space.shape), generator=generator, dtype=torch.float64)
    return uniform_flux(action.space, charge) + 0.3 / math.sqrt(action.beta) * noise


def of_jumps(series: Tensor, exact: ExactGauge) -> tuple[float, float, bool]:
    """Return tau_int of the charge from its jumps, its error, and whether it is a lower bound only."""
    square = exact.topological_susceptibility * exact.volume
    jumps = (series[1:] - series[:-1]).square()
    n = jumps.numel()
    if not float(jumps.sum()):
        return 2 * square * n / 3.0 - 0.5, 0.0, True  # three jumps are expected where 5 % of runs have none
    tau = 2 * square / float(jumps.mean()) - 0.5
    n_jumps = float((jumps > 0).sum())
    return tau, (tau + 0.5) / math.sqrt(n_jumps), False


def row(method: str, action: WilsonAction, chain: Chain, seconds: float, exact: ExactGauge) -> Row:
    """Return what is known about the charge along a chain, whose update of one field takes so long."""
    charge = topological_charge(action.space)
    series = chain.series(charge)
    found = chain.tau_int(charge)
    tau, error, bound = of_jumps(series, exact)
    # A series shows its own tau_int where it has many of them; proposals of a flow jump to any sector.
    shown = method not in LOCAL or (not found.note and found.mean < len(series) / 50)
    if shown:
        tau, error, bound = found.mean, found.error, False
    chi = chain.mean(topological_susceptibility(action.space))
    plaq = chain.mean(plaquette(action.space))
    return {
        "beta": action.beta,
        "method": method,
        "tau_int": tau,
        "tau_int_error": error,
        "lower_bound": bound,
        "from_jumps": not shown,
        "note": found.note,
        "tau_int_of_jumps": of_jumps(series, exact)[0],
        "jumps": int((series[1:] != series[:-1]).sum()),
        "updates": len(series) * series.shape[1],
        "acceptance": chain.acceptance_rate.mean,
        "ms_per_update": 1e3 * seconds,
        "ms_per_independent_charge": 2e3 * max(tau, 0.5) * seconds,
        "chi_q": chi.mean,
        "chi_q_error": chi.error,
        "chi_q_sigmas": chi.sigmas_from(exact.topological_susceptibility),
        "plaquette_sigmas": plaq.sigmas_from(exact.plaquette),
    }


def hmc_rows(action: WilsonAction, exact: ExactGauge, args: argparse.Namespace) -> list[Row]:
    """Run HMC, with and without shifts between sectors."""
    rows, hmc = [], HMC(action, trajectory_length=1.0)
    for method, kernel in (("HMC", hmc), ("HMC + sector shifts", Alternate(hmc, SectorShift(action)))):
        generator = torch.Generator().manual_seed(1000 * args.seed + round(100 * action.beta))
        options = {"n_chains": args.chains, "generator": generator}
        initial = starts(action, exact, args.chains, generator)
        tuned = kernel.sample(1, n_thermalisation=200, initial=initial, **options)
        begin = time.process_time()
        chain = tuned.kernel.sample(args.trajectories, start=tuned, **options)
        seconds = (time.process_time() - begin) / (args.trajectories * args.chains)
        rows.append(row(method, action, chain, seconds, exact))
    return rows


def flow_row(action: WilsonAction, exact: ExactGauge, args: argparse.Namespace) -> Row:
    """Train a flow and run independence Metropolis with its samples."""
    begin, flow = time.process_time(), EquivariantCNF(action.space)
    options = {"sweeps": args.sweeps, "n_samples": args.sweep_samples, "n_times": 16, "seed": args.seed}
    fit_by_continuity(flow, action, **options)
    trained = time.process_time() - begin
    generator = torch.Generator().manual_seed(args.seed + 1)
    flow.solver = Solver("rk5", steps=args.solver_steps)
    begin = time.process_time()
    ensemble = importance_sample(flow, action, args.samples, batch_size=512, certify=0, generator=generator)
    seconds = (time.process_time() - begin) / args.samples
    chain = IndependenceMetropolis.from_ensemble(ensemble, n_chains=8, generator=generator)
    ess, chi = ensemble.effective_sample_size(), topological_susceptibility(action.space)
    log_z, certificate = ensemble.log_z(), flow.certificate(64, action=action, generator=generator)
    return row("flow Metropolis", action, chain, seconds, exact) | {
        "train_seconds": trained,
        "reverse_ess": ess.mean,
        "reverse_ess_error": ess.error,
        "raw_chi_q": float(chi(ensemble.phi).mean()),
        "log_z_sigmas": log_z.sigmas_from(exact.log_z),
        "log_z_shift": certificate.log_z_shift,
        "nfe": certificate.nfe,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every beta, from the smallest on; write what there is after each."""
    links = Links(Lattice((args.L, args.L)), "U(1)")
    kept = set(STYLES)
    kept -= {*(LOCAL if "hmc" in args.methods else ()), *(GLOBAL if "flow" in args.methods else ())}
    before = json.loads(args.out.read_text())["rows"] if kept and args.out.exists() else []
    rows = [one for one in before if one["method"] in kept]
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "plot", "redraw")}
    results = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "settings": settings,
        "chi_q_exact": {},
        "rows": rows,
    }
    for beta in sorted(args.beta):
        action = WilsonAction(links, beta=beta)
        exact = gauge_torus(action)
        results["chi_q_exact"][f"{beta:g}"] = exact.topological_susceptibility
        new = hmc_rows(action, exact, args) if "hmc" in args.methods else []
        new += [flow_row(action, exact, args)] if "flow" in args.methods else []
        rows += [{name: finite(value) for name, value in one.items()} for one in new]
        rows.sort(key=lambda one: (one["beta"], list(STYLES).index(one["method"])))
        write_json(results, args.out)
        costs = (f"{one['method']} {one['ms_per_independent_charge']:.3g} ms" for one in new)
        print(f"beta {beta:g}", *costs, flush=True)
    return results


def finite(value: object) -> object:
    """Return a value for JSON, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@styled
def picture(results: dict[str, Any]) -> Figure:
    """Draw tau_int and cost against beta; lower bounds have arrows."""
    side = results["settings"]["L"]
    title = f"topological charge of U(1) on {side} x {side}"
    figure, (left, right) = new_figure(1, 2, (10, 4.6), title=title)
    for method, (colour, marker) in STYLES.items():
        mine = [one for one in results["rows"] if one["method"] == method]
        beta = [one["beta"] for one in mine]
        tau = [max(one["tau_int"], 0.5) for one in mine]
        error = [min(one["tau_int_error"], 0.7 * t) for one, t in zip(mine, tau, strict=True)]
        cost = [one["ms_per_independent_charge"] for one in mine]
        bounds = [one["lower_bound"] for one in mine]
        style = {"color": colour, "marker": marker, "ms": 5, "capsize": 2, "lolims": bounds, "label": method}
        arrows = [e or 0.3 * t * b for e, t, b in zip(error, tau, bounds, strict=True)]
        left.errorbar(beta, tau, arrows, **style)
        right.errorbar(beta, cost, [c * a / t for c, a, t in zip(cost, arrows, tau, strict=True)], **style)
    left.set(xlabel="beta", ylabel=r"$\tau_{int}$ of Q, in updates", title="autocorrelation")
    right.set(xlabel="beta", ylabel="ms of one core per independent Q", title="cost, without training")
    for axes in (left, right):
        readable_log(axes)
    legend_below(figure, left, columns=3)
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.redraw else run(args)
    save_figure(picture(results), args.plot)
    names = ("beta", "method", "tau_int", "ms_per_update", "ms_per_independent_charge", "chi_q_sigmas")
    rows = [
        [
            f"{one['beta']:g}",
            one["method"],
            f"{'> ' if one['lower_bound'] else ''}{one['tau_int']:.3g} ± {one['tau_int_error']:.1g}",
            *("" if one[name] is None else f"{one[name]:.3g}" for name in names[3:]),
            f"{one['reverse_ess']:.3f}" if "reverse_ess" in one else "",
        ]
        for one in results["rows"]
    ]
    print_table("topological freezing", [*(name.replace("_", " ") for name in names), "ESS"], rows)


if __name__ == "__main__":
    main()
