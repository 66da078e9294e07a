"""How much faster sampling and training are than in another version of equiflow, in one run.

Each figure is measured in processes of both versions in turn, on one thread, and given as the median of the
ratios of neighbouring processes. The other version is installed in an environment of its own:

    git worktree add ../version-0.1 v0.1
    python -m venv ../old && ../old/bin/pip install -e ../version-0.1
    python benchmarks/versions.py --other ../old/bin/python
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

#: side: configurations per solve when sampling and when training
BATCHES = {8: (1024, 64), 16: (1024, 64), 32: (256, 16), 64: (64, 8)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--other", type=Path, help="python of an environment with the other version")
parser.add_argument("--L", type=int, nargs="+", default=[8, 16, 32, 64], choices=list(BATCHES), help="sides")
parser.add_argument("--field", default="PotentialField", help="vector field of scalars, or AngleField")
parser.add_argument("--rounds", type=int, default=5, help="processes of each version")
parser.add_argument("--repeats", type=int, default=5, help="measurements in a process; the best counts")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--no-kernels", action="store_true", help="leave the fused kernels of this version out")
parser.add_argument("--seed", type=int, default=0, help="of weights and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")
parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)


def work(args: argparse.Namespace) -> dict[str, float]:
    """Measure the version of equiflow that this process imports: nanoseconds per site and evaluation."""
    import torch

    import equiflow
    from equiflow import EquivariantCNF, Lattice, Phi4
    from equiflow.solvers import Solver

    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, args.dtype))
    figures: dict[str, float] = {}
    for side in args.L:
        torch.manual_seed(args.seed)
        lattice, action = Lattice((side, side)), None
        space = lattice
        if args.field == "AngleField":
            space = equiflow.Angles(lattice)
            action = equiflow.XYModel(space, beta=0.5)
        field = getattr(equiflow, args.field)(space)
        solver = Solver("rk4", steps=4)
        flow = EquivariantCNF(space, vector_field=field, solver=solver)
        for weight in field.parameters():
            weight.data += 0.02 * torch.randn_like(weight)
        action = action or Phi4(lattice, m2=-4.0, lam=5.0)
        sampling, training = BATCHES[side]
        objective = equiflow.PathGradient(solver=solver)

        def sample(flow: EquivariantCNF = flow, n: int = sampling) -> None:
            flow.sample_and_log_prob(n)

        def train(flow: EquivariantCNF = flow, n: int = training, action=action, objective=objective) -> None:
            flow.zero_grad()
            value = objective(flow, action, n)
            getattr(value, "surrogate", value).backward()

        for name, call, batch in (("sampling", sample, sampling), ("training", train, training)):
            call()
            best = min(_seconds(call) for _ in range(args.repeats))
            figures[f"{name} L={side}"] = 1e9 * best / (batch * side**2 * 16)
    return figures


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def figures_of(python: Path, arguments: list[str], *, kernels: bool) -> dict[str, float]:
    """Measure the version that an interpreter imports, in a process of its own."""
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    environment = {**os.environ, **one, "EQUIFLOW_FUSED": str(int(kernels))}
    command = [str(python), str(Path(__file__).resolve()), "--worker", *arguments]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    if args.other is None:
        parser.error("give --other, the python of an environment with the other version")
    given = ["--L", *map(str, args.L), "--field", args.field, "--repeats", str(args.repeats)]
    given += ["--dtype", args.dtype, "--seed", str(args.seed)]
    figures_of(Path(sys.executable), given, kernels=not args.no_kernels)  # compiles the kernels
    rounds = []
    for _ in range(args.rounds):
        old = figures_of(args.other, given, kernels=True)
        new = figures_of(Path(sys.executable), given, kernels=not args.no_kernels)
        rounds.append((old, new))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "solver": "rk4 (3/8), 4 steps, 16 evaluations (training: path gradients, forward and backward)",
        "batches": {side: BATCHES[side] for side in args.L},
        **{k: v for k, v in vars(args).items() if k not in ("other", "out", "worker", "L")},
    }
    print(json.dumps(machine))
    print("| | other, ns per site and evaluation | this | ratio | its spread |\n|---|---|---|---|---|")
    rows = {}
    for name in rounds[0][0]:
        ratios = [old[name] / new[name] for old, new in rounds]
        before, after = (statistics.median(pair[i][name] for pair in rounds) for i in (0, 1))
        spread = (min(ratios), max(ratios))
        rows[name] = {"other": before, "this": after, "ratio": statistics.median(ratios), "spread": spread}
        print(
            f"| {name} | {before:.1f} | {after:.1f} | {statistics.median(ratios):.2f} | "
            f"{spread[0]:.2f} to {spread[1]:.2f} |"
        )
    if args.out is not None:
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
