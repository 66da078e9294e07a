"""How fast a flow samples and trains: samples per second, time per step, time to an ESS of 0.9.

Every figure is printed with the machine, threads, precision, seed, evaluations and sample counts, and
beside the time of a fixed reference computation in the same run (sines, cosines and FFTs of 8 features),
since absolute times of shared machines mean little.
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
from equiflow import EquivariantCNF, Lattice, PathGradient, Phi4, VectorField, fit, importance_sample
from equiflow.report import print_table, write_json

M_PL_4 = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.97, 20: 4.807, 32: 4.572}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[8, 16], choices=list(M_PL_4), help="sides")
parser.add_argument("--batch-size", type=int, default=128, help="samples per optimiser step")
parser.add_argument("--samples", type=int, default=4096, help="fresh samples per ESS and per timing")
parser.add_argument("--goal", type=float, default=0.9, help="reverse ESS to reach")
parser.add_argument("--max-steps", type=int, default=800, help="longest training to try")
parser.add_argument("--accuracy", type=float, default=1e-3, help="solver error of log Z while sampling")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


def median_seconds(function: Callable[[], object], *, repeats: int = 15) -> float:
    def once() -> float:
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(repeats))


def reference_seconds(flow: EquivariantCNF, batch_size: int) -> float:
    """Time a fixed computation of the size of a velocity: sines, cosines and FFTs of eight features."""
    lattice = flow.lattice
    phi = torch.randn(batch_size, *lattice.shape, dtype=flow.dtype, device=flow.device)
    omega = torch.arange(1, 9).to(phi)
    angle = phi[:, None] * omega.reshape(-1, *(1,) * lattice.dim)

    def reference() -> None:
        angle.cos()
        lattice.fft(phi)
        lattice.ifft(lattice.fft(angle.sin()).sum(1))

    return median_seconds(reference, repeats=50)


def steps_to_goal(
    make: Callable[[], EquivariantCNF], action: Phi4, args: argparse.Namespace
) -> dict[str, object]:
    """Find the shortest complete training, on a geometric ladder, whose fresh ESS reaches the goal."""
    steps = 50
    while steps <= args.max_steps:
        flow = make()
        history = fit(flow, action, steps=steps, batch_size=args.batch_size, seed=args.seed)
        generator = torch.Generator(args.device).manual_seed(args.seed + 1)
        flow.tune_solver(args.accuracy, action=action, generator=generator)
        ensemble = importance_sample(flow, action, args.samples, batch_size=512, generator=generator)
        ess = ensemble.effective_sample_size()
        if ess.mean >= args.goal:
            return {
                "steps": steps,
                "train_seconds": history.seconds[-1],
                "ess": ess.mean,
                "ess_error": ess.error,
                "log_z_shift": ensemble.certificate.log_z_shift,
                "nfe": ensemble.certificate.nfe,
                "parameters": sum(p.numel() for p in flow.parameters()),
                "flow": flow,
            }
        steps = round(steps * 1.4)
    raise SystemExit(f"ESS {args.goal} not reached in {args.max_steps} steps")


def measure_side(side: int, args: argparse.Namespace) -> dict[str, object]:
    lattice = Lattice((side, side))
    action = Phi4(lattice, m2=-4.0, lam=M_PL_4[side])

    def make() -> EquivariantCNF:
        return EquivariantCNF(lattice).to(args.device, getattr(torch, args.dtype))

    reached = steps_to_goal(make, action, args)
    flow: EquivariantCNF = reached.pop("flow")
    reference = reference_seconds(flow, args.batch_size)
    phi = flow.sample(args.batch_size)
    objective = PathGradient(solver=VectorField.training_solver)

    @torch.no_grad()
    def velocity() -> None:
        flow.vector_field.velocity_and_divergence(phi, 0.3)

    def training_step() -> None:
        flow.zero_grad()
        objective(flow, action, args.batch_size).surrogate.backward()

    one_velocity, one_step = median_seconds(velocity, repeats=50), median_seconds(training_step)
    sampling = median_seconds(
        lambda: importance_sample(flow, action, args.samples, batch_size=512, certify=0), repeats=3
    )
    return {
        "L": side,
        "lam": M_PL_4[side],
        "velocity_over_reference": one_velocity / reference,
        "training_step_over_reference": one_step / reference,
        "reference_ms": 1e3 * reference,
        "velocity_ms": 1e3 * one_velocity,
        "training_step_ms": 1e3 * one_step,
        "samples_per_second": args.samples / sampling,
        **reached,
    }


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{k: v for k, v in vars(args).items() if k not in ("L", "out")},
    }
    rows = [measure_side(side, args) for side in args.L]
    print(json.dumps(machine))
    names = list(rows[0])
    shown = [[name, *(f"{row[name]:.4g}" for row in rows)] for name in names]
    print_table("speed of a flow at m_p L = 4", ["quantity", *(f"L={r['L']}" for r in rows)], shown)
    if args.out is not None:
        write_json({"machine": machine, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
