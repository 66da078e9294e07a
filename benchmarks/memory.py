"""Peak memory of a training step against the solver's steps: backpropagation, adjoint, checkpoints.

Each peak is that of one gradient in a process of its own: how far its resident set rises above where it stood
just before, once as it is and once with every freed block given back at once (glibc only), which leaves what
is alive. On cuda both are what torch has allocated. Times are medians of ratios to backpropagation, all
computed in turn in one process; with one CPU thread they are processor time, else wall-clock time. Errors
are relative L2 distances from the gradient by backpropagation with as many steps.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import equiflow
from equiflow import EquivariantCNF, Estimate, Lattice, OrbitConvField, PathGradient, Phi4, ReverseKL, Solver
from equiflow.report import print_table, write_json
from equiflow.report.style import FLOW, MUTED, REFERENCE, new_figure, readable_log, save_figure, styled

Lines = dict[tuple[str, str], tuple[Estimate, Estimate]]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"backprop": {}, "adjoint": {"adjoint": True}, "checkpoint": {"checkpoint": True}}
OBJECTIVES = {"path": PathGradient, "reverse-kl": ReverseKL}
STYLE = {
    "backprop": {"color": MUTED, "fmt": "s-"},
    "adjoint": {"color": REFERENCE, "fmt": "^-"},
    "checkpoint": {"color": FLOW, "fmt": "o-"},
}
PEAKS = {"resident_mb": {}, "live_mb": {"MALLOC_MMAP_THRESHOLD_": "65536"}}
MB = 1e6

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=32, help="side of the square lattice")
parser.add_argument("--batch-size", type=int, default=64, help="samples per gradient")
parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], help="rk5 steps")
parser.add_argument("--objective", default="path", choices=list(OBJECTIVES), help="whose gradient")
parser.add_argument("--weights", type=float, default=0.2, help="scale of the random kernels")
parser.add_argument("--repeats", type=int, default=3, help="rounds of timings")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of weights and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")
parser.add_argument("--plot", type=Path, help="PNG file for the plot")


def random_flow(args: argparse.Namespace) -> EquivariantCNF:
    """Return a flow with random kernels that moves about as fast as a trained one."""
    lattice = Lattice((args.L, args.L))
    field = OrbitConvField(lattice)
    generator = torch.Generator().manual_seed(args.seed)
    with torch.no_grad():
        field.kernel.weight += args.weights * torch.randn(field.kernel.weight.shape, generator=generator)
    return EquivariantCNF(lattice, vector_field=field).to(args.device, getattr(torch, args.dtype))


def gradient(
    flow: EquivariantCNF, method: str, steps: int, args: argparse.Namespace, *, batch_size: int | None = None
) -> Tensor:
    """Return the gradients of all parameters in one vector, for the same samples every time."""
    flow.zero_grad()
    flow.solver = Solver("rk5", steps=steps, **METHODS[method])
    action = Phi4(flow.lattice, m2=-4.0, lam=4.572)
    generator = torch.Generator(args.device).manual_seed(args.seed)
    objective = OBJECTIVES[args.objective]()
    objective(flow, action, batch_size or args.batch_size, generator).surrogate.backward()
    return torch.cat([p.grad.flatten() for p in flow.parameters()])


def measure_peak(method: str, steps: int, args: argparse.Namespace) -> int:
    """Return the bytes that one gradient needs. Call it in a fresh process."""
    torch.set_num_threads(args.threads)
    flow = random_flow(args)
    gradient(flow, method, 1, args, batch_size=1)  # loads libraries and plans transforms
    gc.collect()
    if torch.device(args.device).type != "cuda":
        return rise_resident(lambda: gradient(flow, method, steps, args))
    torch.cuda.reset_peak_memory_stats(args.device)
    before = torch.cuda.memory_allocated(args.device)
    gradient(flow, method, steps, args)
    return torch.cuda.max_memory_allocated(args.device) - before


def rise_resident(function: Callable[[], object]) -> int:
    """Return by how many bytes the resident set rises while the function runs."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
        before, peak = linux_memory("VmRSS"), lambda: linux_memory("VmHWM")
    except OSError:
        before, peak = peak_resident(), peak_resident
    function()
    return peak() - before


def linux_memory(field: str) -> int:
    """Return the resident bytes now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def peak_resident() -> int:
    """Return the largest number of resident bytes since the process began."""
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peaks(method: str, steps: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the peaks in MB, each from a fresh process with its own settings of the C library."""
    found = {}
    for name, settings in PEAKS.items():
        os.environ.update(settings)  # read by a process when it starts: this one stays as it is
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            found[name] = fresh.submit(measure_peak, method, steps, args).result() / MB
        for setting in settings:
            del os.environ[setting]
    return found


