"""What an effective independent sample costs: a trained flow against tuned HMC on the same lattices.

Cost is counted in evaluations (HMC: gradients of the action; flow: velocities with their divergence) and in
seconds of the same run, threads and precision, as medians over batches. On one thread of a CPU these are
seconds of the processor, from which other work on the machine takes nothing; elsewhere of the clock.

- HMC: trajectories x chains / (2 tau_int) effective samples, tau_int by the Gamma method (0.5 if independent)
  of the slowest of |M|, M^2, phi^2 and S / V. Burn-in and tuning are left out. The mean length of a
  trajectory, then the acceptance, are those of a scan with the fewest gradients per effective sample; a fresh
  run at the best of them is reported. The signed M, which must tunnel, is shown apart: a random phi -> -phi
  would cure it at no cost. This is leapfrog with unit mass: better integrators, Fourier acceleration and
  clusters are not tried.
- flow: N x reverse ESS effective samples by importance weights, N / (2 tau_int) by independence Metropolis.
  The solver is the cheapest whose error of log Z is at most `--accuracy`, in the run's precision. The forward
  ESS, on samples of this HMC, guards against a mode that the flow has dropped.
- break-even: from how many effective samples on the flow with its training and the tuning of its solver
  takes fewer seconds than HMC with its burn-in. Nobody is charged for finding good settings.

Both work on as many configurations at once as suits them best: of `--chains`, those with the least seconds
per configuration. On CPUs that matters by factors, since temporaries that outgrow the cache cost up to 10x.
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import equiflow
from equiflow import HMC, EquivariantCNF, IndependenceMetropolis, Lattice, Phi4, fit_ladder, importance_sample
from equiflow import observables as obs
from equiflow.report import print_table, write_json
from equiflow.report.plots import FLOW, MUTED, REFERENCE, save_figure
from equiflow.samplers import LEAPFROG, Chain, Ensemble, log_weights
from equiflow.statistics import Estimate, forward_effective_sample_size, integrated_autocorrelation_time
from equiflow.theories.base.action import Action

M_PL_4 = {8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.97, 20: 4.807, 32: 4.572, 64: 4.398}
RUNGS = (8, 16, 32, 64)
SEGMENT = 20  # trajectories per timing
LONG_ENOUGH = 10  # tau_int in a run, below which the Gamma method's window is cut short and tau_int too small
TUNED_FIRST = 0.8  # acceptance while lengths are scanned
Row = dict[str, Any]


def assignment(text: str) -> tuple[int, str]:
    side, equals, value = text.partition("=")
    if not (equals and side.isdigit()):
        raise argparse.ArgumentTypeError(f"expected L=value, such as 16=flow.pt, got {text!r}")
    return int(side), value


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[8, 16, 32], choices=list(M_PL_4), help="sides")
parser.add_argument("--flow", type=assignment, action="append", default=[], help="L=file of a trained flow")
parser.add_argument("--train", action="store_true", help="train here, on a ladder, instead of loading")
parser.add_argument("--steps", type=int, default=600, help="optimiser steps on each rung of --train")
parser.add_argument("--batch-size", type=int, default=128, help="samples per step of --train")
parser.add_argument(
    "--training-seconds", type=assignment, action="append", default=[], help="L=seconds the flow took"
)
parser.add_argument(
    "--chains", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024], help="candidates, see above"
)
parser.add_argument("--trajectories", type=int, default=1000, help="per chain, after burn-in")
parser.add_argument(
    "--scan-trajectories", type=int, default=200, help="the same for each setting of the scan"
)
parser.add_argument("--thermalisation", type=int, default=200, help="trajectories of burn-in")
parser.add_argument(
    "--lengths",
    type=float,
    nargs="+",
    default=[1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8],
    help="mean lengths of a trajectory to scan, in units of L",
)
parser.add_argument(
    "--acceptances", type=float, nargs="+", default=[0.65, 0.9], help=f"to scan beside {TUNED_FIRST}"
)
parser.add_argument("--samples", type=int, default=8192, help="fresh samples of the flow")
parser.add_argument("--accuracy", type=float, default=1e-3, help="solver error of log Z")
parser.add_argument("--wanted", type=int, default=100_000, help="effective samples that share fixed costs")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision of both")
parser.add_argument("--seed", type=int, default=0, help="of everything random")
parser.add_argument("--out", type=Path, help="JSON file for the figures")
parser.add_argument("--plot", type=Path, help="PNG file for the picture")


class Counted(Action):
    """An action that counts its gradients, whatever the number of configurations in each."""

    def __init__(self, action: Action) -> None:
        super().__init__(action.lattice)
        self.action = action
        self.gradients = 0

    def forward(self, phi: Tensor) -> Tensor:
        return self.action(phi)

    def grad(self, phi: Tensor) -> Tensor:
        self.gradients += 1
        return self.action.grad(phi)


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    start = clock()
    result = function(*args, **options)
    return result, clock() - start


def fastest(function: Callable[[int], object], counts: list[int]) -> int:
    """Return the batch size with the least seconds per configuration."""
    seconds: dict[int, float] = {}
    for count in sorted(counts):
        function(count)
        seconds[count] = min(timed(function, count)[1] for _ in range(25)) / count
        if seconds[count] > 1.5 * min(seconds.values()):
            break  # Larger ones would be slower still, and may not fit.
    return min(seconds, key=seconds.__getitem__)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(factor * estimate.mean, factor * estimate.error)


def even_observables(action: Action) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the observables that decide the effective sample size; all are even in phi."""
    return {
        "|M|": obs.abs_magnetisation,
        "M^2": obs.susceptibility,
        "phi^2": obs.phi_squared,
        "S/V": lambda phi: action(phi) / action.lattice.volume,
    }


