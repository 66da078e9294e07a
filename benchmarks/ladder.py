"""Large lattices by way of small ones: the recipe, the curve and the table, at m_p L = 4.

Trains each lattice in turn with `fit_ladder`, from what was learned on the one before, and measures every
rung on fresh samples: reverse and forward ESS, log Z with the solver's share of its error, and the processor
time of training. Writes a flow per rung (`EquivariantCNF.load`; those in the package,
`EquivariantCNF.pretrained`, come from here), the figures as JSON and the training curve as a picture.
Interrupted, it goes on where it was; a rung that is finished is only read.

    python benchmarks/ladder.py --out runs/ladder                             # 16 -> 32 -> 64 -> 128
    python benchmarks/ladder.py --L 16 32 --out runs/L32                      # the first rungs of it
    python benchmarks/ladder.py --kernels orbits --out runs/orbits            # a weight per orbit
    python benchmarks/ladder.py --start runs/L32/phi4-2d-L32.pt --L 64 --out runs/L64
    python benchmarks/ladder.py --mass 128 --lam 4.30 4.32 --hmc 16000        # which lam has m_p L = 4
    python benchmarks/ladder.py --L 8 16 32 --steps 300 300 900 --batch-size 128 128 64 \
        --learning-rate 8e-2 4e-2 1e-2 --out runs/short                       # another recipe
"""

import argparse
import copy
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import equiflow
from equiflow import HMC, Alternate, EquivariantCNF, Lattice, Phi4, SwendsenWang, fit_ladder, measure
from equiflow.analysis import diagnose
from equiflow.report import print_table, write_json
from equiflow.report.plots import ladder_curve, save_figure
from equiflow.samplers import Chain, importance_sample
from equiflow.training import History, Rung
from equiflow.vector_fields import VECTOR_FIELDS

#: L -> lam at m2 = -4; that of L = 128 by `--mass`
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
    128: 4.316,
}
#: kernels -> L -> optimiser steps, batch and learning rate. Smooth kernels learn from all modes at once what
#: kernels of orbits learn mode by mode, the more noisily the larger the lattice
RECIPES = {
    "smooth": {16: (2400, 16, 8e-2), 32: (6000, 16, 2e-2), 64: (3500, 16, 1e-2), 128: (2000, 8, 8e-3)},
    "orbits": {16: (2400, 16, 8e-2), 32: (8000, 16, 2e-2), 64: (6000, 16, 1e-2), 128: (2500, 4, 5e-3)},
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[16, 32, 64, 128], choices=list(M_PL_4), help="sides")
parser.add_argument("--steps", type=int, nargs="+", help="per rung; by default those of the recipe here")
parser.add_argument(
    "--batch-size", type=int, nargs="+", help="one for all, or per rung; by default the recipe's"
)
parser.add_argument("--learning-rate", type=float, nargs="+", help="per rung; by default the recipe's")
parser.add_argument("--field", default="PotentialField", choices=list(VECTOR_FIELDS), help="without --start")
parser.add_argument("--kernels", default="smooth", choices=["smooth", "orbits"], help="and their recipe")
parser.add_argument("--time-modes", type=int, default=4, help="of the kernels, without --start")
parser.add_argument("--start", type=Path, help="flow to start from, of any side")
parser.add_argument("--accuracy", type=float, default=5e-3, help="largest solver error of log Z")
parser.add_argument("--samples", type=int, default=2048, help="fresh model samples per rung")
parser.add_argument("--hmc", type=int, default=1024, help="target samples per rung for the forward ESS")
parser.add_argument("--mass", type=int, help="only measure m_p L on a lattice of this side")
parser.add_argument("--lam", type=float, nargs="+", default=[4.30, 4.32], help="couplings of --mass")
parser.add_argument("--compile", action="store_true", help="compile the vector field")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for flows, figures and checkpoints")