def clock(device: str) -> float:
    """Return the clock in seconds, after the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def timed_gradient(
    flow: EquivariantCNF, method: str, steps: int, args: argparse.Namespace
) -> tuple[Tensor, float]:
    start = clock(args.device)
    found = gradient(flow, method, steps, args)
    return found, clock(args.device) - start


def compare(flow: EquivariantCNF, steps: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return time and error of each method relative to backpropagation."""
    rounds = [
        {method: timed_gradient(flow, method, steps, args) for method in METHODS} for _ in range(args.repeats)
    ]
    exact = rounds[0]["backprop"][0]
    found = {}
    for method in METHODS:
        ratios = [done[method][1] / done["backprop"][1] for done in rounds]
        found[method] = {
            "seconds": float(np.median([done[method][1] for done in rounds])),
            "time_ratio": float(np.median(ratios)),
            "time_ratio_spread": float(np.ptp(ratios) / 2),
            "gradient_error": float((rounds[0][method][0] - exact).norm() / exact.norm()),
        }
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per number of steps with peak, time and error of each method."""
    flow = random_flow(args)
    for method in METHODS:
        gradient(flow, method, 1, args)  # so that no first call is timed
    rows = []
    for steps in args.steps:
        found = compare(flow, steps, args)
        for method in METHODS:
            found[method] |= peaks(method, steps, args)
        rows.append({"steps": steps, **found})
    return rows


def line(method: str, peak: str, rows: list[dict[str, Any]]) -> tuple[Estimate, Estimate]:
    """Fit a straight line to the peaks: MB per step, and MB without any step."""
    steps, found = ([row["steps"] for row in rows], [row[method][peak] for row in rows])
    coefficients, covariance = np.polyfit(steps, found, 1, cov=True)
    per_step, offset = map(Estimate, coefficients.tolist(), np.sqrt(np.diag(covariance)).tolist())
    return per_step, offset


def state_mb(args: argparse.Namespace) -> float:
    """Return the MB of the integrated state: phi, log det and, for path gradients, score and energy."""
    fields = 2 if args.objective == "path" else 1
    return args.batch_size * fields * (args.L**2 + 1) * getattr(torch, args.dtype).itemsize / MB


@styled
def draw(rows: list[dict[str, Any]], fits: Lines, args: argparse.Namespace) -> "Figure":
    """Draw peak memory, time and error of the gradient against the number of steps."""
    title = f"a training step on {args.L} x {args.L}, batch {args.batch_size}, {args.dtype}"
    figure, (memory, ratio, error) = new_figure(1, 3, (13, 4.8), title=title)
    steps = np.array([row["steps"] for row in rows])
    for method, style in STYLE.items():
        column = {key: np.array([row[method][key] for row in rows]) for key in rows[0][method]}
        label = f"{method}, {fits['live_mb', method][0]} MB per step"
        memory.errorbar(steps, column["live_mb"], ms=5, lw=1, label=label, **style)
        memory.plot(steps, column["resident_mb"], ":", lw=1.2, color=style["color"])
        spread = column["time_ratio_spread"]
        ratio.errorbar(steps, column["time_ratio"], spread, ms=5, lw=1, capsize=2, label=method, **style)
        if method != "backprop":
            shown = np.where(column["gradient_error"] > 0, column["gradient_error"], np.nan)
            zero = "" if np.isfinite(shown).any() else ": exactly 0"
            error.errorbar(steps, shown, ms=5, lw=1, label=method + zero, **style)
    rounding = torch.finfo(getattr(torch, args.dtype)).eps
    error.axhline(rounding, color=MUTED, ls="--", lw=1, label=f"rounding of {args.dtype}")
    memory.set(title="peak memory", ylabel="MB")
    if any(math.isfinite(row[method]["resident_mb"]) for row in rows for method in STYLE):
        memory.plot([], [], "k:", lw=1.2, label="with freed blocks that the heap holds")
    ratio.set(title="time", ylabel="relative to backprop", ylim=(0, None))
    error.set(title="distance from backprop's gradient", ylabel="relative L2")
    readable_log(memory)
    readable_log(error)
    for panel in (memory, ratio, error):
        panel.set(xscale="log", xlabel="rk5 steps")
        panel.set_xticks(steps, [str(n) for n in steps])
        panel.set_xticks([], minor=True)
        # Below its own panel, since each has its own words.
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def print_results(rows: list[dict[str, Any]], fits: Lines, args: argparse.Namespace) -> None:
    where = f"a training step at L={args.L}, batch {args.batch_size}"
    memory = [
        (row["steps"], *(f"{row[method][peak]:.1f}" for peak in PEAKS for method in METHODS)) for row in rows
    ]
    names = [f"{peak.removesuffix('_mb')}, {method}" for peak in PEAKS for method in METHODS]
    print_table(f"{where}: peak memory in MB", ("steps", *names), memory)
    lines = [(peak.removesuffix("_mb"), method, *fit) for (peak, method), fit in fits.items()]
    title = f"peak memory as a line in the steps; the state is {state_mb(args):.2f} MB"
    print_table(title, ("memory", "method", "MB per step", "MB besides"), lines)
    others = [method for method in METHODS if method != "backprop"]
    compared = [
        (
            row["steps"],
            *(f"{row[m]['time_ratio']:.2f} ± {row[m]['time_ratio_spread']:.2f}" for m in others),
            *(f"{row[m]['gradient_error']:.1e}" for m in others),
        )
        for row in rows
    ]
    header = ("steps", *(f"time, {m}" for m in others), *(f"gradient error, {m}" for m in others))
    print_table(f"{where}: beside backprop", header, compared)


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "clock": "wall" if "cuda" in args.device or args.threads > 1 else "processor time",
        **{k: v for k, v in vars(args).items() if k not in ("out", "plot")},
    }
    print(json.dumps(machine))
    rows = measure(args)
    fits = {(peak, method): line(method, peak, rows) for peak in PEAKS for method in METHODS}
    print_results(rows, fits, args)
    if args.plot is not None:
        save_figure(draw(rows, fits, args), args.plot)
    if args.out is not None:
        lines = [
            {"memory": peak, "method": method, "mb_per_step": per_step.mean, "error": per_step.error}
            | {"mb_besides": besides.mean, "besides_error": besides.error}
            for (peak, method), (per_step, besides) in fits.items()
        ]
        write_json({"machine": machine, "rows": rows, "lines": lines, "state_mb": state_mb(args)}, args.out)


if __name__ == "__main__":
    main()
