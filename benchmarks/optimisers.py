"""Which optimiser trains a flow fastest: steps and seconds to a reverse ESS of 0.9.

Four parts: `scan` gives every optimiser its own learning rate at one small lattice, `goal` finds the
shortest complete training that reaches the goal for the best of them and for Adam, `rates` shows where
Adam is stable without tuning, `options` whether clipping or the memory of Adam matters. Seconds are CPU
seconds on a CPU, which neighbours on a shared machine change little, and wall seconds elsewhere.
SOAP and Shampoo come from the package pytorch_optimizer, if it is installed.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

import equiflow
from equiflow import (
    EquivariantCNF,
    Lattice,
    NaturalGradient,
    Phi4,
    Solver,
    SolverError,
    TrainingDivergedError,
    fit,
    importance_sample,
)
from equiflow.report import print_table, write_json
from equiflow.vector_fields import VECTOR_FIELDS

M_PL_4 = {
    4: 8.0,
    6: 6.975,
    8: 6.008,
    10: 5.550,
    12: 5.276,
    14: 5.113,
    16: 4.97,
    20: 4.807,
    32: 4.572,
    64: 4.398,
}
PARTS = ("scan", "goal", "rates", "options")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to measure")
parser.add_argument("--field", default="OrbitConvField", choices=list(VECTOR_FIELDS), help="what is trained")
parser.add_argument("--scan-L", type=int, default=8, choices=list(M_PL_4), help="side of the scan")
parser.add_argument("--L", type=int, nargs="+", default=[8, 16], choices=list(M_PL_4), help="of the goal")
parser.add_argument(
    "--rates-L", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="sides of the table of rates"
)
parser.add_argument("--rates", type=float, nargs="+", default=[5e-3, 1e-2, 2e-2, 4e-2, 8e-2], help="to try")
parser.add_argument("--optimisers", nargs="+", help="names to compare, instead of all")
parser.add_argument("--finalists", type=int, default=2, help="how many go on from the scan, besides Adam")
parser.add_argument("--steps", type=int, default=40, help="optimiser steps per training of the tables")
parser.add_argument("--max-steps", type=int, default=400, help="longest training to try for the goal")
parser.add_argument("--goal", type=float, default=0.9, help="reverse ESS to reach")
parser.add_argument("--batch-size", type=int, default=128, help="samples per optimiser step")
parser.add_argument("--samples", type=int, default=4096, help="fresh samples per ESS")
parser.add_argument("--seeds", type=int, default=1, help="trainings per optimiser at its best rate")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--quick", action="store_true", help="small lattices, one seed: a minute or two")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


Factory = Callable[[EquivariantCNF, list[nn.Parameter], float], Optimizer]


@dataclass(frozen=True)
class Candidate:
    """An optimiser, the learning rates to scan, and the options of `fit` that suit it."""

    name: str
    make: Factory
    rates: tuple[float, ...]
    warmup: int = 30
    clip_norm: float = 10.0


class MuonAndAdam(Optimizer):
    """Muon for the kernels as matrices (time mode x feature, orbit), and Adam for all other weights."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.kernels = [p for p in parameters if p.dim() > 1]
        self.matrices = [nn.Parameter(p.detach().flatten(0, -2)) for p in self.kernels]
        self.muon = torch.optim.Muon(
            self.matrices, lr=lr, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.Adam([p for p in parameters if p.dim() <= 1], lr=lr, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for optimiser in (self.muon, self.adam):
            optimiser.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = kernel.grad.flatten(0, -2)
        self.muon.step()
        self.adam.step()
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            kernel.copy_(matrix.view_as(kernel))


def plain(make: Callable[..., Optimizer], **options: object) -> Factory:
    """Return a factory that takes parameters and learning rate alone."""
    return lambda flow, parameters, rate: make(parameters, lr=rate, **options)


def optional(name: str, **options: object) -> Factory | None:
    """Return such a factory from the package pytorch_optimizer, or None without the package."""
    try:
        return plain(getattr(import_module("pytorch_optimizer"), name), weight_decay=0.0, **options)
    except ImportError:
        return None


ADAM = Candidate("Adam", plain(torch.optim.Adam, betas=(0.9, 0.99)), (1e-2, 2e-2, 4e-2, 8e-2))
NOT_INSTALLED = {"SOAP", "Shampoo"}


def candidates() -> list[Candidate]:
    optim = torch.optim
    known = [
        ADAM,
        Candidate("AdamW", plain(optim.AdamW, betas=(0.9, 0.99), weight_decay=1e-2), ADAM.rates),
        Candidate("NAdam", plain(optim.NAdam, betas=(0.9, 0.99)), ADAM.rates),
        Candidate("RAdam", plain(optim.RAdam, betas=(0.9, 0.99)), ADAM.rates),
        Candidate("RMSprop", plain(optim.RMSprop, alpha=0.99), (5e-3, 1e-2, 2e-2, 4e-2)),
        Candidate("Adafactor", plain(optim.Adafactor, beta2_decay=-0.8), (1e-1, 5e-1, 2.0)),
        Candidate("SGD, momentum", plain(optim.SGD, momentum=0.9), (3e-3, 1e-2, 3e-2)),
        Candidate("natural gradient", NaturalGradient, (0.5, 1.0, 2.0), warmup=5, clip_norm=math.inf),
    ]
    if hasattr(optim, "Muon"):
        known.append(Candidate("Muon + Adam", plain(MuonAndAdam), (5e-2, 1e-1, 2e-1)))
    soap = optional("SOAP", betas=(0.9, 0.99), precondition_frequency=5)
    shampoo = optional("Shampoo", momentum=0.9, preconditioning_compute_steps=5)
    known += [] if soap is None else [Candidate("SOAP", soap, (2e-2, 5e-2, 1e-1))]
    known += [] if shampoo is None else [Candidate("Shampoo", shampoo, (1e-4, 1e-3, 1e-2))]
    return known


@dataclass(frozen=True)
class Trained:
    """The result of a training; `ess` is NaN if it diverged."""

    ess: float
    ess_error: float
    batch_ess: float
    seconds: float
    steps: int

    def __str__(self) -> str:
        return "diverged" if math.isnan(self.ess) else f"{self.ess:.3f}({1e3 * self.ess_error:.0f})"


def ess_cell(ess: float) -> str:
    return "diverged" if math.isnan(ess) else f"{ess:.2f}"


def seconds_now(device: str) -> float:
    return time.process_time() if device == "cpu" else time.perf_counter()


def action_of(side: int) -> Phi4:
    return Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side])


