"""How the time per configuration grows with the volume, the batch size and the number of features.

Features are mixed by FFT, so V log V is expected in any number of dimensions. Exponents are fitted by least
squares to the larger half of a curve; their errors are those of the fit. All points are timed in turn,
several rounds over, so that a shared machine's changes of speed touch them alike. With one CPU thread the
clock is the processor time of this process, which does not run while others do; else it is the wall clock.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import equiflow
from equiflow import EquivariantCNF, Estimate, Lattice, OrbitConvField, PathGradient, Phi4, Solver
from equiflow.report import print_table, write_json
from equiflow.report.style import MUTED, PALETTE, new_figure, readable_log, save_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = {
    "1D": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    "2D": (8, 16, 32, 64, 128, 256),
    "3D": (4, 6, 8, 12, 16, 24, 32),
    "4D": (4, 5, 6, 8, 10, 12),
}
BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
FREQUENCIES = (2, 4, 8, 16, 32)
QUANTITIES = {"velocity": "velocity and divergence", "sampling": "sampling", "training": "training step"}
COLOURS = PALETTE[:4]
#: where legends stand: below their panels
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--steps", type=int, default=5, help="rk5 steps of a training step and of sampling")
parser.add_argument("--sites", type=int, default=2**16, help="batch size x V, against V and features")
parser.add_argument("--memory", type=float, default=0.6, help="GB that a training step may take")
parser.add_argument("--repeats", type=int, default=5, help="rounds of timings")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of weights and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")
parser.add_argument("--plot", type=Path, help="PNG file for the plot")


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        curve: what it belongs to: a number of dimensions, or what else is varied.
        size: volume, batch size or number of features.
        abscissa: what a power is fitted in: V log V, or the size.
    """

    curve: str
    size: int
    abscissa: float
    shape: tuple[int, ...]
    batch_size: int
    n_frequencies: int = 8


@dataclass(frozen=True)
class Timing:
    """Seconds per configuration: median and quartiles over the rounds."""

    low: float
    median: float
    high: float


Results = dict[Point, dict[str, Timing]]
Fits = dict[str, dict[str, Estimate]]


