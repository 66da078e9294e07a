"""Sample three-dimensional phi^4 theory near its critical point, with one of three symmetric fields.

`--field potential` is the gradient of an invariant potential. `--field orbit` mixes sitewise features with
kernels that span the lattice. `--field o3` has channels that transform as vectors and tensors; it needs e3nn
(pip install '.[o3]'). All are exactly equivariant under translations, O_h and phi -> -phi.
"""

import argparse
import time
from pathlib import Path

import torch

from equiflow import (
    HMC,
    EquivariantCNF,
    Lattice,
    O3Field,
    OrbitConvField,
    Phi4,
    PotentialField,
    fit,
    importance_sample,
)
from equiflow.report import Report

FIELDS = {"potential": PotentialField, "orbit": OrbitConvField, "o3": O3Field}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=6, help="side of the periodic cube")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared (S has no factor 1/2)")
parser.add_argument("--lam", type=float, default=8.0, help="quartic coupling, lam phi^4; 8 is near critical")
parser.add_argument("--field", default="potential", choices=list(FIELDS), help="vector field")
parser.add_argument("--steps", type=int, default=300, help="optimiser steps")
parser.add_argument("--batch-size", type=int, default=64, help="model samples per optimiser step")
parser.add_argument("--samples", type=int, default=4096, help="fresh model samples to measure on")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--accuracy", type=float, default=2e-3, help="largest solver error of log Z")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for plots, flow.pt and results.json")


def main() -> None:
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(args.threads)

    lattice = Lattice((args.L, args.L, args.L))
    action = Phi4(lattice, m2=args.m2, lam=args.lam)
    flow = EquivariantCNF(lattice, vector_field=FIELDS[args.field](lattice)).to(args.device)
    history = fit(flow, action, steps=args.steps, batch_size=args.batch_size, seed=args.seed)

    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    print(flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator))
    ensemble = importance_sample(flow, action, args.samples, batch_size=256, certify=128, generator=generator)
    chain = HMC(action).sample(64, n_chains=64, thin=10, generator=generator, device=args.device)

    report = Report(flow, action, history, ensemble, chain)
    report.print()
    total = {"total_seconds": time.perf_counter() - start}
    print(f"trained in {history.seconds[-1]:.0f} s, {total['total_seconds']:.0f} s in all")
    if args.out is not None:
        report.save(args.out, settings={**vars(args), **total})
        print(f"wrote {', '.join(sorted(p.name for p in args.out.iterdir()))} to {args.out}")


if __name__ == "__main__":
    main()