class Clock:
    """Processor time of a training, kept in a file so that it counts across interruptions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = float(path.read_text()) if path.exists() else 0.0
        self.last: float | None = None

    def __call__(self, history: History) -> None:
        # After resuming, it is called for earlier steps at once, which takes no time.
        now = time.process_time()
        self.seconds += now - (now if self.last is None else self.last)
        self.last = now
        if len(history) % 50 == 0:
            self.stop()

    def stop(self) -> None:
        self.path.write_text(str(self.seconds))


def first_flow(args: argparse.Namespace) -> EquivariantCNF:
    lattice = Lattice((args.L[0],) * 2)
    if args.start is not None:
        return EquivariantCNF.load(args.start, device=args.device, compile=args.compile).resized(lattice)
    options = {"kernels": args.kernels} if args.field in ("PotentialField", "OrbitConvField") else {}
    field = VECTOR_FIELDS[args.field](lattice, n_time_modes=args.time_modes, **options)
    flow = EquivariantCNF(lattice, vector_field=field, compile=args.compile)
    return flow.to(args.device, getattr(torch, args.dtype))


def chain_of(action: Phi4, n_samples: int, args: argparse.Namespace, **options: Any) -> Chain:
    """Draw samples of the target by HMC in turn with clusters of the signs, from 32 chains."""
    kernel = Alternate(HMC(action), SwendsenWang(action))
    generator = torch.Generator(args.device).manual_seed(args.seed + 2)
    return kernel.sample(
        max(1, n_samples // 32),
        n_chains=32,
        n_thermalisation=300,
        thin=5,
        generator=generator,
        device=args.device,
        **options,
    )


def measure_rung(rung: Rung, seconds: float, args: argparse.Namespace) -> dict[str, Any]:
    # The next rung starts with the solver that training had, whether this one is measured or read.
    flow, action, side = copy.deepcopy(rung.flow), rung.action, rung.flow.lattice.shape[0]
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    flow.tune_solver(args.accuracy, action=action, n_samples=16, generator=generator)
    batch_size = max(16, min(512, 2**17 // flow.lattice.volume))
    start = time.process_time()
    certify = min(64, max(8, 2**17 // flow.lattice.volume))
    ensemble = importance_sample(
        flow, action, args.samples, batch_size=batch_size, certify=certify, generator=generator
    )
    sampling = time.process_time() - start
    chain = chain_of(action, args.hmc, args, dtype=flow.dtype)
    diagnosis = diagnose(flow, action, ensemble, chain)
    log_z = ensemble.log_z()
    row = {
        "L": side,
        "lam": M_PL_4[side],
        "parameters": sum(p.numel() for p in flow.parameters()),
        "steps": [f"{len(rung.history)} on {side}"],
        "training_seconds": seconds,
        "reverse_ess": diagnosis.reverse_ess.mean,
        "reverse_ess_error": diagnosis.reverse_ess.error,
        "forward_ess": diagnosis.forward_ess.mean,
        "forward_ess_error": diagnosis.forward_ess.error,
        "log_weight_variance_per_site": float(ensemble.log_weight.double().var()) / flow.lattice.volume,
        "log_z": log_z.mean,
        "log_z_error": log_z.error,
        "log_z_shift": ensemble.certificate.log_z_shift,
        "log_z_forward": diagnosis.log_z_forward.mean,
        "log_z_forward_error": diagnosis.log_z_forward.error,
        "nfe": ensemble.certificate.nfe,
        "certified_samples": certify,
        "samples": args.samples,
        "hmc_samples": chain.samples.shape[0] * chain.samples.shape[1],
        "sampling_and_certificate_seconds": sampling,
        "warnings": list(diagnosis.warnings),
    }
    flow.about = {"action": repr(action), "m2": -4.0, **row}
    flow.save(args.out / f"phi4-2d-L{side}.pt")
    return row


def train(rung: int, flow: EquivariantCNF, args: argparse.Namespace) -> tuple[Rung, float]:
    """Train for one lattice, or go on with it, and return its processor time too."""
    side, lattice = args.L[rung], Lattice((args.L[rung],) * 2)
    steps, size, rate = RECIPES[args.kernels].get(side, (None, 16, None))
    steps = args.steps[rung] if args.steps else steps
    rate = args.learning_rate[rung] if args.learning_rate else rate
    size = args.batch_size[min(rung, len(args.batch_size) - 1)] if args.batch_size else size
    clock = Clock(args.out / f"seconds-{M_PL_4[side]}-{side}.txt")
    (done,) = fit_ladder(
        [Phi4(lattice, m2=-4.0, lam=M_PL_4[side])],
        flow=flow.resized(lattice) if rung else flow,
        steps=steps,
        batch_size=size,
        learning_rate=rate,
        checkpoint=args.out / f"training-{M_PL_4[side]}.pt",
        callback=clock,
        seed=args.seed,
    )
    clock.stop()
    return done, clock.seconds


def print_masses(args: argparse.Namespace) -> None:
    for lam in args.lam:
        action = Phi4(Lattice((args.mass,) * 2), m2=-4.0, lam=lam)
        start = time.process_time()
        found = measure(chain_of(action, args.hmc, args, dtype=torch.float64))
        print(f"L = {args.mass}, lam = {lam}, {time.process_time() - start:.0f} s\n{found}", flush=True)


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.mass is not None:
        return print_masses(args)
    if args.out is None:
        parser.error("the folder --out is required")
    args.out.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{n: value for n, value in vars(args).items() if n not in ("out", "start", "mass")},
    }
    rows: list[dict[str, Any]] = []
    rungs: list[Rung] = []
    flow = first_flow(args)
    for n, side in enumerate(args.L):
        rung, seconds = train(n, flow, args)
        flow = rung.flow
        rungs.append(rung)
        row = args.out / f"row-{side}.json"
        if not row.exists():
            write_json(measure_rung(rung, seconds, args), row)
        before = rows[-1]["ladder_seconds"] if rows else 0.0
        rows.append(json.loads(row.read_text()))
        rows[-1]["ladder_seconds"] = before + rows[-1]["training_seconds"]
        curves = {repr(r.action): _thinned(r.history) for r in rungs}
        write_json({"machine": machine, "rows": rows, "curves": curves}, args.out / "ladder.json")
    print(json.dumps(machine))
    shown = [[name, *(_text(row[name]) for row in rows)] for name in rows[0]]
    print_table("ladder at m_p L = 4", ["quantity", *(f"L={row['L']}" for row in rows)], shown)
    save_figure(ladder_curve(rungs), args.out / "ladder.png")


def _thinned(history: History) -> dict[str, list[float]]:
    """Return the curve of a training with about 500 points."""
    step = max(1, len(history) // 500)
    return {"ess": history.ess[::step], "seconds": history.seconds[::step]}


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