def slowest(tau: dict[str, Estimate]) -> Estimate:
    return max((tau[name] for name in tau if name != "M"), key=lambda estimate: estimate.mean)


@dataclass(frozen=True)
class HMCRun:
    """The result of one run of HMC at fixed settings.

    Attributes:
        length: mean length of a trajectory.
        step_size: of the leapfrog.
        acceptance: of the trajectories.
        trajectories: of each chain.
        tau: of every observable, in trajectories.
        gradients: evaluations per trajectory of one chain.
        seconds: per gradient and chain, all other work of HMC included.
        last: the last segment of the chains.
    """

    length: float
    step_size: float
    acceptance: float
    trajectories: int
    tau: dict[str, Estimate]
    gradients: float
    seconds: float
    last: Chain

    @property
    def evaluations(self) -> Estimate:
        """Return the gradients per effective sample."""
        return scaled(slowest(self.tau), 2 * self.gradients)

    @property
    def long_enough(self) -> bool:
        return self.trajectories >= LONG_ENOUGH * slowest(self.tau).mean


def run_hmc(
    action: Phi4, start: Chain, length: float, trajectories: int, generator: torch.Generator
) -> HMCRun:
    counted = Counted(action)
    sampler = HMC(counted, step_size=start.step_size, trajectory_length=length)
    functions = even_observables(action) | {"M": obs.magnetisation}
    series: dict[str, list[Tensor]] = {name: [] for name in functions}
    seconds, acceptance, last = [], [], start
    for _ in range(-(-trajectories // SEGMENT)):
        phi, before = last.samples[-1], counted.gradients
        last, elapsed = timed(
            sampler.sample, SEGMENT, n_chains=len(phi), n_thermalisation=0, initial=phi, generator=generator
        )
        seconds.append(elapsed / (counted.gradients - before) / len(phi))
        acceptance.append(float(last.acceptance.mean()))
        for name, function in functions.items():
            series[name].append(last.series(function))
    return HMCRun(
        length=length,
        step_size=start.step_size,
        acceptance=statistics.mean(acceptance),
        trajectories=SEGMENT * len(seconds),
        tau={name: integrated_autocorrelation_time(torch.cat(parts)) for name, parts in series.items()},
        gradients=counted.gradients / (SEGMENT * len(seconds)),
        seconds=statistics.median(seconds),
        last=last,
    )


def tuned_hmc(action: Phi4, n_chains: int, args: argparse.Namespace) -> tuple[HMCRun, float, list[Row]]:
    """Return HMC at its best settings, the seconds of its burn-in, and the scan that found them."""
    generator = torch.Generator(args.device).manual_seed(args.seed)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype), "generator": generator}
    side, scan = action.lattice.shape[0], []

    def thermalised(length: float, acceptance: float, n: int, phi: Tensor | None = None) -> Chain:
        sampler = HMC(action, trajectory_length=length, target_acceptance=acceptance)
        return sampler.sample(1, n_chains=n_chains, n_thermalisation=n, initial=phi, **place)

    warm, burn_in = timed(thermalised, side / 4, TUNED_FIRST, args.thermalisation)

    def tried(length: float, acceptance: float) -> tuple[float, float, float]:
        start = thermalised(length, acceptance, max(60, args.thermalisation // 4), warm.samples[-1])
        run = run_hmc(action, start, length, args.scan_trajectories, generator)
        result = run.evaluations if run.long_enough else Estimate(math.inf, math.inf)
        scan.append({"length": length, "acceptance": run.acceptance, "evaluations": result})
        return result.mean, length, acceptance

    lengths = []
    for fraction in sorted(args.lengths):
        lengths.append(tried(fraction * side, TUNED_FIRST))
        if lengths[-1][0] > 1.3 * min(lengths)[0]:
            break  # Longer ones cost more still.
    cost, length, _ = best = min(lengths)
    if math.isinf(cost):
        raise SystemExit(f"L={side}: every tau_int is too long for the scan; raise --scan-trajectories.")
    _, _, acceptance = min(best, *(tried(length, acceptance) for acceptance in args.acceptances))
    start = thermalised(length, acceptance, args.thermalisation, warm.samples[-1])
    run = run_hmc(action, start, length, args.trajectories, generator)
    if not run.long_enough:
        print(f"L={side}: tau_int is not to be trusted, raise --trajectories", flush=True)
    return run, burn_in, scan


def hmc_row(run: HMCRun, burn_in: float) -> Row:
    return {
        "HMC: chains": run.last.samples.shape[1],
        "trajectory length": run.length,
        "step size": run.step_size,
        "acceptance": run.acceptance,
        "gradients per trajectory": run.gradients,
        "trajectories": run.trajectories,
        **{f"tau_int of {name}": tau for name, tau in run.tau.items()},
        "HMC us per gradient": 1e6 * run.seconds,
        "HMC burn-in s": burn_in,
        "HMC evaluations / n_eff": run.evaluations,
        "HMC ms / n_eff": scaled(run.evaluations, 1e3 * run.seconds),
    }


def drawn(flow: EquivariantCNF, action: Phi4, batch: int, args: argparse.Namespace) -> tuple[Ensemble, float]:
    """Draw weighted samples with their certificate, and return them with the seconds of one sample."""
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    parts, seconds = [], []
    for _ in range(-(-args.samples // batch)):
        part, elapsed = timed(importance_sample, flow, action, batch, certify=0, generator=generator)
        parts.append(part)
        seconds.append(elapsed / batch)
    columns = (torch.cat([getattr(p, name) for p in parts]) for name in ("phi", "log_q", "log_weight"))
    certificate = flow.certificate(256, action=action, generator=generator)
    return Ensemble(*columns, certificate), statistics.median(seconds)


def fields(flow: EquivariantCNF, batch: int) -> Tensor:
    """Return noise of about the size of the target's fields, for timing."""
    return 0.4 * torch.randn(batch, *flow.lattice.shape, dtype=flow.dtype, device=flow.device)


def flow_row(flow: EquivariantCNF, action: Phi4, args: argparse.Namespace) -> Row:
    generator = torch.Generator(args.device).manual_seed(args.seed + 2)
    _, tuning = timed(flow.tune_solver, args.accuracy, action=action, generator=generator)

    @torch.no_grad()
    def velocity(batch: int) -> None:
        flow.vector_field.velocity_and_divergence(fields(flow, batch), 0.5)

    batch = fastest(velocity, args.chains)
    ensemble, seconds = drawn(flow, action, batch, args)
    print(f"L={action.lattice.shape[0]}  {ensemble.certificate}", flush=True)
    chain, accepting = timed(IndependenceMetropolis.from_ensemble, ensemble, n_chains=8, generator=generator)
    tau = slowest({name: chain.tau_int(f) for name, f in even_observables(action).items()})
    ess, nfe = ensemble.effective_sample_size(), ensemble.certificate.nfe
    per_effective = Estimate(1 / ess.mean, ess.error / ess.mean**2)
    return {
        "flow: batch": batch,
        "solver": ensemble.certificate.solver,
        "error of log Z": ensemble.certificate.log_z_shift,
        "evaluations per sample": nfe,
        "reverse ESS": Estimate(ess.mean, ess.error),
        "Metropolis acceptance": float(chain.acceptance.mean()),
        "Metropolis tau_int": tau,
        "flow us per velocity": 1e6 * seconds / nfe,
        "solver tuning s": tuning,
        "flow evaluations / n_eff": scaled(per_effective, nfe),
        "flow ms / n_eff": scaled(per_effective, 1e3 * seconds),
        "Metropolis evaluations / n_eff": scaled(tau, 2 * nfe),
        "Metropolis ms / n_eff": scaled(tau, 2e3 * (seconds + accepting / len(ensemble.phi))),
    }


def comparison(row: Row, training: float | None, wanted: int) -> Row:
    """Return the ratios of the costs, and the samples after which training has paid for itself."""
    hmc, flow = row["HMC ms / n_eff"].mean, row["flow ms / n_eff"].mean
    ratios = {
        "HMC / flow, evaluations": row["HMC evaluations / n_eff"].mean / row["flow evaluations / n_eff"].mean,
        "HMC / flow, seconds": hmc / flow,
        "training s": training,
    }
    if training is None:
        return ratios
    extra = training + row["solver tuning s"] - row["HMC burn-in s"]
    return ratios | {
        f"flow s for {wanted} with training": training + row["solver tuning s"] + 1e-3 * flow * wanted,
        f"HMC s for {wanted} with burn-in": row["HMC burn-in s"] + 1e-3 * hmc * wanted,
        "break-even, effective samples": max(0.0, 1e3 * extra / (hmc - flow)) if flow < hmc else math.inf,
    }


def trained(args: argparse.Namespace) -> dict[int, tuple[EquivariantCNF, float]]:
    """Train a ladder; return its flows, each with the seconds from the first step to the end of its rung."""
    sides = sorted({*args.L, *(side for side in RUNGS if side < max(args.L))})
    actions = [Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side]) for side in sides]
    start = EquivariantCNF(actions[0].lattice).to(args.device, getattr(torch, args.dtype))
    rungs = fit_ladder(actions, flow=start, steps=args.steps, batch_size=args.batch_size, seed=args.seed)
    seconds = itertools.accumulate(rung.history.seconds[-1] for rung in rungs)
    return {side: (rung.flow, s) for side, rung, s in zip(sides, rungs, seconds, strict=True)}


def loaded(args: argparse.Namespace) -> dict[int, tuple[EquivariantCNF, float | None]]:
    """Load the flows of `--flow` or of the package, with their training times or `--training-seconds`."""
    paths, seconds = dict(args.flow), {side: float(value) for side, value in args.training_seconds}
    flows = {
        side: EquivariantCNF.load(paths[side])
        if side in paths
        else EquivariantCNF.pretrained(f"phi4-2d-L{side}")
        for side in args.L
    }
    return {
        side: (
            flow.to(args.device, getattr(torch, args.dtype)),
            seconds.get(side, flow.about.get("ladder_seconds")),
        )
        for side, flow in flows.items()
    }


def measure_side(side: int, flow: EquivariantCNF, training: float | None, args: argparse.Namespace) -> Row:
    action = Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side])
    of_flow = flow_row(flow, action, args)
    n_chains = fastest(lambda n: LEAPFROG(action, fields(flow, n), fields(flow, n), 0.05, 20), args.chains)
    run, burn_in, scan = tuned_hmc(action, n_chains, args)
    header = ("mean length", "acceptance", "gradients per effective sample")
    shown = [(f"{s['length']:g}", f"{s['acceptance']:.2f}", scan_cell(s["evaluations"])) for s in scan]
    print_table(f"HMC at L={side}, {n_chains} chains, {args.scan_trajectories} trajectories", header, shown)
    target = run.last.configurations[: args.samples]
    forward = forward_effective_sample_size(
        log_weights(flow, action, target, batch_size=of_flow["flow: batch"])
    )
    row = {"lam": M_PL_4[side], **hmc_row(run, burn_in), **of_flow, "forward ESS": forward}
    return {"L": side, **row, **comparison(row, training, args.wanted), "scan": scan}


