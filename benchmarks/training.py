"""What does training cost by default? ESS against processor time and evaluations, beside version 0.1.

Trains with nothing but `fit(flow, action)`, from nothing and without a ladder, at the couplings of the
presets (m2 = -4, m_p L = 4), near the critical coupling and in the broken phase. The same is done with what
version 0.1 took by default. The ESS is that of fresh samples by an accurate solver. Cost is the processor
time of the training, checks of the solver included, which neighbours on a shared machine change little, and
the number of evaluations of the field times samples in its steps, which does not depend on the machine.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

import equiflow
from equiflow import (
    EquivariantCNF,
    Lattice,
    PathGradient,
    Phi4,
    Solver,
    SolverError,
    TrainingDivergedError,
    fit,
    importance_sample,
)
from equiflow.report import print_table, write_json
from equiflow.training import History
from equiflow.vector_fields import VECTOR_FIELDS

#: side -> lam of the presets
M_PL_4 = {4: 8.0, 8: 6.008, 16: 4.97, 32: 4.572, 64: 4.398}
CRITICAL, BROKEN = 4.24, 3.5
M2 = -4.0

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--cases", nargs="+", default=["4", "8", "16", "32", "12@4.24", "16@4.24", "16@3.5"],
                    help="sides, each with a coupling lam unless it is that of the preset")  # fmt: skip
parser.add_argument(
    "--recipes", nargs="+", default=["today", "0.1"], choices=["today", "0.1"], help="to compare"
)
parser.add_argument("--field", default="PotentialField", choices=list(VECTOR_FIELDS), help="what is trained")
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training each")
parser.add_argument("--steps", type=int, help="optimiser steps, instead of those by default")
parser.add_argument("--samples", type=int, default=4096, help="fresh samples per ESS")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--out", type=Path, help="JSON file for the figures, to which cases are added")


@dataclass(frozen=True)
class Case:
    """A lattice and a coupling."""

    side: int
    lam: float

    @classmethod
    def read(cls, text: str) -> "Case":
        """Read `16` or `16@4.24`."""
        side, _, lam = text.partition("@")
        return cls(int(side), float(lam) if lam else M_PL_4[int(side)])

    @property
    def action(self) -> Phi4:
        return Phi4(Lattice((self.side, self.side)), m2=M2, lam=self.lam)


@dataclass(frozen=True)
class Trained:
    """The result of one training; `ess` is NaN if it diverged, and `ended` says when."""

    side: int
    lam: float
    recipe: str
    seed: int
    ess: float
    ess_error: float
    seconds: float
    evaluations: float
    steps: int
    batch_size: int
    rate: float
    nfe: tuple[int, int]
    set_back: int
    ended: str


def by_today(flow: EquivariantCNF, action: Phi4, seed: int, steps: int | None) -> History:
    return fit(flow, action, seed=seed, steps=steps, progress=False)


def by_version_0_1(flow: EquivariantCNF, action: Phi4, seed: int, steps: int | None) -> History:
    """Train with the arguments that version 0.1 took by default, at its law of learning rates."""
    rate = flow.learning_rate
    if type(flow.vector_field).__name__ == "PotentialField":
        rate = 8e-2 * min(1.0, 256 / flow.lattice.volume)
    return fit(
        flow,
        action,
        seed=seed,
        steps=600 if steps is None else steps,
        batch_size=128,
        learning_rate=rate,
        objective=PathGradient(solver=flow.training_solver),
        optimiser=partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-8),
        progress=False,
    )


RECIPES: dict[str, Callable[..., History]] = {"today": by_today, "0.1": by_version_0_1}


def train(case: Case, recipe: str, seed: int, args: argparse.Namespace) -> Trained:
    """Train once, and measure the result on fresh samples."""
    torch.manual_seed(seed)  # of the initial weights
    lattice = case.action.lattice
    flow = EquivariantCNF(lattice, vector_field=VECTOR_FIELDS[args.field](lattice))
    flow = flow.to(getattr(torch, args.dtype))
    batch_size = 128 if recipe == "0.1" else flow.training_batch_size
    start, ended = time.process_time(), ""
    try:
        history = RECIPES[recipe](flow, case.action, seed, args.steps)
    except TrainingDivergedError as error:
        history, ended = error.history, f"diverged at step {len(error.history) + 1}"
    seconds = time.process_time() - start
    ess, error = (math.nan, math.nan) if ended else measured(flow, case.action, seed, args.samples)
    return Trained(
        side=case.side,
        lam=case.lam,
        recipe=recipe,
        seed=seed,
        ess=ess,
        ess_error=error,
        seconds=seconds,
        evaluations=float(sum(history.nfe)) * batch_size,
        steps=len(history),
        batch_size=batch_size,
        rate=max(history.learning_rate),
        nfe=(min(history.nfe), max(history.nfe)),
        set_back=sum("set back" in note for note in history.notes),
        ended=ended,
    )


def measured(flow: EquivariantCNF, action: Phi4, seed: int, n_samples: int) -> tuple[float, float]:
    """Return the reverse ESS of fresh samples and its error, by an accurate solver."""
    flow.solver = Solver("rk5", steps=12)
    generator = torch.Generator().manual_seed(1000 + seed)
    try:
        ensemble = importance_sample(flow, action, n_samples, batch_size=512, certify=0, generator=generator)
    except (SolverError, ValueError):  # finite weights whose fields are not
        return math.nan, math.nan
    ess = ensemble.effective_sample_size()
    return ess.mean, ess.error


def row(runs: list[Trained]) -> list[object]:
    """Return a line of the table: what several seeds have in common."""
    first = runs[0]
    ess = "  ".join(r.ended or f"{r.ess:.4f}({1e4 * r.ess_error:.0f})" for r in runs)
    low, high = min(r.nfe[0] for r in runs), max(r.nfe[1] for r in runs)
    return [
        first.side,
        f"{first.lam:g}",
        first.recipe,
        f"{first.steps} x {first.batch_size}",
        f"{first.rate:.2g}",
        f"{low}" if low == high else f"{low}-{high}",
        f"{statistics.median(r.evaluations for r in runs) / 1e3:.0f}",
        f"{statistics.median(r.seconds for r in runs):.1f}",
        ess,
        sum(r.set_back for r in runs),
    ]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "kernels": kernels(),
        "clock": "processor time",
        **{name: value for name, value in vars(args).items() if name not in ("out", "cases", "recipes")},
    }
    print(json.dumps(machine), flush=True)
    content = {"machine": machine, "runs": []}
    if args.out is not None and args.out.exists():
        content["runs"] = json.loads(args.out.read_text())["runs"]
    for recipe in args.recipes:  # kernels are compiled on their first use, and plans of transforms made
        train(Case.read("4"), recipe, 0, argparse.Namespace(**vars(args) | {"steps": 6, "samples": 64}))
    table = []
    for case in map(Case.read, args.cases):
        for recipe in args.recipes:
            runs = []
            for seed in args.seeds:
                runs.append(train(case, recipe, seed, args))
                print(json.dumps(asdict(runs[-1])), flush=True)
                content["runs"].append(
                    asdict(runs[-1]) | {"field": args.field, "kernels": machine["kernels"]}
                )
                if args.out is not None:  # JSON has no NaN
                    clean = json.loads(json.dumps(content), parse_constant=lambda _: None)
                    write_json(clean, args.out)
            table.append(row(runs))
    header = ["L", "lam", "recipe", "steps x batch", "rate", "nfe", "1000 evaluations x samples", "seconds",
              "reverse ESS by seed", "set back"]  # fmt: skip
    print_table(f"{args.field}, m2 = {M2:g}: training from nothing by default", header, table)


def kernels() -> str:
    """Return whether fused kernels are in use, in words."""
    try:
        from equiflow.fused import just_in_time
    except ImportError:
        return "none"
    return just_in_time.state()


if __name__ == "__main__":
    main()
