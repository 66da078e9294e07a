"""log Z and its change along a coupling, three ways: importance weights, Bennett's ratio, integration.

Two-dimensional phi^4 at two ends of a range of lam. Weights and Bennett's ratio (which takes samples of HMC
besides) give log Z at each end: at the first from a trained flow, at the second from a conditional flow that
is trained here over the range. Thermodynamic integration gives the change, from samples of the conditional
flow and once more from HMC alone, which knows no log q.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from equiflow import (
    HMC,
    ActionFamily,
    Chain,
    ConditionalFlow,
    Ensemble,
    EquivariantCNF,
    Estimate,
    Lattice,
    Phi4,
    fit,
    importance_sample,
    log_z_along,
    log_z_bridge,
)
from equiflow.report import print_table, write_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=8, help="side of the square lattice")
parser.add_argument("--m2", type=float, default=-4.0, help="bare mass squared")
parser.add_argument(
    "--lam", type=float, nargs=2, default=[6.008, 8.0], help="quartic coupling, start and end"
)
parser.add_argument("--flow", default="phi4-2d-L8", help="pretrained flow at the start; 'none': conditional")
parser.add_argument("--steps", type=int, default=300, help="optimiser steps of the conditional flow")
parser.add_argument("--points", type=int, default=9, help="couplings of the integration, odd")
parser.add_argument("--samples", type=int, default=8192, help="fresh model samples at each end")
parser.add_argument("--samples-per-point", type=int, default=2048, help="at each coupling of the integration")
parser.add_argument("--chains", type=int, default=64, help="HMC chains; all samples are shared among them")
parser.add_argument("--accuracy", type=float, default=1e-4, help="largest solver error of log Z, in float64")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


def difference(end: Estimate, start: Estimate) -> Estimate:
    """Return the difference of two independent estimates; their solver errors add up."""
    return Estimate(
        end.mean - start.mean,
        math.hypot(end.error, start.error),
        systematic=end.systematic + start.systematic,
    )


def timed(make: Callable[[], object]) -> tuple[object, float]:
    started = time.process_time()
    return make(), time.process_time() - started


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    lattice, (low, high) = Lattice((args.L, args.L)), args.lam
    family = ActionFamily(Phi4, lattice, m2=args.m2, lam=(low, high))
    noise = torch.Generator(args.device).manual_seed(args.seed + 1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {vars(args)}")

    conditional = ConditionalFlow(EquivariantCNF(lattice), {"lam": (low, high)}, degree=2).to(args.device)
    _, seconds = timed(lambda: fit(conditional, family, steps=args.steps, seed=args.seed))
    print(f"conditional flow trained in {seconds:.0f} s of processor time")
    conditional = conditional.double()

    def flow_at(lam: float) -> EquivariantCNF:
        flow = conditional.at(lam=lam)
        if lam == low and args.flow != "none":
            flow = EquivariantCNF.pretrained(args.flow).to(args.device).double()
        flow.tune_solver(args.accuracy, action=family.at(lam=lam), generator=noise)
        return flow

    def chain_at(lam: float, n_samples: int) -> Chain:
        n_chains = args.chains
        return HMC(family.at(lam=lam)).sample(
            n_samples // n_chains, n_chains=n_chains, thin=2, generator=noise, device=args.device
        )

    def ensemble_at(lam: float) -> Ensemble:
        flow = conditional.at(lam=lam)
        flow.tune_solver(args.accuracy, action=family.at(lam=lam), generator=noise)
        return importance_sample(flow, family.at(lam=lam), args.samples_per_point, generator=noise)

    weights, bridges, ess = [], [], []
    for lam in (low, high):
        flow, action = flow_at(lam), family.at(lam=lam)
        ensemble = importance_sample(flow, action, args.samples, generator=noise)
        weights.append(ensemble.log_z())
        bridges.append(log_z_bridge(flow, action, ensemble, chain_at(lam, args.samples)))
        ess.append(ensemble.effective_sample_size())
    integrals = {
        "integration, conditional flow": ensemble_at,
        "integration, HMC": lambda lam: chain_at(lam, args.samples_per_point),
    }
    results: dict[str, tuple[object, object, Estimate]] = {
        "importance weights": (*weights, difference(weights[1], weights[0])),
        "Bennett's ratio": (*bridges, difference(bridges[1], bridges[0])),
    }
    for name, source in integrals.items():
        integral, seconds = timed(
            lambda source=source: log_z_along(
                source, family, {"lam": low}, {"lam": high}, n_points=args.points
            )
        )
        results[name] = ("", "", integral.change)
        print(f"{name}: {integral}, {seconds:.0f} s of processor time")
    best = results["Bennett's ratio"][2]
    rows = [
        (name, a, b, change, f"{change.sigmas_from(best):+.1f}" if change is not best else "")
        for name, (a, b, change) in results.items()
    ]
    print(f"reverse ESS: {ess[0]} at lam = {low}, {ess[1]} at lam = {high}")
    header = ("method", f"log Z at {low}", f"log Z at {high}", "change", "sigma from Bennett's")
    print_table(f"L = {args.L}, m2 = {args.m2}", header, rows)
    if args.out is not None:
        changes = {name: asdict(change) for name, (*_, change) in results.items()}
        ends = {
            f"log_z_{lam}": {"weights": asdict(w), "bridge": asdict(b)}
            for lam, w, b in zip(args.lam, weights, bridges, strict=True)
        }
        write_json({**vars(args), **ends, "change": changes}, args.out)


if __name__ == "__main__":
    main()
