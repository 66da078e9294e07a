"""Coupling flows as published against the continuous flow, each trained for the same processor time.

The couplings are trained on the reverse KL, or on its path gradient, with Adam at the best of several
learning rates (chosen in the shortest training); the continuous flow as `fit` does by default.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from equiflow import (
    CouplingFlow,
    EquivariantCNF,
    Flow,
    InversePathGradient,
    Lattice,
    Phi4,
    ReverseKL,
    SplineMap,
    fit,
    importance_sample,
)
from equiflow.report import print_table, write_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=8, help="side of the square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared")
parser.add_argument("--lam", type=float, default=6.008, help="quartic coupling")
parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 150.0], help="training times")
parser.add_argument(
    "--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates of Adam"
)
parser.add_argument("--only", nargs="+", help="names of the flows to train; all by default")
parser.add_argument("--samples", type=int, default=4096, help="fresh samples")
parser.add_argument("--seed", type=int, default=0, help="of weights, training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


def contestants(lattice: Lattice) -> dict[str, tuple[Callable[[], Flow], dict[str, Any]]]:
    """Return how to make each flow, and the options of `fit` besides steps and rate."""
    kl = {"objective": ReverseKL()}
    path = {"objective": InversePathGradient()}
    spline = {"site_map": SplineMap(), "n_layers": 8}
    return {
        "EquivariantCNF": (lambda: EquivariantCNF(lattice), {}),
        "RealNVP": (lambda: CouplingFlow(lattice), kl),
        "RealNVP, path gradient": (lambda: CouplingFlow(lattice), path),
        "Z2 RealNVP": (lambda: CouplingFlow(lattice, z2=True), kl),
        "Z2 RealNVP, path gradient": (lambda: CouplingFlow(lattice, z2=True), path),
        "spline": (lambda: CouplingFlow(lattice, **spline), kl),
        "Z2 spline": (lambda: CouplingFlow(lattice, z2=True, **spline), kl),
        "Z2 spline, path gradient": (lambda: CouplingFlow(lattice, z2=True, **spline), path),
    }


def train(make: Callable[[], Flow], action: Phi4, steps: int, options: dict[str, Any], seed: int) -> Flow:
    torch.manual_seed(seed)
    flow = make()
    fit(flow, action, steps=steps, seed=seed, progress=False, **options)
    return flow


def seconds_per_step(make: Callable[[], Flow], action: Phi4, options: dict[str, Any], seed: int) -> float:
    train(make, action, 3, options, seed)
    started = time.process_time()
    train(make, action, 20, options, seed)
    return (time.process_time() - started) / 20


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    lattice = Lattice((args.L, args.L))
    action = Phi4(lattice, m2=args.m2, lam=args.lam)
    rows = []
    for name, (make, options) in contestants(lattice).items():
        if args.only and name not in args.only:
            continue
        pace = seconds_per_step(make, action, options, args.seed)
        rates = args.rates if options else [2e-2]
        for seconds in args.seconds:
            results = []
            for rate in rates:
                started = time.process_time()
                steps = round(seconds / pace)
                flow = train(make, action, steps, {**options, "learning_rate": rate}, args.seed)
                spent = time.process_time() - started
                generator = torch.Generator().manual_seed(args.seed + 1)
                ensemble = importance_sample(flow, action, args.samples, batch_size=512, generator=generator)
                results.append((ensemble.effective_sample_size(), rate, steps, spent, ensemble.log_z()))
            ess, rate, steps, spent, log_z = max(results, key=lambda result: result[0].mean)
            rates = [rate]  # the rate that was best in the shorter training
            size = sum(p.numel() for p in flow.parameters())
            row = (name, size, f"{1e3 * pace:.0f}", rate, steps, f"{spent:.0f}", str(ess), str(log_z))
            rows.append(row)
            print(*row, "of", [(r, str(e)) for e, r, *_ in results], flush=True)
    header = ("flow", "parameters", "ms per step", "rate", "steps", "CPU s", "reverse ESS", "log Z")
    print_table(f"L = {args.L}, lam = {args.lam}, one thread, batch 128", header, rows)
    if args.out:
        write_json({"rows": rows}, args.out)


if __name__ == "__main__":
    main()
