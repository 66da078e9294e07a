"""What accuracy costs: shift of log Z and largest error of a log weight against evaluations, by method.

Takes a flow trained by examples/phi4_L16.py, or trains the same one with other numbers of time modes
and kinetic penalties, which is what decides how many evaluations an accuracy costs.
"""

import argparse
from pathlib import Path

import torch

from equiflow import EquivariantCNF, Lattice, OrbitConvField, PathGradient, Phi4, Solver, VectorField, fit
from equiflow.report import print_table, write_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--flow", type=Path, help="flow.pt to look at instead of training one")
parser.add_argument("--L", type=int, default=16, help="side of the square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared")
parser.add_argument("--lam", type=float, default=4.97, help="quartic coupling")
parser.add_argument("--steps", type=int, default=500, help="optimiser steps")
parser.add_argument("--time-modes", type=int, default=4, help="cosine modes of the kernels in time")
parser.add_argument("--kinetic-penalty", type=float, default=1e-3, help="weight of the kinetic energy")
parser.add_argument("--samples", type=int, default=256, help="samples compared")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")

SOLVERS = [
    *(Solver("rk4", steps=n) for n in (4, 6, 8, 10, 12, 16, 24, 32)),
    *(Solver("rk5", steps=n) for n in (3, 4, 5, 6, 8, 10, 12, 16, 24)),
    *(Solver("dopri5", rtol=tol, atol=tol) for tol in (1e-3, 1e-4, 1e-5, 1e-6)),
    *(Solver("dopri8", rtol=tol, atol=tol) for tol in (1e-3, 1e-4, 1e-5, 1e-6)),
]


def trained_flow(args: argparse.Namespace) -> EquivariantCNF:
    if args.flow is not None:
        return EquivariantCNF.load(args.flow)
    lattice = Lattice((args.L, args.L))
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, n_time_modes=args.time_modes))
    objective = PathGradient(args.kinetic_penalty, solver=VectorField.training_solver)
    action = Phi4(lattice, m2=args.m2, lam=args.lam)
    fit(flow, action, steps=args.steps, objective=objective, seed=args.seed)
    return flow


@torch.no_grad()
def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.enable_grad():
        flow = trained_flow(args).double()
    action = Phi4(flow.lattice, m2=args.m2, lam=args.lam)
    z = flow.prior.rsample(args.samples, torch.Generator().manual_seed(args.seed))

    def log_weight(solver: Solver) -> tuple[torch.Tensor, int]:
        solution = flow.solve(z, 0.0, 1.0, solver=solver)
        phi, log_det = solution.state
        return -action(phi) - flow.prior.log_prob(z) + log_det, solution.nfe

    exact, _ = log_weight(Solver("dopri8", rtol=1e-10, atol=1e-10))
    rows = []
    for solver in SOLVERS:
        found, nfe = log_weight(solver)
        shift = float(found.logsumexp(0) - exact.logsumexp(0))
        rows.append((str(solver), nfe, f"{shift:+.1e}", f"{float((found - exact).abs().max()):.1e}"))
    title = f"float64, {args.samples} samples, L={flow.lattice.shape[0]}, lam={args.lam}, seed {args.seed}"
    print_table(title, ("solver", "nfe", "shift of log Z", "largest error of log w"), rows)
    if args.out is not None:
        settings = {k: str(v) for k, v in vars(args).items()}
        write_json({"settings": settings, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
