"""What an exact log-density costs: flows exact to rounding beside the continuous flow, at equal steps.

The exact flows live on field and momentum, so their ESS and log Z are those of the extended action;
log Z is given for the field alone.
"""

import argparse
from pathlib import Path

import torch

from equiflow import (
    AugmentedFlow,
    EquivariantCNF,
    ExtendedAction,
    InversePathGradient,
    Lattice,
    Phi4,
    SymplecticFlow,
    fit,
    importance_sample,
)
from equiflow.report import print_table, write_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=8, help="side of the square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared")
parser.add_argument("--lam", type=float, default=6.008, help="quartic coupling")
parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each flow")
parser.add_argument("--samples", type=int, default=8192, help="fresh samples")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    lattice = Lattice((args.L, args.L))
    action = Phi4(lattice, m2=args.m2, lam=args.lam)
    extended = ExtendedAction(action)
    exact = {"objective": InversePathGradient(), "learning_rate": 1e-2}
    contestants = {
        "EquivariantCNF": (EquivariantCNF(lattice), action, {}),
        "AugmentedFlow": (AugmentedFlow(lattice), extended, exact),
        "SymplecticFlow": (SymplecticFlow(lattice), extended, exact),
    }
    rows = []
    for name, (flow, target, options) in contestants.items():
        history = fit(flow, target, steps=args.steps, seed=args.seed, **options)
        generator = torch.Generator().manual_seed(args.seed + 1)
        ensemble = importance_sample(flow, target, args.samples, batch_size=512, generator=generator)
        log_z, shift = ensemble.log_z(), getattr(target, "log_z_shift", 0.0)
        rows.append(
            (
                name,
                sum(p.numel() for p in flow.parameters()),
                f"{history.seconds[-1]:.0f}",
                str(ensemble.effective_sample_size()),
                f"{log_z.mean - shift:.4f} ± {log_z.error:.4f}",
                f"{ensemble.certificate.max_log_q_error:.1e}",
                f"{ensemble.certificate.round_trip_error:.1e}",
            )
        )
    header = ("flow", "parameters", "seconds", "reverse ESS", "log Z", "error of log w", "round trip")
    run = f"{args.steps} steps of 128, {args.samples} samples, float32, seed {args.seed}"
    print_table(f"L={args.L}, lam={args.lam}, {run}", header, rows)
    if args.out is not None:
        write_json({"settings": {k: str(v) for k, v in vars(args).items()}, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
