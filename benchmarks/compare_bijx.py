"""equiflow beside bijx (JAX; arXiv:2207.00283): training step, sampling, time to an ESS, same architecture.

bijx is installed in an environment of its own under `--env` and answers through a pipe, so that both sides
take turns on the same core within one run. Both have the same features, time basis, kernels that span the
lattice, D4 x Z2, learnable free-field prior, precision, batch and number of velocity evaluations. What
differs: bijx convolves directly where equiflow uses FFTs, and multiplies its features by a square matrix.
`--convolution fft` makes bijx convolve by FFTs, patched from outside of its package: that shows which part of
the ratio is due to the algorithm.

Times are of the processor with one thread (a busy machine does not stretch them) and of the wall with more.
`bijx at its defaults` costs minutes; ask for it with `--defaults`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import equiflow
from equiflow import (
    EquivariantCNF,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    fit,
    fused,
    importance_sample,
)
from equiflow.report import print_table, write_json
from equiflow.statistics import effective_sample_size, log_mean_exp

M_PL_4 = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.97, 20: 4.807, 32: 4.572}
MAX_FREQUENCY = 8.0
#: Equal velocity evaluations: 8 steps of rk4 are 32; 5 of rk5 are 30, 5 of diffrax's Tsit5 are 31.
RK4_STEPS, FIFTH_ORDER_STEPS = 8, 5
#: bijx's tutorial decays Adam's rate tenfold over this many steps.
DECAY_STEPS = 200
CHUNK = 512  # samples at a time, on both sides
FIT_STEPS = 5  # of one timing of equiflow

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[8, 12, 16], choices=list(M_PL_4), help="sides")
parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 128], help="of the timed steps")
parser.add_argument("--goal-batch", type=int, default=64, help="batch of the trainings to the goal")
parser.add_argument("--frequencies", type=int, default=8, help="sine features")
parser.add_argument("--time-modes", type=int, default=4, help="modes of the kernels' time dependence")
parser.add_argument("--rounds", type=int, default=3, help="turns of each side per timing, after a warm-up")
parser.add_argument("--samples", type=int, default=2048, help="fresh samples per ESS")
parser.add_argument("--goal", type=float, default=0.9, help="reverse ESS to reach")
parser.add_argument("--accuracy", type=float, default=1e-3, help="change of log Z under doubled steps")
parser.add_argument("--seconds", type=float, default=120, help="longest training to the goal; 0: none")
parser.add_argument("--rates", type=float, nargs="+", default=[1e-2, 2e-2, 3e-2], help="bijx's, best kept")
parser.add_argument(
    "--convolution", default="direct", choices=["direct", "fft"], help="bijx's: its own, or patched"
)
parser.add_argument("--defaults", action="store_true", help="also bijx's own defaults, batch 64")
parser.add_argument("--default-seconds", type=float, default=20, help="no further default step after this")
parser.add_argument(
    "--env", type=Path, default=Path(tempfile.gettempdir()) / "bijx-env", help="bijx's folder"
)
parser.add_argument("--threads", type=int, default=1, help="CPU threads (and cores) of each side")
parser.add_argument("--device", default="cpu", choices=["cpu"], help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32"], help="precision, bijx's default")
parser.add_argument("--seed", type=int, default=0, help="of initial weights, training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


class Bijx:
    """The worker process, called like a function."""

    def __init__(self, python: Path, threads: int) -> None:
        flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} intra_op_parallelism_threads={threads}",
        }
        worker = Path(__file__).with_name("_bijx_worker.py")
        self.process = subprocess.Popen(
            [python, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, command: str, **arguments: object) -> dict:
        self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"The bijx worker ended with code {self.process.wait()} on {command!r}.")
        answer = json.loads(answer)
        if "error" in answer:
            raise SystemExit(f"The bijx worker failed on {command!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def environment_with_bijx(folder: Path) -> Path:
    """Return the Python of an environment with bijx; make the environment if it is missing."""
    if sys.version_info < (3, 11):
        raise SystemExit("bijx needs Python >= 3.11; run this benchmark with a newer one.")
    builder = venv.EnvBuilder(with_pip=True)
    python = Path(builder.ensure_directories(folder).env_exe)

    def works() -> bool:
        return (
            python.exists()
            and not subprocess.run([python, "-c", "import bijx"], capture_output=True).returncode
        )

    if not works():
        builder.create(folder)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "bijx"], check=True)
    return python


def hold_to_cores(threads: int) -> None:
    """Pin both sides to the same few cores; the thread options of neither library bind all its threads."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def timed(function: Callable[[], object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def take_turns(sides: dict[str, Callable[[], dict[str, float]]], rounds: int, clock: str) -> dict[str, list]:
    """Return the seconds of each side in each round. The first round warms up and is dropped."""
    seconds: dict[str, list] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            seconds[name].append(side()[clock])
    return {name: values[1:] for name, values in seconds.items()}


