"""Sample two-dimensional phi^4 theory with an exactly symmetric continuous flow, from scratch.

Builds the flow, trains it on the action, draws fresh samples, certifies their log-density, and compares the
physics with an HMC run.
"""

import argparse
import time
from pathlib import Path

import torch

from equiflow import HMC, EquivariantCNF, Lattice, Phi4, fit, importance_sample
from equiflow.report import Report

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=16, help="side of the periodic square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared (S has no factor 1/2)")
parser.add_argument("--lam", type=float, default=4.97, help="quartic coupling, lam phi^4")
parser.add_argument("--steps", type=int, help="optimiser steps; what suits the lattice unless given")
parser.add_argument("--batch-size", type=int, help="model samples per optimiser step; likewise")
parser.add_argument("--samples", type=int, default=8192, help="fresh model samples to measure on")
parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than one pays from L=32 on")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for plots, flow.pt and results.json")


def main() -> None:
    args = parser.parse_args()
    start = time.perf_counter()
    dtype = getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)

    # The field theory, and a flow with its symmetries: translations x D4 x Z2.
    lattice = Lattice((args.L, args.L))
    action = Phi4(lattice, m2=args.m2, lam=args.lam)
    flow = EquivariantCNF(lattice).to(args.device, dtype)
    history = fit(flow, action, steps=args.steps, batch_size=args.batch_size, seed=args.seed)

    # The cheapest solver that is accurate enough for this flow, then fresh weighted samples.
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    print(flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator))
    ensemble = importance_sample(flow, action, args.samples, batch_size=512, certify=512, generator=generator)

    # An independent reference: 128 HMC chains in one batch, started from noise.
    chain = HMC(action).sample(
        64, n_chains=128, thin=10, generator=generator, device=args.device, dtype=dtype
    )

    report = Report(flow, action, history, ensemble, chain)
    report.print()
    total = {"total_seconds": time.perf_counter() - start}
    print(f"trained in {history.seconds[-1]:.0f} s, {total['total_seconds']:.0f} s in all")
    if args.out is not None:
        report.save(args.out, settings={**vars(args), "steps": len(history), **total})
        print(f"wrote {', '.join(sorted(p.name for p in args.out.iterdir()))} to {args.out}")


if __name__ == "__main__":
    main()