def picture(rows: list[Row], wanted: int) -> Figure:
    """Draw evaluations and milliseconds per effective sample against L."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    sides = [row["L"] for row in rows]
    for panel, unit in zip(figure.subplots(1, 2), ("evaluations", "ms"), strict=True):
        for name, label, style in (
            ("HMC", "HMC, tuned", {"color": REFERENCE, "marker": "o"}),
            ("flow", "flow, reweighted", {"color": FLOW, "marker": "s"}),
            ("Metropolis", "flow, Metropolis", {"color": FLOW, "marker": "^", "ls": ":", "mfc": "white"}),
        ):
            costs = [row[f"{name} {unit} / n_eff"] for row in rows]
            panel.errorbar(
                sides, [c.mean for c in costs], [c.error for c in costs], label=label, capsize=2, **style
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(sides, [str(side) for side in sides], minor=False)
        panel.set(yscale="log", xlabel="side L", ylabel=f"{unit} per effective sample")
        panel.margins(x=0.1)
        panel.grid(color=MUTED, alpha=0.25, which="both", lw=0.5)
    whole = f"flow s for {wanted} with training"
    known = [(row["L"], 1e3 * row[whole] / wanted) for row in rows if whole in row]
    if known:
        label = f"flow, training shared by {wanted} effective samples"
        panel.plot(*zip(*known, strict=True), color=MUTED, marker="s", ls="--", label=label)
    handles = dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def plain(value: Any) -> Any:
    """Return the content as plain JSON values: estimates as value and error, null for what is not finite."""
    if isinstance(value, Estimate):
        return {"mean": plain(value.mean), "error": plain(value.error)}
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scan_cell(cost: Estimate) -> str:
    return str(cost) if math.isfinite(cost.mean) else f"run shorter than {LONG_ENOUGH} tau_int"


def cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return "never" if math.isinf(value) else f"{value:.4g}"
    return str(value)


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "accelerator": torch.cuda.get_device_name(args.device) if "cuda" in args.device else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{k: v for k, v in vars(args).items() if k not in ("L", "flow", "threads", "out", "plot")},
    }
    flows, rows = trained(args) if args.train else loaded(args), []
    for side in args.L:
        rows.append(measure_side(side, *flows[side], args))
        if args.out is not None:
            write_json({"machine": machine, "rows": plain(rows)}, args.out)
        if args.plot is not None:
            save_figure(picture(rows, args.wanted), args.plot)
    print(json.dumps(machine))
    names = [name for name in dict.fromkeys(itertools.chain(*rows)) if name not in ("L", "scan")]
    shown = [[name, *(cell(row.get(name)) for row in rows)] for name in names]
    print_table(
        "cost of n_eff effective samples at m_p L = 4", ["quantity", *(f"L={r['L']}" for r in rows)], shown
    )


if __name__ == "__main__":
    main()
