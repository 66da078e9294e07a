"""Which optimiser trains a flow fastest: steps and seconds to a reverse ESS of 0.9.

Four parts: `scan` gives every optimiser its own learning rate at one small lattice, `goal` finds the
shortest complete training that reaches the goal for the best of them and for Adam, `rates` shows where
Adam is stable without tuning, `options` whether clipping or the memory of Adam matters. Seconds are CPU
seconds on a CPU, which neighbours on a shared machine change little, and wall seconds elsewhere.
SOAP and Shampoo come from the package pytorch_optimizer, if it is installed.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import equiflow
from equiflow import (
    EquivariantCNF,
    Lattice,
    Phi4,
    Solver,
    SolverError,
    TrainingDivergedError,
    fit,
    fit_ladder,
    importance_sample,
)
from equiflow.ode import integrate
from equiflow.report import print_table, write_json

M_PL_4 = {4: 8.0, 6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 16: 4.97, 20: 4.807, 32: 4.572}
PARTS = ("scan", "goal", "rates", "options")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to measure")
parser.add_argument("--scan-L", type=int, default=8, choices=list(M_PL_4), help="side of the scan")
parser.add_argument("--L", type=int, nargs="+", default=[8, 16], choices=list(M_PL_4), help="of the goal")
parser.add_argument(
    "--rates-L", type=int, nargs="+", default=[4, 8, 16, 32], help="sides of the table of rates"
)
parser.add_argument("--optimisers", nargs="+", help="names to compare, instead of all")
parser.add_argument("--finalists", type=int, default=2, help="how many go on from the scan, besides Adam")
parser.add_argument("--steps", type=int, default=40, help="optimiser steps per training of the tables")
parser.add_argument("--max-steps", type=int, default=400, help="longest training to try for the goal")
parser.add_argument("--goal", type=float, default=0.9, help="reverse ESS to reach")
parser.add_argument("--batch-size", type=int, default=128, help="samples per optimiser step")
parser.add_argument("--samples", type=int, default=4096, help="fresh samples per ESS")
parser.add_argument("--seeds", type=int, default=1, help="trainings per optimiser at its best rate")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--quick", action="store_true", help="small lattices, one seed: a minute or two")
parser.add_argument("--out", type=Path, help="JSON file for the figures")


class FlowTangents:
    """`d log q(phi) / d theta` at fixed phi for every sample and parameter, without a backward pass.

    Along a trajectory `d/dt (delta log q) = -div(delta v) - delta v . grad log q`: the continuity
    equation, varied. The score comes with the path, so all that is left is a quadrature in time. For an
    `OrbitConvField` on a `MomentumKernel` with odd features, and a `FreeField` prior.
    """

    def __init__(self, flow: EquivariantCNF, *, intervals: int = 6) -> None:
        self.flow, self.field, self.lattice = flow, flow.vector_field, flow.lattice
        orbits = flow.group.momentum_orbits()
        self.orbit = self.lattice.half(orbits.index).flatten().to(flow.device)
        self.multiplicity = orbits.multiplicity.to(flow.device, flow.dtype)
        self.measure = (self.lattice.half_multiplicity().flatten() / self.lattice.volume).to(
            self.multiplicity
        )
        # Gauss-Legendre nodes on [0, 1], by Golub and Welsch.
        n = torch.arange(1, intervals, dtype=torch.float64)
        beta = n / (4 * n.square() - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
        self.nodes, self.weights = ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()

    def parameters(self) -> list[nn.Parameter]:
        """Those that the columns belong to, in their order."""
        return [self.field.kernel.weight, self.flow.prior.log_sigma, self.field.features.omega]

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Tangents at fresh model samples, `(n_samples, parameter)`."""
        phi = self.flow.prior.rsample(n_samples, generator)
        score, t = self.flow.prior.score(phi), 0.0
        of_sigma = -self._overlaps(score, phi[:, None])[:, 0] - self.multiplicity
        of_kernel = of_omega = torch.zeros(())
        for node, weight in zip(self.nodes, self.weights, strict=True):
            phi, score = integrate(self._path, (phi, score), t, node, Solver("rk5", steps=1)).state
            t = node
            kernel_rate, omega_rate = self._rates(phi, score, t)
            of_kernel, of_omega = of_kernel - weight * kernel_rate, of_omega - weight * omega_rate
        return torch.cat([of_kernel.flatten(1), of_sigma, of_omega], 1)

    def _path(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rates = self.field.path_rates(state[0], t, state[1])
        return rates.velocity, rates.score_rate

    def _rates(self, phi: Tensor, score: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`div(dv/dtheta) + score . dv/dtheta` of the kernels and of the frequencies."""
        features, omega = self.field.features(phi), self.field.features.frequencies()[:, None, None]
        site, basis = phi[:, None], self.field.time_basis(t)
        at_origin = self.multiplicity / self.lattice.volume
        slopes = torch.cat([torch.ones_like(site), features.first], 1).sum(self.lattice.axes)
        per_orbit = self._overlaps(score, torch.cat([site, features.value], 1))
        per_orbit = per_orbit + slopes[..., None] * at_origin
        # dh/domega = (phi h' - h) / omega, whose slope is -phi omega h.
        moved = self._overlaps(score, (site * features.first - features.value) / omega)
        slopes = -(site * omega * features.value).sum(self.lattice.axes)
        kernel = torch.einsum("j,jfo->fo", basis, self.field.kernel.weight)[1:]
        of_omega = ((moved + slopes[..., None] * at_origin) * kernel).sum(-1)
        return torch.einsum("j,bfo->bjfo", basis, per_orbit), of_omega

    def _overlaps(self, score: Tensor, values: Tensor) -> Tensor:
        """`sum_{k in orbit} Re(score_k^* value_k) / V`, `(batch, feature, orbit)`."""
        a, b = self.lattice.fft(score)[:, None], self.lattice.fft(values)
        product = (a.real * b.real + a.imag * b.imag).flatten(2) * self.measure
        return product.new_zeros(*product.shape[:2], len(self.multiplicity)).index_add_(
            -1, self.orbit, product
        )


class NaturalGradient(Optimizer):
    """Steps along `F^-1 g`, with the Fisher matrix `F = E_q[d log q d log q^T]` of the flow's own samples.

    The rows of the last few batches stand for F, which is never formed: by Woodbury's identity a step
    solves as many equations as there are rows (stochastic reconfiguration, arXiv:2302.01941).
    A step longer than `radius` in KL divergence is cut to it, and the damping follows as Levenberg and
    Marquardt's does: up when a step was cut, down when not.
    """

    def __init__(
        self,
        flow: EquivariantCNF,
        parameters: list[nn.Parameter],
        lr: float,
        *,
        refresh: int = 2,
        rows: int = 128,
        window: int = 4,
        damping: float = 1e-2,
        momentum: float = 0.5,
        radius: float = 0.25,
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self.tangents = FlowTangents(flow)
        self.generator = torch.Generator(flow.device).manual_seed(0)
        self.refresh, self.rows, self.window = refresh, rows, window
        self.damping, self.momentum, self.radius = damping, momentum, radius
        self.relative, self.taken, self.batches, self.velocity = 1.0, 0, [], 0.0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if self.taken % self.refresh == 0:
            self._update()
        self.taken += 1
        trained = self.tangents.parameters()
        gradient = torch.cat([p.grad.flatten() for p in trained]) / self.scale
        inner = torch.cholesky_solve((self.factors @ gradient)[:, None], self.cholesky)[:, 0]
        direction = (gradient - self.factors.T @ inner) / self.shift
        length = math.sqrt(2 * self.radius / max(float(direction @ gradient), 1e-30))
        self.relative = min(1.0, 1.3 * self.relative) if length < 1 else max(1e-2, 0.8 * self.relative)
        fresh = min(1.0, length) * direction / self.scale
        self.velocity = self.momentum * self.velocity + (1 - self.momentum) * fresh
        update = self.velocity / (1 - self.momentum**self.taken)
        for parameter, change in zip(trained, update.split([p.numel() for p in trained]), strict=True):
            parameter.sub_(change.view_as(parameter), alpha=self.param_groups[0]["lr"])

    def _update(self) -> None:
        rows = self.tangents.sample(self.rows, self.generator)
        self.batches = [*self.batches, (rows - rows.mean(0)) / math.sqrt(len(rows))][-self.window :]
        factors = torch.cat(self.batches) / math.sqrt(len(self.batches))
        self.scale = (factors.square().sum(0) + self._floor(factors) + 1e-2).sqrt()
        self.factors = factors / self.scale
        gram = (self.factors @ self.factors.T).double()
        self.shift = self.relative * self.damping * float(torch.linalg.matrix_norm(gram, 2))
        gram.diagonal().add_(self.shift)
        self.cholesky = torch.linalg.cholesky(gram).to(factors)

    def _floor(self, factors: Tensor) -> Tensor:
        """A tenth of the largest diagonal entry of each orbit: time modes start without any effect."""
        kernel, sigma, omega = self.tangents.parameters()
        of_kernel, of_sigma, of_omega = (
            factors.square().sum(0).split([kernel.numel(), len(sigma), len(omega)])
        )
        per_orbit = of_kernel.unflatten(0, (-1, len(sigma))).amax(0)
        parts = [per_orbit.expand(kernel.shape).flatten(), of_sigma, of_omega.max().expand(len(omega))]
        return 0.1 * self.relative * torch.cat(parts)


Factory = Callable[[EquivariantCNF, list[nn.Parameter], float], Optimizer]


@dataclass(frozen=True)
class Candidate:
    """An optimiser, the learning rates to scan, and the options of `fit` that suit it."""

    name: str
    make: Factory
    rates: tuple[float, ...]
    warmup: int = 30
    clip_norm: float = 10.0


class MuonAndAdam(Optimizer):
    """Torch's Muon takes matrices only: the kernels as (time mode x feature, orbit), Adam for the rest."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.kernels = [p for p in parameters if p.dim() > 1]
        self.matrices = [nn.Parameter(p.detach().flatten(0, -2)) for p in self.kernels]
        self.muon = torch.optim.Muon(
            self.matrices, lr=lr, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.Adam([p for p in parameters if p.dim() <= 1], lr=lr, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for optimiser in (self.muon, self.adam):
            optimiser.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = kernel.grad.flatten(0, -2)
        self.muon.step()
        self.adam.step()
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            kernel.copy_(matrix.view_as(kernel))


def plain(make: Callable[..., Optimizer], **options: object) -> Factory:
    """A factory that needs the parameters and the rate alone."""
    return lambda flow, parameters, rate: make(parameters, lr=rate, **options)


def optional(name: str, **options: object) -> Factory | None:
    """The same from the package pytorch_optimizer, or nothing."""
    try:
        return plain(getattr(import_module("pytorch_optimizer"), name), weight_decay=0.0, **options)
    except ImportError:
        return None


ADAM = Candidate("Adam", plain(torch.optim.Adam, betas=(0.9, 0.99)), (1e-2, 2e-2, 4e-2, 8e-2))
NOT_INSTALLED = {"SOAP", "Shampoo"}


def candidates() -> list[Candidate]:
    optim = torch.optim
    known = [
        ADAM,
        Candidate("AdamW", plain(optim.AdamW, betas=(0.9, 0.99), weight_decay=1e-2), ADAM.rates),
        Candidate("NAdam", plain(optim.NAdam, betas=(0.9, 0.99)), ADAM.rates),
        Candidate("RAdam", plain(optim.RAdam, betas=(0.9, 0.99)), ADAM.rates),
        Candidate("RMSprop", plain(optim.RMSprop, alpha=0.99), (5e-3, 1e-2, 2e-2, 4e-2)),
        Candidate("Adafactor", plain(optim.Adafactor, beta2_decay=-0.8), (1e-1, 5e-1, 2.0)),
        Candidate("SGD, momentum", plain(optim.SGD, momentum=0.9), (3e-3, 1e-2, 3e-2)),
        Candidate("natural gradient", NaturalGradient, (0.5, 1.0, 2.0), warmup=5, clip_norm=math.inf),
    ]
    if hasattr(optim, "Muon"):
        known.append(Candidate("Muon + Adam", plain(MuonAndAdam), (5e-2, 1e-1, 2e-1)))
    soap = optional("SOAP", betas=(0.9, 0.99), precondition_frequency=5)
    shampoo = optional("Shampoo", momentum=0.9, preconditioning_compute_steps=5)
    known += [] if soap is None else [Candidate("SOAP", soap, (2e-2, 5e-2, 1e-1))]
    known += [] if shampoo is None else [Candidate("Shampoo", shampoo, (1e-4, 1e-3, 1e-2))]
    return known


@dataclass(frozen=True)
class Trained:
    """What a training gave; `ess` is NaN if it diverged."""

    ess: float
    ess_error: float
    batch_ess: float
    seconds: float
    steps: int

    def __str__(self) -> str:
        return "diverged" if math.isnan(self.ess) else f"{self.ess:.3f}({1e3 * self.ess_error:.0f})"


def ess_cell(ess: float) -> str:
    return "diverged" if math.isnan(ess) else f"{ess:.2f}"


def seconds_now(device: str) -> float:
    return time.process_time() if device == "cpu" else time.perf_counter()


def action_of(side: int) -> Phi4:
    return Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side])


def new_flow(side: int, args: argparse.Namespace) -> EquivariantCNF:
    return EquivariantCNF(Lattice((side, side))).to(args.device, getattr(torch, args.dtype))


def train(
    candidate: Candidate,
    rate: float,
    flow: EquivariantCNF,
    action: Phi4,
    args: argparse.Namespace,
    *,
    steps: int,
    seed: int = 0,
) -> Trained:
    """A complete training, warm-up to decay, and the reverse ESS of fresh samples."""
    start = seconds_now(args.device)
    try:
        history = fit(
            flow,
            action,
            steps=steps,
            batch_size=args.batch_size,
            learning_rate=rate,
            warmup=min(candidate.warmup, steps // 4),
            clip_norm=candidate.clip_norm,
            optimiser=partial(candidate.make, flow),
            seed=seed,
            progress=False,
        )
    except (TrainingDivergedError, torch.linalg.LinAlgError):
        return Trained(math.nan, math.nan, math.nan, seconds_now(args.device) - start, steps)
    seconds = seconds_now(args.device) - start
    flow.solver = Solver("rk5", steps=8)
    generator = torch.Generator(args.device).manual_seed(seed + 1)
    try:
        ensemble = importance_sample(
            flow, action, args.samples, batch_size=512, certify=0, generator=generator
        )
    except (SolverError, ValueError):  # finite weights whose fields are not
        return Trained(math.nan, math.nan, math.nan, seconds, steps)
    ess = ensemble.effective_sample_size()
    last = history.ess[-max(steps // 10, 1) :]
    return Trained(ess.mean, ess.error, statistics.fmean(last), seconds, steps)


def scan(chosen: list[Candidate], args: argparse.Namespace) -> tuple[dict[str, float], list[dict]]:
    """The best rate of each by its ESS after a fixed number of steps, then more seeds at that rate."""
    action, rows = action_of(args.scan_L), []
    for candidate in chosen:
        tried = {
            rate: train(candidate, rate, new_flow(args.scan_L, args), action, args, steps=args.steps)
            for rate in candidate.rates
        }
        best = max(tried, key=lambda rate: -1.0 if math.isnan(tried[rate].ess) else tried[rate].ess)
        again = partial(train, candidate, best, action=action, args=args, steps=args.steps)
        seeds = [tried[best]]
        seeds += [again(flow=new_flow(args.scan_L, args), seed=seed) for seed in range(1, args.seeds)]
        rows.append(
            {
                "optimiser": candidate.name,
                "rate": best,
                "scan": {f"{rate:g}": run.ess for rate, run in tried.items()},
                "ess": [run.ess for run in seeds],
                "step_ms": 1e3 * statistics.median(run.seconds / run.steps for run in seeds),
            }
        )
    adam_ms = next((row["step_ms"] for row in rows if row["optimiser"] == "Adam"), math.nan)
    shown = [
        [
            row["optimiser"],
            "  ".join(f"{rate}: {ess_cell(ess)}" for rate, ess in row["scan"].items()),
            f"{row['rate']:g}",
            " ".join(ess_cell(ess) for ess in row["ess"]),
            f"{row['step_ms'] / adam_ms:.2f}",
        ]
        for row in rows
    ]
    shown += [[name, "not installed", "", "", ""] for name in sorted(missing(chosen, args))]
    header = ["optimiser", "ESS by learning rate", "best", "ESS by seed", "step / Adam's"]
    print_table(f"L = {args.scan_L}, {args.steps} steps: reverse ESS on fresh samples", header, shown)
    return {row["optimiser"]: row["rate"] for row in rows}, rows


def missing(chosen: list[Candidate], args: argparse.Namespace) -> set[str]:
    wanted = NOT_INSTALLED if args.optimisers is None else NOT_INSTALLED & set(args.optimisers)
    return wanted - {candidate.name for candidate in chosen}


def steps_to_goal(
    candidate: Candidate, best: float, side: int, args: argparse.Namespace, *, seed: int
) -> tuple[float, Trained] | None:
    """The shortest of a geometric ladder of complete trainings whose fresh ESS reaches the goal.

    At the best rate of the scan, or half of it: larger lattices bear less.
    """
    steps = 12
    while steps <= args.max_steps:
        for rate in (best, best / 2):
            flow = new_flow(side, args)
            trained = train(candidate, rate, flow, action_of(side), args, steps=steps, seed=seed)
            if trained.ess >= args.goal:
                return rate, trained
        steps = round(steps * 1.4)
    return None


def goal(finalists: list[tuple[Candidate, float]], args: argparse.Namespace) -> list[dict]:
    rows = []
    for side in args.L:
        for candidate, best in finalists:
            for seed in range(args.seeds):
                row: dict = {"L": side, "optimiser": candidate.name, "seed": seed}
                reached = steps_to_goal(candidate, best, side, args, seed=seed)
                if reached is not None:
                    rate, trained = reached
                    row |= {
                        "rate": rate,
                        "steps": trained.steps,
                        "seconds": trained.seconds,
                        "ess": str(trained),
                    }
                rows.append(row)
    columns = ["L", "optimiser", "seed", "rate", "steps", "seconds", "ess"]
    shown = [[goal_cell(row.get(name)) for name in columns] for row in rows]
    print_table(f"shortest complete training to a reverse ESS of {args.goal:g}", columns, shown)
    return rows


def goal_cell(value: object) -> object:
    if value is None:
        return "not reached"
    return f"{value:.3g}" if isinstance(value, float) else value


def started(side: int, args: argparse.Namespace) -> Callable[[], EquivariantCNF]:
    """New flows on small lattices; from L = 20 on, copies of one that a ladder has brought there."""
    if side < 20:
        return partial(new_flow, side, args)
    below = [action_of(8), action_of(16)]
    rungs = fit_ladder(
        below,
        flow=new_flow(8, args),
        steps=[args.steps, args.steps // 2],
        batch_size=args.batch_size,
        progress=False,
    )
    return lambda: rungs[-1].flow.resized(Lattice((side, side)))


def rates(args: argparse.Namespace) -> list[dict]:
    """Where Adam is stable: batch ESS of the last tenth of the steps."""
    rows, tried = [], (5e-3, 1e-2, 2e-2, 4e-2)
    for side in args.rates_L:
        start, action = started(side, args), action_of(side)
        steps = args.steps if side < 20 else args.steps // 3
        found = {rate: train(ADAM, rate, start(), action, args, steps=steps) for rate in tried}
        rows.append(
            {"L": side, "steps": steps} | {f"{r:g}": ess_cell(run.batch_ess) for r, run in found.items()}
        )
    header = ["L", "steps", *(f"{rate:g}" for rate in tried)]
    print_table("Adam: batch ESS at the end by learning rate", header, [list(row.values()) for row in rows])
    return rows


def options(args: argparse.Namespace) -> list[dict]:
    """Clipping of the gradient, and how long Adam remembers its square."""
    side = args.L[-1]
    variants = {
        f"clip_norm={clip:g}": Candidate("Adam", ADAM.make, (2e-2,), clip_norm=clip)
        for clip in (1.0, math.inf)
    }
    variants["clip_norm=10, beta2=0.99 (default)"] = ADAM
    for beta2 in (0.9, 0.999):
        make = plain(torch.optim.Adam, betas=(0.9, beta2))
        variants[f"beta2={beta2:g}"] = Candidate("Adam", make, (2e-2,))
    rows = [
        {
            "variant": name,
            "ess": str(
                train(candidate, 2e-2, new_flow(side, args), action_of(side), args, steps=2 * args.steps)
            ),
        }
        for name, candidate in variants.items()
    ]
    title = f"Adam at 2e-2, L = {side}, {2 * args.steps} steps"
    print_table(title, ["variant", "reverse ESS"], [list(row.values()) for row in rows])
    return rows


def quick(args: argparse.Namespace) -> None:
    args.steps, args.seeds, args.samples, args.max_steps = 30, 1, 2048, 150
    args.scan_L, args.L, args.rates_L, args.finalists = 6, [6], [4, 6], 1


def select(known: Iterable[Candidate], args: argparse.Namespace) -> list[Candidate]:
    chosen = [c for c in known if args.optimisers is None or c.name in args.optimisers]
    return chosen or parser.error(f"no such optimiser: {args.optimisers}")


def finalists(
    chosen: list[Candidate], best: dict[str, float], rows: list[dict], args: argparse.Namespace
) -> list[tuple[Candidate, float]]:
    """Adam and the best others of the scan; without a scan all, at the middle rate of each."""
    if not rows:
        return [(c, c.rates[1]) for c in chosen]
    ranked = sorted(rows, key=lambda row: min(-1.0 if math.isnan(e) else e for e in row["ess"]), reverse=True)
    others = [row["optimiser"] for row in ranked if row["optimiser"] != "Adam"][: args.finalists]
    return [(c, best[c.name]) for c in chosen if c.name in ("Adam", *others)]


def main() -> None:
    args = parser.parse_args()
    if args.quick:
        quick(args)
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        **{name: value for name, value in vars(args).items() if name != "out"},
    }
    print(json.dumps(machine), flush=True)
    chosen, best = select(candidates(), args), {}
    content: dict[str, object] = {"machine": machine}
    if "scan" in args.parts:
        best, content["scan"] = scan(chosen, args)
    if "goal" in args.parts:
        content["goal"] = goal(finalists(chosen, best, content.get("scan", []), args), args)
    if "rates" in args.parts:
        content["rates"] = rates(args)
    if "options" in args.parts:
        content["options"] = options(args)
    if args.out is not None:
        # JSON has no NaN: what diverged becomes null.
        write_json(json.loads(json.dumps(content, default=str), parse_constant=lambda _: None), args.out)


if __name__ == "__main__":
    main()