def points(args: argparse.Namespace) -> list[Point]:
    found = []
    for curve, sides in SIDES.items():
        for lattice in (Lattice((side,) * int(curve[0])) for side in sides):
            volume, batch_size = lattice.volume, max(1, args.sites // lattice.volume)
            found.append(Point(curve, volume, volume * math.log(volume), lattice.shape, batch_size))
    square = (16, 16)
    found += [Point("batch size", n, n, square, n) for n in BATCH_SIZES]
    found += [Point("features", n, n, square, max(1, args.sites // 256), n) for n in FREQUENCIES]
    return found


def chunk_size(point: Point, args: argparse.Namespace) -> int:
    """Return the number of configurations at a time that keeps a training step within the memory."""
    # Measured by memory.py: what backpropagation keeps at each of the six stages of a step.
    numbers = 6 * args.steps * (4 * point.n_frequencies + 6) * math.prod(point.shape)
    return max(1, int(1e9 * args.memory / (numbers * getattr(torch, args.dtype).itemsize)))


def random_flow(point: Point, args: argparse.Namespace) -> EquivariantCNF:
    """Return a flow with small random kernels: nothing is zero, and every trajectory stays finite."""
    lattice = Lattice(point.shape)
    field = OrbitConvField(lattice, n_frequencies=point.n_frequencies)
    generator = torch.Generator().manual_seed(args.seed)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk5", steps=args.steps))
    return flow.to(args.device, getattr(torch, args.dtype))


def computations(point: Point, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Return the computations to be timed; each does the whole batch, in chunks if necessary."""
    flow = random_flow(point, args)
    action = Phi4(flow.lattice, m2=-4.0, lam=4.97)
    objective = PathGradient(solver=flow.solver)
    generator = torch.Generator(args.device).manual_seed(args.seed)
    phi = flow.prior.rsample(point.batch_size, generator).detach()
    parts = [len(part) for part in phi.split(chunk_size(point, args))]

    @torch.no_grad()
    def velocity() -> None:
        for part in phi.split(parts):
            flow.vector_field.velocity_and_divergence(part, 0.3)

    def sampling() -> None:
        for n in parts:
            flow.sample(n, generator=generator)

    def training() -> None:
        flow.zero_grad()
        for n in parts:
            objective(flow, action, n, generator).surrogate.backward()

    return {"velocity": velocity, "sampling": sampling, "training": training}


def clock(device: str) -> float:
    """Return the clock in seconds, after the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def seconds(function: Callable[[], object], device: str, *, calls: int = 1) -> float:
    start = clock(device)
    for _ in range(calls):
        function()
    return (clock(device) - start) / calls


def enough_calls(function: Callable[[], object], device: str, *, at_least: float = 0.03) -> int:
    """Return how many calls take long enough to be timed. This also warms up."""
    seconds(function, device)
    return math.ceil(at_least / seconds(function, device))


def measure(where: Sequence[Point], args: argparse.Namespace) -> Results:
    """Time every quantity at every point, all of them once in each round."""
    work = {(point, name): f for point in where for name, f in computations(point, args).items()}
    calls = {key: enough_calls(function, args.device) for key, function in work.items()}
    rounds = [
        {key: seconds(f, args.device, calls=calls[key]) / key[0].batch_size for key, f in work.items()}
        for _ in range(args.repeats)
    ]
    return {
        point: {name: timing([found[point, name] for found in rounds]) for name in QUANTITIES}
        for point in where
    }


def timing(values: Sequence[float]) -> Timing:
    return Timing(*np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def powers(curve: str, results: Results) -> dict[str, Estimate]:
    """Fit the power p in `time ~ abscissa^p` of each quantity over the larger half of a curve.

    "size" is the power of a time proportional to the volume.
    """
    found = sorted(((p, t) for p, t in results.items() if p.curve == curve), key=lambda pair: pair[0].size)
    larger = found[-max(4, math.ceil(len(found) / 2)) :]
    abscissa = [p.abscissa for p, _ in larger]
    fits = {q: power(abscissa, [t[q].median for _, t in larger]) for q in QUANTITIES}
    return {**fits, "size": power(abscissa, [p.size for p, _ in larger])}


def power(abscissa: Sequence[float], ordinate: Sequence[float]) -> Estimate:
    (found, _), covariance = np.polyfit(np.log(abscissa), np.log(ordinate), 1, cov=True)
    return Estimate(float(found), float(np.sqrt(covariance[0, 0])))


@styled
def draw(results: Results, fits: Fits) -> "Figure":
    """Draw times against V above; below, time / (V log V) and times against batch size and features."""
    title = "time on one core against volume, batch size and features"
    figure, (above, (flat, *below)) = new_figure(2, 3, (13, 10), title=title)
    for panel, (quantity, name) in zip(above, QUANTITIES.items(), strict=True):
        for curve, colour in zip(SIDES, COLOURS, strict=True):
            label = f"{curve}, p = {short(fits[curve][quantity])}"
            plot_curve(panel, curve, quantity, results, color=colour, label=label)
        plot_guide(panel, quantity, results)
        panel.set(title=name, xlabel="volume V")
        readable_log(panel, "x")
        readable_log(panel)
        panel.legend(title="t ~ (V log V)$^p$", ncols=2, **BELOW)
    for curve, colour in zip(SIDES, COLOURS, strict=True):
        plot_curve(flat, curve, "training", results, over_abscissa=True, color=colour, label=curve)
    flat.set(title="training step / (V log V)", xlabel="volume V", ylabel="µs per configuration / (V log V)")
    flat.set(yscale="linear", ylim=(0, None))
    readable_log(flat, "x")
    flat.legend(ncols=4, **BELOW)
    for panel, curve in zip(below, ("batch size", "features"), strict=True):
        for (quantity, name), colour in zip(QUANTITIES.items(), COLOURS, strict=False):
            label = f"{name}, p = {short(fits[curve][quantity])}"
            plot_curve(panel, curve, quantity, results, color=colour, label=label)
        sizes = [p.size for p in results if p.curve == curve]
        panel.set(title=f"16 x 16, against {curve}", xlabel=curve)
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.set_xticks([], minor=True)
        readable_log(panel)
        panel.legend(title=f"t ~ ({curve})$^p$", **BELOW)
    return figure


def short(fit: Estimate) -> str:
    return f"{fit.mean:.2f} ± {fit.error:.2f}"


def plot_curve(
    panel: Any, curve: str, quantity: str, results: Results, *, over_abscissa: bool = False, **style: str
) -> None:
    """Draw the medians as a line, with bars between the quartiles."""
    found = [(p, t[quantity]) for p, t in results.items() if p.curve == curve]
    unit = np.array([1e6 / p.abscissa if over_abscissa else 1e6 for p, _ in found])
    low, median, high = unit * np.array([(t.low, t.median, t.high) for _, t in found]).T
    sizes = [p.size for p, _ in found]
    panel.errorbar(sizes, median, (median - low, high - median), fmt="o-", lw=1, **style)
    panel.set(xscale="log", yscale="log", ylabel="µs per configuration")


def plot_guide(panel: Any, quantity: str, results: Results) -> None:
    """Draw V log V through the largest square lattice."""
    volumes = np.geomspace(10, 1e5)
    largest = max((p for p in results if p.curve == "2D"), key=lambda p: p.size)
    at_largest = 1e6 * results[largest][quantity].median / largest.abscissa
    panel.plot(volumes, at_largest * volumes * np.log(volumes), "--", color=MUTED, lw=1, label="V log V")


def print_results(results: Results, fits: Fits) -> None:
    rows = [
        (
            point.curve,
            f"{point.shape[0]}^{len(point.shape)}",
            point.batch_size,
            point.n_frequencies,
            *(shown(found[quantity]) for quantity in QUANTITIES),
        )
        for point, found in results.items()
    ]
    header = ("against", "lattice", "batch", "features", *QUANTITIES.values())
    print_table("µs per configuration: median over the rounds, half the quartiles' distance", header, rows)
    found = [
        (curve, *(fit[q] for q in QUANTITIES), f"{fit['size'].mean:.3f}" if curve in SIDES else "")
        for curve, fit in fits.items()
    ]
    title = "powers of V log V (1D to 4D), of the batch size, of the number of features"
    print_table(title, ("against", *QUANTITIES.values(), "were it ~ V"), found)


def shown(found: Timing) -> str:
    spread = (found.high - found.low) / (2 * found.median)
    return f"{1e6 * found.median:.4g} ± {100 * spread:.0f}%"


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
    results = measure(points(args), args)
    fits = {curve: powers(curve, results) for curve in dict.fromkeys(point.curve for point in results)}
    print_results(results, fits)
    if args.plot is not None:
        save_figure(draw(results, fits), args.plot)
    if args.out is not None:
        rows = [
            asdict(point) | {quantity: asdict(t) for quantity, t in found.items()}
            for point, found in results.items()
        ]
        found = {c: {q: {"power": e.mean, "error": e.error} for q, e in f.items()} for c, f in fits.items()}
        write_json({"machine": machine, "rows": rows, "powers": found}, args.out)


if __name__ == "__main__":
    main()
