"""One evaluation of velocity and divergence against its own floor, and what beats FFTs where.

The floor is what cannot be left out of a shallow field: the sines and cosines of its features, one FFT
for each kernel and one back, each alone and nothing between them. Rounds alternate between all
candidates; the ratio is the median over the rounds, with half the interquartile range. On CPUs the
clock is the process's own time, which other jobs on the machine disturb least.

FFTs are compared with dense products on small lattices, and with sums over offsets for small kernels;
there also the gradient of `velocity . noise + divergence` in the field and all weights.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import equiflow
from equiflow import EquivariantCNF, Lattice, OrbitConvField
from equiflow.report import print_table, write_json
from equiflow.testing import randomise

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, nargs="*", default=[8, 16, 32, 64, 128, 256], help="sides, in 2D")
parser.add_argument("--sites", type=int, default=2**15, help="sites of a batch (the batch follows)")
parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], help="precisions")
parser.add_argument("--dense", type=int, nargs="*", default=[4, 6, 8, 10, 12, 14], help="sides to cross over")
parser.add_argument("--direct", nargs="*", default=["12,12", "16,16", "32,32", "64,64", "8,8,8", "16,16,16"],
                    help="lattices for small kernels")  # fmt: skip
parser.add_argument("--kernel-sizes", type=int, nargs="+", default=[3, 5], help="offsets per axis of them")
parser.add_argument("--compile", action="store_true", help="also compiled")
parser.add_argument("--rounds", type=int, default=40, help="repetitions of everything")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--seed", type=int, default=0, help="of the weights")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


def seconds(function: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def ratio(times: list[float], reference: list[float]) -> tuple[float, float]:
    """Return the median of the rounds' ratios, and half their interquartile range."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, (high - low) / 2


def field_and_input(
    side: int, dtype: str, args: argparse.Namespace, convolution: str = "auto"
) -> tuple[EquivariantCNF, torch.Tensor]:
    lattice = Lattice((side, side))
    flow = EquivariantCNF(
        lattice,
        vector_field=OrbitConvField(lattice, convolution=convolution),
        compile=args.compile and convolution == "auto",
    )
    randomise(flow.vector_field, scale=0.01, seed=args.seed)
    flow.to(args.device, getattr(torch, dtype))
    batch_size = max(1, args.sites // lattice.volume)
    return flow, torch.randn(batch_size, side, side, dtype=flow.dtype, device=args.device)


def floor_of(flow: EquivariantCNF, phi: torch.Tensor) -> Callable[[], None]:
    lattice, omega = flow.lattice, flow.vector_field.features.omega.detach()
    angle = phi[:, None] * omega[:, None, None]
    phi_k = lattice.fft(phi)

    def floor() -> None:
        angle.sin()
        angle.cos()
        lattice.fft(angle)
        lattice.fft(phi)
        lattice.ifft(phi_k)

    return floor


@torch.no_grad()
def against_floor(side: int, dtype: str, args: argparse.Namespace) -> dict[str, object]:
    flow, phi = field_and_input(side, dtype, args)
    field, t = flow.vector_field, torch.tensor(0.3, dtype=phi.dtype, device=phi.device)
    candidates: dict[str, Callable[[], object]] = {
        "floor": floor_of(flow, phi),
        "eager": lambda: field.velocity_and_divergence(phi, t),
    }
    if args.compile:
        candidates["compiled"] = lambda: flow._evaluate("velocity_and_divergence", phi, t)
    times = rounds(candidates, args)
    row: dict[str, object] = {"L": side, "dtype": dtype, "batch": len(phi)}
    row["floor_ms"] = 1e3 * statistics.median(times["floor"])
    for name in list(candidates)[1:]:
        row[f"{name}_over_floor"], row[f"{name}_spread"] = ratio(times[name], times["floor"])
    return row


@torch.no_grad()
def crossover(side: int, dtype: str, args: argparse.Namespace) -> dict[str, object]:
    candidates: dict[str, Callable[[], object]] = {}
    for convolution in ("dense", "fourier"):
        flow, phi = field_and_input(side, dtype, args, convolution)
        candidates[convolution] = lambda f=flow.vector_field, x=phi: f.velocity_and_divergence(x, 0.3)
    times = rounds(candidates, args)
    middle, spread = ratio(times["dense"], times["fourier"])
    return {"L": side, "dtype": dtype, "batch": len(phi), "dense_over_fourier": middle, "spread": spread}


def small_kernels(
    shape: tuple[int, ...], size: int, dtype: str, args: argparse.Namespace
) -> dict[str, object]:
    lattice = Lattice(shape)
    generator = torch.Generator().manual_seed(args.seed)
    batch_size = max(1, args.sites // lattice.volume)
    phi, noise = torch.randn((2, batch_size, *shape), generator=generator, dtype=getattr(torch, dtype)).to(
        args.device
    )
    velocity: dict[str, Callable[[], object]] = {}
    gradient: dict[str, Callable[[], object]] = {}
    for convolution in ("direct", "fourier"):
        field = OrbitConvField(lattice, kernel_size=size, convolution=convolution).to(phi)
        randomise(field, scale=0.01, seed=args.seed)
        velocity[convolution] = torch.no_grad()(lambda f=field: f.velocity_and_divergence(phi, 0.3))
        gradient[convolution] = lambda f=field: _gradient(f, phi, noise)
    row: dict[str, object] = {"shape": shape, "size": size, "dtype": dtype, "batch": batch_size}
    for name, candidates in (("velocity", velocity), ("gradient", gradient)):
        times = rounds(candidates, args)
        row[name], row[f"{name}_spread"] = ratio(times["direct"], times["fourier"])
    return row


def _gradient(field: OrbitConvField, phi: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    point = phi.detach().requires_grad_()
    velocity, divergence = field.velocity_and_divergence(point, 0.3)
    return torch.autograd.grad((velocity * noise).sum() + divergence.sum(), [point, *field.parameters()])


def rounds(candidates: dict[str, Callable[[], object]], args: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(args.rounds + 3):
        for name, function in candidates.items():
            once = seconds(function, args.device)
            if i >= 3:
                times[name].append(once)
    return times


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{name: value for name, value in vars(args).items() if name != "out"},
    }
    print(json.dumps(machine))
    tables = {
        "velocity and divergence over their floor": [
            against_floor(side, dtype, args) for dtype in args.dtypes for side in args.L
        ],
        "dense products over FFTs": [
            crossover(side, dtype, args) for dtype in args.dtypes for side in args.dense
        ],
        "sums over offsets over FFTs": [
            small_kernels(tuple(map(int, shape.split(","))), size, dtype, args)
            for dtype in args.dtypes
            for shape in args.direct
            for size in args.kernel_sizes
        ],
    }
    for title, rows in tables.items():
        if rows:
            shown = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
            print_table(title, list(rows[0]), shown)
    if args.out is not None:
        write_json({"machine": machine, **tables}, args.out)


if __name__ == "__main__":
    main()