def new_flow(side: int, args: argparse.Namespace) -> EquivariantCNF:
    lattice = Lattice((side, side))
    field = VECTOR_FIELDS[args.field](lattice)
    return EquivariantCNF(lattice, vector_field=field).to(args.device, getattr(torch, args.dtype))


def train(
    candidate: Candidate,
    rate: float,
    flow: EquivariantCNF,
    action: Phi4,
    args: argparse.Namespace,
    *,
    steps: int,
    seed: int = 0,
) -> Trained:
    """Train from warm-up to decay, and return the reverse ESS of fresh samples."""
    start = seconds_now(args.device)
    try:
        history = fit(
            flow,
            action,
            steps=steps,
            batch_size=args.batch_size,
            learning_rate=rate,
            warmup=min(candidate.warmup, steps // 4),
            clip_norm=candidate.clip_norm,
            optimiser=partial(candidate.make, flow),
            seed=seed,
            progress=False,
        )
    except (TrainingDivergedError, torch.linalg.LinAlgError):
        return Trained(math.nan, math.nan, math.nan, seconds_now(args.device) - start, steps)
    seconds = seconds_now(args.device) - start
    flow.solver = Solver("rk5", steps=8)
    generator = torch.Generator(args.device).manual_seed(seed + 1)
    try:
        ensemble = importance_sample(
            flow, action, args.samples, batch_size=512, certify=0, generator=generator
        )
    except (SolverError, ValueError):  # finite weights whose fields are not
        return Trained(math.nan, math.nan, math.nan, seconds, steps)
    ess = ensemble.effective_sample_size()
    last = history.ess[-max(steps // 10, 1) :]
    return Trained(ess.mean, ess.error, statistics.fmean(last), seconds, steps)


def scan(chosen: list[Candidate], args: argparse.Namespace) -> tuple[dict[str, float], list[dict]]:
    """Find the best rate of each optimiser after a fixed number of steps, then run more seeds at it."""
    action, rows = action_of(args.scan_L), []
    for candidate in chosen:
        tried = {
            rate: train(candidate, rate, new_flow(args.scan_L, args), action, args, steps=args.steps)
            for rate in candidate.rates
        }
        best = max(tried, key=lambda rate: -1.0 if math.isnan(tried[rate].ess) else tried[rate].ess)
        again = partial(train, candidate, best, action=action, args=args, steps=args.steps)
        seeds = [tried[best]]
        seeds += [again(flow=new_flow(args.scan_L, args), seed=seed) for seed in range(1, args.seeds)]
        rows.append(
            {
                "optimiser": candidate.name,
                "rate": best,
                "scan": {f"{rate:g}": run.ess for rate, run in tried.items()},
                "ess": [run.ess for run in seeds],
                "step_ms": 1e3 * statistics.median(run.seconds / run.steps for run in seeds),
            }
        )
    adam_ms = next((row["step_ms"] for row in rows if row["optimiser"] == "Adam"), math.nan)
    shown = [
        [
            row["optimiser"],
            "  ".join(f"{rate}: {ess_cell(ess)}" for rate, ess in row["scan"].items()),
            f"{row['rate']:g}",
            " ".join(ess_cell(ess) for ess in row["ess"]),
            f"{row['step_ms'] / adam_ms:.2f}",
        ]
        for row in rows
    ]
    shown += [[name, "not installed", "", "", ""] for name in sorted(missing(chosen, args))]
    header = ["optimiser", "ESS by learning rate", "best", "ESS by seed", "step / Adam's"]
    print_table(f"L = {args.scan_L}, {args.steps} steps: reverse ESS on fresh samples", header, shown)
    return {row["optimiser"]: row["rate"] for row in rows}, rows


def missing(chosen: list[Candidate], args: argparse.Namespace) -> set[str]:
    wanted = NOT_INSTALLED if args.optimisers is None else NOT_INSTALLED & set(args.optimisers)
    return wanted - {candidate.name for candidate in chosen}


def steps_to_goal(
    candidate: Candidate, best: float, side: int, args: argparse.Namespace, *, seed: int
) -> tuple[float, Trained] | None:
    """Find the shortest complete training, on a geometric ladder, whose fresh ESS reaches the goal.

    It takes the best rate of the scan, or half of it, since larger lattices need smaller rates.
    """
    steps = 12
    while steps <= args.max_steps:
        for rate in (best, best / 2):
            flow = new_flow(side, args)
            trained = train(candidate, rate, flow, action_of(side), args, steps=steps, seed=seed)
            if trained.ess >= args.goal:
                return rate, trained
        steps = round(steps * 1.4)
    return None


def goal(finalists: list[tuple[Candidate, float]], args: argparse.Namespace) -> list[dict]:
    rows = []
    for side in args.L:
        for candidate, best in finalists:
            for seed in range(args.seeds):
                row: dict = {"L": side, "optimiser": candidate.name, "seed": seed}
                reached = steps_to_goal(candidate, best, side, args, seed=seed)
                if reached is not None:
                    rate, trained = reached
                    row |= {
                        "rate": rate,
                        "steps": trained.steps,
                        "seconds": trained.seconds,
                        "ess": str(trained),
                    }
                rows.append(row)
    columns = ["L", "optimiser", "seed", "rate", "steps", "seconds", "ess"]
    shown = [[goal_cell(row.get(name)) for name in columns] for row in rows]
    print_table(f"shortest complete training to a reverse ESS of {args.goal:g}", columns, shown)
    return rows


def goal_cell(value: object) -> object:
    if value is None:
        return "not reached"
    return f"{value:.3g}" if isinstance(value, float) else value


def started(side: int, args: argparse.Namespace) -> EquivariantCNF:
    """Return a new flow on a small lattice; from L = 20 on, one trained on the lattice a size below."""
    if side < 20:
        return new_flow(side, args)
    below = EquivariantCNF.pretrained(f"phi4-2d-L{16 if side < 64 else 32}", device=args.device)
    return below.to(getattr(torch, args.dtype)).resized(Lattice((side, side)))


def rates(args: argparse.Namespace) -> list[dict]:
    """Show where Adam is stable: the mean batch ESS over the last tenth of a complete training."""
    rows = []
    for side in args.rates_L:
        small = argparse.Namespace(**vars(args) | {"batch_size": args.batch_size if side < 32 else 32})
        runs = {
            rate: train(ADAM, rate, started(side, args), action_of(side), small, steps=args.steps)
            for rate in args.rates
        }
        found = {f"{rate:g}": ess_cell(run.batch_ess) for rate, run in runs.items()}
        rows.append({"L": side, "batch": small.batch_size, "steps": args.steps, **found})
    title = "Adam: batch ESS at the end by learning rate"
    print_table(title, list(rows[0]), [list(row.values()) for row in rows])
    return rows


def options(args: argparse.Namespace) -> list[dict]:
    """Compare norms for clipping the gradient, and memories of its square in Adam."""
    side = args.L[-1]
    rate = new_flow(side, args).learning_rate
    variants = {
        f"clip_norm={clip:g}": Candidate("Adam", ADAM.make, (rate,), clip_norm=clip)
        for clip in (1.0, math.inf)
    }
    variants["clip_norm=10, beta2=0.99 (default)"] = ADAM
    for beta2 in (0.9, 0.999):
        make = plain(torch.optim.Adam, betas=(0.9, beta2))
        variants[f"beta2={beta2:g}"] = Candidate("Adam", make, (rate,))

    def reached(candidate: Candidate, seed: int) -> str:
        flow, action = new_flow(side, args), action_of(side)
        return str(train(candidate, rate, flow, action, args, steps=2 * args.steps, seed=seed))

    rows = [
        {"variant": name, "ess": ", ".join(reached(candidate, seed) for seed in range(args.seeds))}
        for name, candidate in variants.items()
    ]
    title = f"Adam at {rate:g}, L = {side}, {2 * args.steps} steps, {args.seeds} seed(s)"
    print_table(title, ["variant", "reverse ESS"], [list(row.values()) for row in rows])
    return rows


def quick(args: argparse.Namespace) -> None:
    args.steps, args.seeds, args.samples, args.max_steps = 30, 1, 2048, 150
    args.scan_L, args.L, args.rates_L, args.finalists = 6, [6], [4, 6], 1


def select(known: Iterable[Candidate], args: argparse.Namespace) -> list[Candidate]:
    chosen = [c for c in known if args.optimisers is None or c.name in args.optimisers]
    return chosen or parser.error(f"no such optimiser: {args.optimisers}")


def finalists(
    chosen: list[Candidate], best: dict[str, float], rows: list[dict], args: argparse.Namespace
) -> list[tuple[Candidate, float]]:
    """Return Adam and the best others of the scan; without a scan, all at their middle rates."""
    if not rows:
        return [(c, c.rates[1]) for c in chosen]
    ranked = sorted(rows, key=lambda row: min(-1.0 if math.isnan(e) else e for e in row["ess"]), reverse=True)
    others = [row["optimiser"] for row in ranked if row["optimiser"] != "Adam"][: args.finalists]
    return [(c, best[c.name]) for c in chosen if c.name in ("Adam", *others)]


def main() -> None:
    args = parser.parse_args()
    if args.quick:
        quick(args)
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{name: value for name, value in vars(args).items() if name != "out"},
    }
    print(json.dumps(machine), flush=True)
    chosen, best = select(candidates(), args), {}
    content: dict[str, object] = {"machine": machine}
    if "scan" in args.parts:
        best, content["scan"] = scan(chosen, args)
    if "goal" in args.parts:
        content["goal"] = goal(finalists(chosen, best, content.get("scan", []), args), args)
    if "rates" in args.parts:
        content["rates"] = rates(args)
    if "options" in args.parts:
        content["options"] = options(args)
    if args.out is not None:
        # JSON has no NaN: a diverged training becomes null.
        write_json(json.loads(json.dumps(content, default=str), parse_constant=lambda _: None), args.out)


if __name__ == "__main__":
    main()
