"""Large lattices by way of small ones: the recipe, the curve and the table, at m_p L = 4.

Trains with `fit_ladder`, then measures every rung on fresh samples: reverse and forward ESS, log Z with
the solver's share of its error, and the training time. Writes a flow per rung
(`EquivariantCNF.load`; those in the package, `EquivariantCNF.pretrained`, come from here), the figures
as JSON and the training curve as a picture. Interrupted, it goes on where it was.

    python benchmarks/ladder.py --out runs/ladder                                     # 8 -> 16 -> 32
    python benchmarks/ladder.py --L 8 12 --steps 300 300 --batch-size 128 128 --out runs/L12
    python benchmarks/ladder.py --L 8 16 20 --steps 300 300 400 --batch-size 128 128 128 --out runs/L20
    python benchmarks/ladder.py --start runs/ladder/phi4-2d-L32.pt --L 64 --steps 2800 \
        --batch-size 32 --learning-rate 2e-3 --accuracy 5e-3 --samples 2048 --out runs/ladder64
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import equiflow
from equiflow import HMC, EquivariantCNF, Lattice, PathGradient, Phi4, Solver, fit_ladder
from equiflow.analysis import diagnose
from equiflow.report import print_table, write_json
from equiflow.report.plots import ladder_curve, save_figure
from equiflow.samplers import importance_sample
from equiflow.training import Rung
from equiflow.vector_fields import VECTOR_FIELDS

M_PL_4 = {
    6: 6.975,
    8: 6.008,
    10: 5.550,
    12: 5.276,
    14: 5.113,
    16: 4.97,
    20: 4.807,
    32: 4.572,
    64: 4.398,
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[8, 16, 32], choices=list(M_PL_4), help="sides")
parser.add_argument("--steps", type=int, nargs="+", default=[300, 300, 900], help="per rung")
parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 128, 64], help="per rung")
parser.add_argument("--learning-rate", type=float, nargs="+", help="per rung; by default fit_ladder's")
parser.add_argument("--field", default="PotentialField", choices=list(VECTOR_FIELDS), help="without --start")
parser.add_argument("--time-modes", type=int, default=4, help="of the kernels, without --start")
parser.add_argument("--solver-steps", type=int, default=6, help="of rk5, while training")
parser.add_argument("--start", type=Path, help="flow to start from, of any side")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--samples", type=int, default=8192, help="fresh model samples per rung")
parser.add_argument("--hmc", type=int, default=2048, help="target samples per rung for the forward ESS")
parser.add_argument("--compile", action="store_true", help="compile the vector field")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of training, samples and HMC")
parser.add_argument("--out", type=Path, required=True, help="folder for flows, figures and checkpoints")


def first_flow(args: argparse.Namespace) -> EquivariantCNF:
    lattice = Lattice((args.L[0],) * 2)
    if args.start is not None:
        return EquivariantCNF.load(args.start, device=args.device, compile=args.compile).resized(lattice)
    field = VECTOR_FIELDS[args.field](lattice, n_time_modes=args.time_modes)
    flow = EquivariantCNF(lattice, vector_field=field, compile=args.compile)
    return flow.to(args.device, getattr(torch, args.dtype))


def measure(rung: Rung, args: argparse.Namespace) -> dict[str, Any]:
    flow, action, side = rung.flow, rung.action, rung.flow.lattice.shape[0]
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator)
    batch_size = max(16, min(512, 2**17 // flow.lattice.volume))
    start = time.perf_counter()
    ensemble = importance_sample(
        flow, action, args.samples, batch_size=batch_size, certify=64, generator=generator
    )
    sampling = time.perf_counter() - start
    chains = 64
    chain = HMC(action).sample(
        max(1, args.hmc // chains),
        n_chains=chains,
        n_thermalisation=500,
        thin=20,
        generator=generator,
        device=args.device,
        dtype=flow.dtype,
    )
    diagnosis = diagnose(flow, action, ensemble, chain)
    log_z = ensemble.log_z()
    return {
        "L": side,
        "lam": M_PL_4[side],
        "parameters": sum(p.numel() for p in flow.parameters()),
        "steps": len(rung.history),
        "training_seconds": rung.history.seconds[-1],
        "reverse_ess": diagnosis.reverse_ess.mean,
        "reverse_ess_error": diagnosis.reverse_ess.error,
        "forward_ess": diagnosis.forward_ess.mean,
        "forward_ess_error": diagnosis.forward_ess.error,
        "log_z": log_z.mean,
        "log_z_error": log_z.error,
        "log_z_shift": ensemble.certificate.log_z_shift,
        "log_z_forward": diagnosis.log_z_forward.mean,
        "log_z_forward_error": diagnosis.log_z_forward.error,
        "nfe": ensemble.certificate.nfe,
        "samples": args.samples,
        "hmc_samples": chain.samples.shape[0] * chains,
        "sampling_and_certificate_seconds": sampling,
        "warnings": list(diagnosis.warnings),
    }


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{name: value for name, value in vars(args).items() if name not in ("out", "start")},
    }
    rungs = fit_ladder(
        [Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side]) for side in args.L],
        flow=first_flow(args),
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        objective=PathGradient(solver=Solver("rk5", steps=args.solver_steps)),
        checkpoint=args.out / "training.pt",
        seed=args.seed,
    )
    rows: list[dict[str, Any]] = []
    for rung in rungs:
        before = rows[-1]["ladder_seconds"] if rows else 0.0
        rows.append(measure(rung, args) | {"ladder_seconds": before + rung.history.seconds[-1]})
        rung.flow.about = {"action": repr(rung.action), "m2": -4.0, **rows[-1]}
        rung.flow.save(args.out / f"phi4-2d-L{rows[-1]['L']}.pt")
        curves = {str(r.flow.lattice.shape): r.history.to_dict() for r in rungs}
        write_json({"machine": machine, "rows": rows, "curves": curves}, args.out / "ladder.json")
    print(json.dumps(machine))
    shown = [[name, *(_text(row[name]) for row in rows)] for name in rows[0]]
    print_table("ladder at m_p L = 4", ["quantity", *(f"L={row['L']}" for row in rows)], shown)
    save_figure(ladder_curve(rungs), args.out / "ladder.png")


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
