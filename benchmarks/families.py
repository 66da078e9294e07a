"""Families side by side: effective sample size against training time, at default options.

Each family is trained from nothing for each of three budgets (a sixteenth, a quarter and all of
`--seconds`, unless `--parts` says otherwise), each a complete schedule whose number of steps comes from a
measured step time, so that no point is a half-annealed run; a budget shorter than one step is left out.
Then, off the clock: a solver for log Z to `--accuracy`, the reverse ESS on fresh samples, the forward ESS on
an HMC chain, and the speed of sampling with that solver. The clock is processor time on a CPU, wall time
elsewhere. Objectives on target samples are given an HMC chain of their own, whose time is printed and not
counted.

    python benchmarks/families.py --out runs/families
    python benchmarks/families.py --L 8 --families OrbitConvField AugmentedFlow --objective path reverse
    python benchmarks/families.py --model O2 --L 8  # the fields that live where the model does
    python benchmarks/families.py --rows a/families.json b/families.json --out runs/all
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import equiflow
from equiflow import (
    HMC,
    Action,
    Angles,
    AugmentedFlow,
    CoulombGas,
    CouplingFlow,
    EquivariantCNF,
    ExtendedAction,
    Flow,
    FlowMatching,
    ForwardKL,
    InversePathGradient,
    Lattice,
    Mixture,
    Multiplet,
    ONModel,
    Particles,
    PathGradient,
    Phi4,
    ReverseKL,
    SolverError,
    Space,
    SplineMap,
    SymplecticFlow,
    TrainingDivergedError,
    XYModel,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.report import print_table, write_json
from equiflow.report.style import PALETTE, label_ends, new_figure, save_figure, styled
from equiflow.testing import divergence_error
from equiflow.training import Objective
from equiflow.vector_fields import VECTOR_FIELDS, EstimatedField

M_PL_4 = {4: 8.0, 6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.97, 20: 4.807, 32: 4.572}
ESS_TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
FORWARD = {"fmt": "o:", "mfc": "white"}
#: of the picture
MOST_CURVES = 8


def plane(side: int) -> Lattice:
    return Lattice((side, side))


#: the space and action of each model for a side `--L`
MODELS: dict[str, Callable[[int], Action]] = {
    "phi4": lambda L: Phi4(plane(L), m2=-4.0, lam=M_PL_4[L]),
    "phi4-3d": lambda L: Phi4(Lattice((L, L, L)), m2=-4.0, lam=8.0),
    "O2": lambda L: ONModel(Multiplet(plane(L), 2), m2=-4.0, lam=8.0),
    "XY": lambda L: XYModel(Angles(plane(L)), beta=0.5),
    "Coulomb": lambda N: CoulombGas(Particles(N, 2), beta=2.0),
}


def continuous(family: str, space: Space) -> Flow:
    kind: Any = VECTOR_FIELDS[family]
    # Trained with an estimate of the divergence where an exact one is dear; results take the dense trace.
    options = {"trace": "hutchinson"} if issubclass(kind, EstimatedField) else {}
    return EquivariantCNF(space, vector_field=kind(space, **options))


def exact(flow: Flow) -> Flow:
    """Return the flow, with the dense trace if its own is an estimate."""
    estimated = isinstance(flow, EquivariantCNF) and not flow.vector_field.trace_is_exact
    return flow.with_trace("dense") if estimated else flow


#: a flow with default options on a space; one line adds a family. What a factory lacks it says by an
#: ImportError, what does not fit the space by a TypeError or ValueError: all are skipped with a line.
FAMILIES: dict[str, Callable[[Any], Flow]] = {
    **{family: partial(continuous, family) for family in VECTOR_FIELDS},
    "AugmentedFlow": AugmentedFlow,
    "SymplecticFlow": SymplecticFlow,
    "RealNVP": CouplingFlow,
    "RealNVP, odd": partial(CouplingFlow, z2=True),
    "splines": partial(CouplingFlow, site_map=SplineMap(), n_layers=8),
    "splines, odd": partial(CouplingFlow, site_map=SplineMap(), n_layers=8, z2=True),
}
OBJECTIVES = ("path", "reverse", "forward", "matching", "mixture")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="phi4", choices=list(MODELS), help="what to sample")
parser.add_argument("--L", type=int, nargs="+", default=[8, 16], help="sides; of Coulomb, particles")
parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES), help="which")
parser.add_argument("--objective", nargs="+", default=["path"], choices=OBJECTIVES, help="of training")
parser.add_argument("--seconds", type=float, default=60.0, help="largest budget of a training")
parser.add_argument("--parts", type=int, nargs="+", default=[16, 4, 1], help="into how many it is divided")
parser.add_argument("--batch-size", type=int, default=128, help="samples per optimiser step")
parser.add_argument("--samples", type=int, default=8192, help="fresh model samples per ESS")
parser.add_argument("--hmc", type=int, default=4096, help="target samples for the forward ESS")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--seed", type=int, default=0, help="of training, samples and HMC")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--rows", type=Path, nargs="+", help="show those of earlier runs, measure nothing")
parser.add_argument("--out", type=Path, help="folder for families.json and families.png")


def seconds_now(device: str) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if device == "cpu" else time.perf_counter()


def hmc(action: Action, args: argparse.Namespace, seed: int) -> torch.Tensor:
    """Draw nearly independent configurations of the target in float64."""
    initial = None
    if isinstance(action.space, Particles):  # from where no two are close, see examples/coulomb_gas.py
        prior = EquivariantCNF(action.space).to(args.device, torch.float64).prior
        pool = prior.rsample(1024, torch.Generator(args.device).manual_seed(seed)).detach()
        initial = pool[action(pool).argsort()[:64]]
    chain = HMC(action).sample(
        max(1, args.hmc // 64),
        n_chains=64,
        n_thermalisation=500,
        thin=20,
        initial=initial,
        generator=torch.Generator(args.device).manual_seed(seed),
        device=args.device,
    )
    return chain.configurations


def objective_of(name: str, flow: Flow, samples: torch.Tensor) -> Objective:
    """Return the objective called `name` that suits a flow."""
    if isinstance(flow, EquivariantCNF):
        path: Objective = PathGradient(solver=flow.solver)
        forward = ForwardKL(samples, solver=flow.solver)
    else:
        path, forward = InversePathGradient(), ForwardKL(samples)
    known: dict[str, Objective] = {
        "path": path,
        "reverse": ReverseKL(),
        "forward": forward,
        "matching": FlowMatching(samples),  # an exact map has no velocity: raises what says so
        "mixture": Mixture((path, 0.5), (forward, 0.5)),
    }
    return known[name]


def new_flow(family: str, space: Space, args: argparse.Namespace) -> Flow:
    flow = FAMILIES[family](space).to(args.device, getattr(torch, args.dtype))
    if isinstance(flow, EquivariantCNF):
        flow.solver = flow.vector_field.training_solver  # as `fit` by default
    return flow


def train(flow: Flow, target: Action, samples: torch.Tensor, name: str, steps: int, args: Any) -> float:
    """Train by a complete schedule and return the seconds."""
    objective = objective_of(name, flow, samples)
    start = seconds_now(args.device)
    fit(
        flow,
        target,
        steps=steps,
        batch_size=args.batch_size,
        warmup=min(30, steps // 4),
        objective=objective,
        seed=args.seed,
        progress=False,
    )
    return seconds_now(args.device) - start


def step_seconds(
    new: Callable[[], Flow], target: Action, samples: torch.Tensor, name: str, args: Any
) -> float:
    """Return the seconds of a step: the median over short trainings after a first one that warms up."""
    first = train(new(), target, samples, name, 1, args)
    if first > args.seconds / 4:
        return first
    second = train(new(), target, samples, name, 2, args) / 2
    if second > args.seconds / 40:
        return second
    return statistics.median(train(new(), target, samples, name, 6, args) / 6 for _ in range(3))


def quality(flow: Flow, target: Action, reference: torch.Tensor, args: Any) -> dict[str, Any]:
    """Return both ESS and the speed of sampling, with a solver of the accuracy asked for."""
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    batch_size = max(16, min(512, 2**17 // reference[0].numel()))
    found: dict[str, Any] = {"solver": "exact map", "nfe": 0}
    if isinstance(flow, EquivariantCNF):
        choice = flow.tune_solver(args.accuracy, action=target, n_samples=128, generator=generator)
        found = {"solver": str(choice.solver), "nfe": choice.nfe, "log_z_accuracy": choice.error}
    phi = reference.to(args.device, flow.dtype)
    if isinstance(target, ExtendedAction):
        momentum = torch.randn(phi.shape, generator=generator, device=phi.device, dtype=phi.dtype)
        phi = torch.stack([phi, momentum], 1)
    start = seconds_now(args.device)
    ensemble = importance_sample(
        flow, target, args.samples, batch_size=batch_size, certify=0, generator=generator
    )
    rate = args.samples / (seconds_now(args.device) - start)
    reverse = ensemble.effective_sample_size()
    # A block of the jackknife is one of the 64 chains.
    forward = forward_effective_sample_size(
        log_weights(flow, target, phi, batch_size=batch_size), n_blocks=min(64, len(phi))
    )
    return found | {
        "reverse_ess": reverse.mean,
        "reverse_ess_error": reverse.error,
        "forward_ess": forward.mean,
        "forward_ess_error": forward.error,
        "samples_per_second": rate,
    }


def describe(flow: Flow) -> dict[str, Any]:
    """Return the size and symmetry of a family, and the distance of its divergence from the dense trace."""
    about: dict[str, Any] = {
        "parameters": sum(p.numel() for p in flow.parameters() if p.requires_grad),
        "symmetry": str(getattr(flow, "group", "unknown")),
        "divergence_error": None,
    }
    if isinstance(flow, EquivariantCNF):
        phi = flow.sample(1, generator=torch.Generator(flow.device).manual_seed(0))
        about["divergence_error"] = divergence_error(flow.vector_field, phi=phi)
    return about


def compare(family: str, name: str, side: int, chains: tuple[torch.Tensor, torch.Tensor], args: Any) -> list:
    """Return the rows of one family with one objective, one per budget."""
    action = MODELS[args.model](side)
    rows: list[dict[str, Any]] = []
    label = family if len(args.objective) == 1 else f"{family}, {name}"
    new = partial(new_flow, family, action.space, args)
    try:
        extended = tuple(new().prior.event_shape) != action.space.shape
        target = ExtendedAction(action) if extended else action
        step = step_seconds(new, target, chains[0], name, args)
    except (ImportError, TypeError, ValueError) as reason:
        print(f"{label} at L = {side}: skipped, {reason}", flush=True)
        return rows
    for part in args.parts:
        flow, steps = new(), round(args.seconds / part / step)
        if steps < 1:
            print(f"{label}, L = {side}: no step, which takes {step:.3g} s", flush=True)
            continue
        row: dict[str, Any] = {
            "model": args.model,
            "L": side,
            "family": label,
            "objective": name,
            "steps": steps,
        }
        row |= {"budget": args.seconds / part, "step_ms": 1e3 * step}
        try:
            row["seconds"] = train(flow, target, chains[0], name, steps, args)
            flow = exact(flow)
            row |= describe(flow) | quality(flow, target, chains[1], args)
        except (TrainingDivergedError, SolverError, ValueError) as failure:
            row["failure"] = str(failure)
        print(f"{label}, L = {side}, {steps} steps: {cell(row, 'reverse_ess')}", flush=True)
        rows.append(row)
    return rows


def cell(row: dict[str, Any], name: str) -> str:
    """Format an estimate with its error, or the reason why there is none."""
    if name not in row:
        return "failed" if "failure" in row else ""
    error = row.get(f"{name}_error")
    return f"{row[name]:.4f}" + ("" if error is None else f" ± {error:.4f}")


def exactness(row: dict[str, Any]) -> str:
    error = row["divergence_error"]
    return "exact map" if error is None else f"{error:.0e}"


def print_rows(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    for model, side in dict.fromkeys((row["model"], row["L"]) for row in rows):
        here = [row for row in rows if (row["model"], row["L"]) == (model, side)]
        title = f"{MODELS[model](side)!r}: batches of {args.batch_size}, seed {args.seed}"
        header = ("family", "budget / s", "spent / s", "steps", "reverse ESS", "forward ESS")
        shown = [
            (
                row["family"],
                f"{row['budget']:.3g}",
                f"{row['seconds']:.3g}" if "seconds" in row else "",
                row["steps"],
                cell(row, "reverse_ess"),
                cell(row, "forward_ess"),
            )
            for row in here
        ]
        print_table(title, header, shown)
        header = ("family", "parameters", "symmetry", "div - trace", "ms/step", "nfe", "samples/s")
        last = {row["family"]: row for row in here if "samples_per_second" in row}
        shown = [
            (
                row["family"],
                row["parameters"],
                row["symmetry"],
                exactness(row),
                f"{row['step_ms']:.3g}",
                row["nfe"],
                f"{row['samples_per_second']:.3g}",
            )
            for row in last.values()
        ]
        print_table(f"L = {side}: sampling at a solver error of log Z of {args.accuracy:g}", header, shown)


def nines(ess: Any) -> Any:
    """Return `-log10(1 - ESS)`, which is 1 at 0.9 and 2 at 0.99."""
    return -np.log10(1 - np.minimum(ess, 1 - 1e-9))


@styled
def draw(rows: list[dict[str, Any]], clock: str) -> Figure:
    """Draw ESS against training time for the best families of each model and size; hollow marks: forward."""
    sizes = list(dict.fromkeys((row["model"], row["L"]) for row in rows))
    known = [row for row in rows if "reverse_ess" in row]
    best = {row["family"]: 0.0 for row in known}
    for row in known:
        best[row["family"]] = max(best[row["family"]], row["reverse_ess"])
    labels = sorted(best, key=best.__getitem__, reverse=True)
    shown = {label: PALETTE[n] for n, label in enumerate(labels[:MOST_CURVES])}
    title = "phi4 at m_p L = 4" if sizes[0][0] == "phi4" else sizes[0][0]
    figure, panels = new_figure(1, len(sizes), (5.6 * len(sizes), 4.6), title=title, squeeze=False)
    for panel, (model, side) in zip(panels[0], sizes, strict=True):
        of_panel = [row for row in known if (row["model"], row["L"]) == (model, side)]
        ends = []
        for label, colour in shown.items():
            found = [row for row in of_panel if row["family"] == label]
            if not found:
                continue
            seconds = [row["seconds"] for row in found]
            for kind, style in (("reverse", {"fmt": "o-"}), ("forward", FORWARD)):
                values, errors = ([row[f"{kind}_ess{end}"] for row in found] for end in ("", "_error"))
                panel.errorbar(seconds, values, errors, color=colour, **style)
            ends.append((seconds[-1], min(found[-1]["reverse_ess"], ESS_TICKS[-1]), label, colour))
        panel.set(xscale="log", xlabel=f"{clock} of training / s", title=f"L = {side}")
        # Stretched towards 1, where good flows differ.
        panel.set_yscale("function", functions=(nines, lambda n: 1 - 10.0 ** (-n)))
        panel.set(ylim=(0, ESS_TICKS[-1]), yticks=ESS_TICKS)
        budgets = sorted({row["budget"] for row in of_panel})
        panel.set_xticks(budgets, [f"{budget:.3g}" for budget in budgets])
        panel.minorticks_off()
        label_ends(panel, ends)
    panels[0, 0].set_ylabel("ESS (filled: reverse, hollow: forward)")
    if rest := labels[MOST_CURVES:]:
        worst = max(best[label] for label in rest)
        figure.supxlabel(f"not drawn, with an ESS of {worst:.2g} or less: {'; '.join(rest)}", fontsize=8)
    return figure


def finite(value: Any) -> Any:
    """Return the value, or None if it is not finite, since JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all families and write each row to `--out` when it is done."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "clock": clock(args),
        **{name: value for name, value in vars(args).items() if name not in ("out", "rows")},
    }
    print(json.dumps(machine), flush=True)
    rows: list[dict[str, Any]] = []
    for side in args.L:
        action = MODELS[args.model](side)
        start = seconds_now(args.device)
        chains = hmc(action, args, args.seed + 2), hmc(action, args, args.seed + 3)
        print(f"L = {side}: {seconds_now(args.device) - start:.1f} s for two HMC chains", flush=True)
        for family in args.families:
            for name in args.objective:
                rows += compare(family, name, side, chains, args)
                if args.out is not None:
                    args.out.mkdir(parents=True, exist_ok=True)
                    clean = [{key: finite(value) for key, value in row.items()} for row in rows]
                    write_json({"machine": machine, "rows": clean}, args.out / "families.json")
    return rows


def earlier_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """Read the rows of earlier runs; a later row of the same family replaces an earlier one."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in paths:
        rows = json.loads(path.read_text())["rows"]
        for key in dict.fromkeys((row["model"], row["L"], row["family"]) for row in rows):
            found[key] = [row for row in rows if (row["model"], row["L"], row["family"]) == key]
    return [row for rows in found.values() for row in rows]


def clock(args: argparse.Namespace) -> str:
    return "processor time" if args.device == "cpu" else "wall time"


def main() -> None:
    args = parser.parse_args()
    if args.model == "phi4" and (unknown := set(args.L) - set(M_PL_4)):
        parser.error(f"m_p L = 4 is known at L = {', '.join(map(str, M_PL_4))}, not at {sorted(unknown)}")
    torch.set_num_threads(args.threads)
    rows = measure(args) if args.rows is None else earlier_rows(args.rows)
    print_rows(rows, args)
    if args.out is not None and rows:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.rows is not None:
            runs = [json.loads(path.read_text())["machine"] for path in args.rows]
            write_json({"machine": runs, "rows": rows}, args.out / "families.json")
        save_figure(draw(rows, clock(args)), args.out / "families.png")


if __name__ == "__main__":
    main()