def shown(values: Iterable[float], factor: float = 1.0) -> str:
    """Format the median, with half the range beside it."""
    values = [factor * value for value in values]
    median, half_range = statistics.median(values), (max(values) - min(values)) / 2
    return f"{median:.0f} ± {half_range:.0f}" if median > 100 else f"{median:.3g} ± {half_range:.1g}"


def ratios(above: Iterable[float], below: Iterable[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


class Comparison:
    """One lattice, both libraries."""

    def __init__(self, side: int, bijx: Bijx, args: argparse.Namespace) -> None:
        self.side, self.bijx, self.args = side, bijx, args
        self.clock = "cpu" if args.threads == 1 else "wall"
        self.lattice = Lattice((side, side))
        self.action = Phi4(self.lattice, m2=-4.0, lam=M_PL_4[side])

    def flow(self, solver: Solver | None = None) -> EquivariantCNF:
        torch.manual_seed(self.args.seed)
        field = OrbitConvField(
            self.lattice,
            n_frequencies=self.args.frequencies,
            n_time_modes=self.args.time_modes,
            max_frequency=MAX_FREQUENCY,
        )
        flow = EquivariantCNF(self.lattice, vector_field=field, solver=solver)
        return flow.to(self.args.device, getattr(torch, self.args.dtype))

    def build(self, name: str, *, defaults: bool = False) -> int:
        model = {
            "defaults": defaults,
            "n_frequencies": self.args.frequencies,
            "n_time_modes": self.args.time_modes,
            "max_frequency": MAX_FREQUENCY,
        }
        built = self.bijx(
            "build", name=name, side=self.side, lam=M_PL_4[self.side], model=model, seed=self.args.seed
        )
        return built["parameters"]

    def action_difference(self) -> tuple[float, float]:
        """Return mean and largest deviation of the difference of both actions on random configurations."""
        generator = torch.Generator().manual_seed(self.args.seed)
        phi = torch.randn(16, *self.lattice.shape, generator=generator)
        theirs = self.bijx("action", phi=phi.tolist(), m2=-4.0, lam=M_PL_4[self.side])["values"]
        difference = torch.tensor(theirs) - self.action(phi)
        return float(difference.mean()), float((difference - difference.mean()).abs().max())

    # Training steps and sampling

    def fit_step(self, flow: EquivariantCNF, objective: object, batch_size: int) -> dict[str, float]:
        steps = {"steps": FIT_STEPS, "batch_size": batch_size, "seed": self.args.seed, "progress": False}
        once = timed(lambda: fit(flow, self.action, objective=objective, **steps))
        return {clock: seconds / FIT_STEPS for clock, seconds in once.items()}

    def bijx_step(self, name: str) -> dict[str, float]:
        once = self.bijx("train", name=name, repeats=1, limit=1e9, clock=self.clock)
        return {"wall": once["wall"][0], "cpu": once["cpu"][0]}

    def training_steps(self, batch_size: int) -> dict[str, object]:
        rk4, rk5 = Solver("rk4", steps=RK4_STEPS), Solver("rk5", steps=FIFTH_ORDER_STEPS)
        own, like = self.flow(), self.flow(rk4)
        options = {"batch_size": batch_size, "learning_rate": 1e-3, "decay_steps": DECAY_STEPS}
        prepared, parameters = {}, 0
        for solver, steps in (("rk4", RK4_STEPS), ("tsit5", FIFTH_ORDER_STEPS)):
            parameters = self.build(solver)
            prepared[solver] = self.bijx("prepare", name=solver, solver=solver, steps=steps, **options)
        seconds = take_turns(
            {
                "equiflow rk4": lambda: self.fit_step(like, ReverseKL(), batch_size),
                "bijx rk4": lambda: self.bijx_step("rk4"),
                "equiflow own": lambda: self.fit_step(own, PathGradient(solver=rk5), batch_size),
                "bijx tsit5": lambda: self.bijx_step("tsit5"),
            },
            self.args.rounds,
            self.clock,
        )
        return {
            "L": self.side,
            "batch_size": batch_size,
            "parameters": [sum(p.numel() for p in own.parameters()), parameters],
            "nfe": {
                "rk4": prepared["rk4"]["nfe"],
                "rk5": 6 * FIFTH_ORDER_STEPS,
                "tsit5": prepared["tsit5"]["nfe"],
            },
            "seconds": seconds,
            "bijx_compile_seconds": [prepared[name]["compile_seconds"] for name in prepared],
            "ratio_rk4": ratios(seconds["bijx rk4"], seconds["equiflow rk4"]),
            "ratio_own": ratios(seconds["bijx tsit5"], seconds["equiflow own"]),
        }

    def sampling(self, flow: EquivariantCNF, name: str, steps: tuple[int, int]) -> dict[str, object]:
        """Return the seconds for a chunk of samples with log q, by rk4 on both sides."""
        flow.solver = Solver("rk4", steps=steps[0])
        options = {"solver": "rk4", "steps": steps[1], "n_samples": CHUNK, "batch_size": CHUNK, "repeats": 1}
        compiled: dict[str, float] = {}

        def theirs() -> dict[str, float]:
            once = self.bijx("sample", name=name, **options)
            compiled["seconds"] = once["compile_seconds"]
            return {"wall": once["wall"][0], "cpu": once["cpu"][0]}

        seconds = take_turns(
            {"equiflow": lambda: timed(lambda: flow.sample_and_log_prob(CHUNK)), "bijx": theirs},
            self.args.rounds,
            self.clock,
        )
        return {
            "nfe": [4 * n for n in steps],
            "samples_per_second": {side: [CHUNK / s for s in values] for side, values in seconds.items()},
            "ratio": ratios(seconds["bijx"], seconds["equiflow"]),
            "bijx_compile_seconds": compiled["seconds"],
        }

    # Training to the goal

    def our_weights(self, flow: EquivariantCNF, steps: int) -> Tensor:
        flow.solver = Solver("rk4", steps=steps)
        generator = torch.Generator(self.args.device).manual_seed(self.args.seed + 1)
        samples = {"batch_size": CHUNK, "certify": 0, "generator": generator}
        return importance_sample(flow, self.action, self.args.samples, **samples).log_weight.double()

    def their_weights(self, name: str, n_samples: int, steps: int) -> Tensor:
        options = {"solver": "rk4", "batch_size": CHUNK, "seed": self.args.seed + 1}
        answer = self.bijx("log_weights", name=name, steps=steps, n_samples=n_samples, **options)
        return torch.tensor(answer["log_weight"], dtype=torch.float64)

    def certified(self, weights: Callable[[int], Tensor]) -> dict[str, object]:
        """Return ESS and log Z; the steps of rk4 are doubled until log Z no longer moves."""
        steps, coarse = RK4_STEPS, weights(RK4_STEPS)
        while True:
            fine = weights(2 * steps)
            shift = float(fine.logsumexp(0) - coarse.logsumexp(0))
            if abs(shift) <= self.args.accuracy or steps >= 128:
                break
            steps, coarse = 2 * steps, fine
        ess, log_z = effective_sample_size(coarse), log_mean_exp(coarse)
        return {
            "rk4_steps": steps,
            "log_z_shift": shift,
            "ess": ess.mean,
            "ess_error": ess.error,
            "log_z": log_z.mean,
            "log_z_error": log_z.error,
        }

    def our_training(self) -> tuple[EquivariantCNF, dict[str, object]]:
        """Find the shortest complete training, on a geometric ladder, whose fresh ESS reaches the goal."""
        steps = 50
        while True:
            flow = self.flow()
            options = {"steps": steps, "batch_size": self.args.goal_batch, "progress": False}
            spent = timed(partial(fit, flow, self.action, seed=self.args.seed, **options))
            quality = self.certified(partial(self.our_weights, flow))
            row = {"steps": steps, **spent, "seconds": spent[self.clock], **quality}
            if row["ess"] >= self.args.goal or 1.4 * row["seconds"] > self.args.seconds:
                return flow, row
            steps = round(1.4 * steps)

    def their_training(self) -> dict[str, object]:
        """Train bijx a sixth of the time at each rate, the rest at the best; the others are not charged."""
        options = {"solver": "tsit5", "steps": FIFTH_ORDER_STEPS, "batch_size": self.args.goal_batch}
        share, runs = self.args.seconds / 6, {}
        for rate in self.args.rates:
            name = f"rate {rate:g}"
            self.build(name)
            compiled = self.bijx("prepare", name=name, learning_rate=rate, decay_steps=DECAY_STEPS, **options)
            runs[name] = {"rate": rate, "steps": 0, "wall": 0.0, "cpu": 0.0, **compiled}
            self.train_on(name, runs[name], share)
        name = max(runs, key=lambda name: runs[name]["monitor"])
        run = runs[name]
        while not self.reached(name, run) and run[self.clock] < self.args.seconds:
            self.train_on(name, run, min(share / 2, self.args.seconds - run[self.clock]))
        quality = run.get("quality") or self.certified(partial(self.their_weights, name, self.args.samples))
        first = {f"{run['rate']:g}": run["first_monitor"] for run in runs.values()}
        run = {k: v for k, v in run.items() if k not in ("quality", "first_monitor")}
        return {"name": name, **run, "seconds": run[self.clock], "first_ess_by_rate": first, **quality}

    def train_on(self, name: str, run: dict, seconds: float) -> None:
        trained = self.bijx("train", name=name, repeats=10**6, limit=seconds, clock=self.clock)
        run["steps"] += len(trained["cpu"])
        run["wall"] += sum(trained["wall"])
        run["cpu"] += sum(trained["cpu"])
        run["monitor"] = effective_sample_size(self.their_weights(name, CHUNK, RK4_STEPS)).mean
        run.setdefault("first_monitor", run["monitor"])

    def reached(self, name: str, run: dict) -> bool:
        """Whether the goal is reached, decided on many certified samples; training is watched with few."""
        if run["monitor"] < self.args.goal - 0.02:
            return False
        quality = self.certified(partial(self.their_weights, name, self.args.samples))
        if quality["ess"] >= self.args.goal:
            run["quality"] = quality
        return "quality" in run

    # bijx as it comes

    def defaults(self) -> dict[str, object]:
        """Time a step of bijx at its defaults: 49 frequencies, 21 time modes reduced to 20, normal prior.

        The solvers: that of `ContFlowDiffrax` when nothing is said, and half its steps as in the tutorial.
        """
        flow, batch_size = self.flow(), 64
        ours = [self.fit_step(flow, None, batch_size)[self.clock] for _ in range(3)][1:]
        row: dict[str, object] = {"L": self.side, "batch_size": batch_size, "equiflow": ours}
        for label, solver, steps in (("default", "default", 20), ("tutorial", "tsit5", 10)):
            row["parameters"] = self.build("default", defaults=True)
            options = {"batch_size": batch_size, "learning_rate": 1e-3, "decay_steps": DECAY_STEPS}
            prepared = self.bijx("prepare", name="default", solver=solver, steps=steps, **options)
            limit = {"repeats": 3, "limit": self.args.default_seconds, "clock": self.clock}
            trained = self.bijx("train", name="default", **limit)
            row[label] = {**prepared, "seconds": trained[self.clock], "wall": trained["wall"]}
        return row


def print_training(rows: list[dict], clock: str) -> None:
    """Print a table: the same method on both sides, then the default method of each library."""
    sides = ("equiflow rk4", "bijx rk4", "ratio_rk4", "equiflow own", "bijx tsit5", "ratio_own")
    table = []
    for row in rows:
        cells = [shown(row[s]) if s in row else shown(row["seconds"][s], 1e3) for s in sides]
        jit = " ".join(f"{seconds:.0f}" for seconds in row["bijx_compile_seconds"])
        parameters = " ".join(map(str, row["parameters"]))
        table.append([f"{row['L']}, {row['batch_size']}", *cells, jit, parameters])
    header = ["L, batch", "equiflow", "bijx", "ratio", "equiflow own", "bijx Tsit5", "ratio"]
    title = f"""training step, ms of {clock} time, median ± half range
equiflow and bijx: reverse KL, rk4 x 8 (nfe 32); bijx Tsit5: the same by diffrax, 5 steps (nfe 31)
equiflow own: path gradient, rk5 x 5 (nfe 30); jit: seconds, bijx, apart"""
    print_table(title, [*header, "jit", "parameters"], table)


def print_sampling(title: str, rows: list[dict], clock: str) -> None:
    table = [
        [f"{side}, samples/s", *(shown(r["samples_per_second"][side]) for r in rows)]
        for side in ("equiflow", "bijx")
    ]
    table += [
        ["bijx / equiflow, time per sample", *(shown(r["ratio"]) for r in rows)],
        ["nfe, equiflow and bijx", *(", ".join(map(str, r["nfe"])) for r in rows)],
        ["bijx: jit, s, apart", *(f"{r['bijx_compile_seconds']:.1f}" for r in rows)],
    ]
    print_table(f"{title} ({clock} time)", ["sampling with log q", *(f"L={r['L']}" for r in rows)], table)


def print_goal(rows: list[dict], args: argparse.Namespace) -> None:
    table = []
    for row in rows:
        for side in ("equiflow", "bijx"):
            run = row[side]
            reached = run["ess"] >= args.goal
            table.append(
                [
                    f"L={row['L']} {side}",
                    f"{run['seconds']:.1f}" if reached else f"not in {run['seconds']:.0f}",
                    run["steps"],
                    f"{run['ess']:.3f} ± {run['ess_error']:.3f}",
                    f"{run['log_z']:.3f} ± {run['log_z_error']:.3f}",
                    f"{run['log_z_shift']:+.0e} ({4 * run['rk4_steps']})",
                    f"{run['rate']:g}" if "rate" in run else "default",
                ]
            )
    header = ["", "seconds", "steps", "reverse ESS", "log Z", "shift (nfe)", "rate"]
    title = f"training to reverse ESS >= {args.goal}, batch {args.goal_batch}, {args.samples} fresh samples"
    print_table(title, header, table)


def print_defaults(rows: list[dict], clock: str) -> None:
    table = [["equiflow at its defaults", *(shown(r["equiflow"]) for r in rows)]]
    for label in ("default", "tutorial"):
        nfe = rows[0][label]["nfe"]
        table.append(
            [f"bijx, {label} solver (nfe {nfe})", *(shown(r[label]["seconds"]) for r in rows)],
        )
        table.append(["  steps timed", *(len(r[label]["seconds"]) for r in rows)])
        table.append(["  jit, s, apart", *(f"{r[label]['compile_seconds']:.1f}" for r in rows)])
        table.append(
            [
                "  over equiflow",
                *(
                    f"{statistics.median(r[label]['seconds']) / statistics.median(r['equiflow']):.3g}"
                    for r in rows
                ),
            ]
        )
    table.append(["bijx: parameters", *(r["parameters"] for r in rows)])
    print_table(
        f"bijx at its defaults, s per step ({clock})",
        ["", *(f"L={r['L']}" for r in rows)],
        table,
    )


def main() -> None:
    args = parser.parse_args()
    python = environment_with_bijx(args.env)
    hold_to_cores(args.threads)
    bijx = Bijx(python, args.threads)
    difference = bijx("convolve", method=args.convolution)["difference"]
    print(f"bijx's convolution: {args.convolution}, off from its own by {difference:.0e}")
    sides = [Comparison(side, bijx, args) for side in args.L]
    clock = sides[0].clock
    machine = {
        "processor": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "fused kernels": fused.state(),
        "bijx side": bijx("versions"),
        **{k: v for k, v in vars(args).items() if k not in ("L", "out", "env")},
    }
    print(json.dumps(machine))
    differences = [side.action_difference() for side in sides]
    table = [
        [f"L={c.side}", f"{mean:.1e}", f"{spread:.1e}"]
        for c, (mean, spread) in zip(sides, differences, strict=True)
    ]
    print_table("bijx's action less equiflow's", ["", "constant", "largest deviation"], table)

    training, sampling = [], []
    for side in sides:
        training += [side.training_steps(batch_size) for batch_size in args.batch_size]
        # At once: the worker keeps one model a name, and the next side builds another under it.
        sampling.append({"L": side.side, **side.sampling(side.flow(), "rk4", (RK4_STEPS, RK4_STEPS))})
    print_training(training, clock)
    print_sampling("sampling with equal evaluations", sampling, clock)
    results = {"machine": machine, "action": differences, "training": training, "sampling": sampling}
    goal, certified = [], []
    for side in sides if args.seconds else []:
        flow, ours = side.our_training()
        theirs = side.their_training()
        goal.append({"L": side.side, "equiflow": ours, "bijx": theirs})
        steps = ours["rk4_steps"], theirs["rk4_steps"]
        certified.append({"L": side.side, **side.sampling(flow, theirs["name"], steps)})
    if goal:
        print_goal(goal, args)
        print_sampling(f"sampling, log Z stable to {args.accuracy:g}", certified, clock)
    results |= {"goal": goal, "certified_sampling": certified}
    if args.defaults:
        defaults = [side.defaults() for side in sides]
        print_defaults(defaults, clock)
        results["defaults"] = defaults
    bijx.close()
    if args.out is not None:
        write_json(results, args.out)


if __name__ == "__main__":
    main()
