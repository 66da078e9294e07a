"""What do Monte Carlo updates between layers gain? Annealing, stochastic flows and a CNF alone, side by side.

Three questions. On the published CRAFT target (phi^4, L = 14, m2 = -4.75, lam = 5.1; arXiv:2201.13117):
annealing without layers, with resampling and without, stochastic flows of several layers, and one CNF, with
equal steps of training where they train. Evaluations per sample, of the gradient of the action and of vector
fields, are counted together and held equal: more updates, steps of annealing or steps of the solver fill the
budget of all. The same in the broken phase in an external field, where the wrong vacuum is metastable. And
for a CNF that is stopped early: how many updates in its latent space repair its ESS, and what more steps of
training would have done.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from equiflow import (
    HMC,
    Action,
    Certificate,
    Ensemble,
    EquivariantCNF,
    Estimate,
    ExternalField,
    Flow,
    FreeField,
    Lattice,
    Phi4,
    Solver,
    StochasticFlow,
    SymmetryGroup,
    annealed_importance_sample,
    fit,
    fit_segments,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
    stochastic_importance_sample,
)
from equiflow.report import print_table, write_json
from equiflow.samplers import LatentAction
from equiflow.theories.scalar.observables import abs_magnetisation, magnetisation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument(
    "--only",
    choices=["craft", "broken", "early"],
    action="append",
    help="one of the questions; may be repeated",
)
parser.add_argument("--samples", type=int, default=2048, help="fresh samples of each method")
parser.add_argument("--steps", type=int, default=300, help="optimiser steps, shared by all layers of a path")
parser.add_argument("--budget", type=int, default=200, help="evaluations per sample of every method")
parser.add_argument("--early", type=int, default=30, help="optimiser steps of the CNF that is stopped early")
parser.add_argument("--annealed-samples", type=int, default=256, help="samples of the CNF stopped early")
parser.add_argument("--solver-steps", type=int, default=8, help="steps of rk4 of every layer when it samples")
parser.add_argument("--device", default="cpu", help="where to compute")
parser.add_argument("--seed", type=int, default=0, help="of training and samples")
parser.add_argument("--out", type=Path, help="JSON file for the figures")

#: leapfrog step in the latent space of a CNF
LATENT_STEP = 0.4
HEADER = (
    "method", "steps", "s of training", "evaluations", "s per 1000", "log Z", "reverse ESS", "forward ESS",
    "<m>",
)  # fmt: skip


def timed(make: Callable[[], object]) -> tuple[object, float]:
    started = time.process_time()
    return make(), time.process_time() - started


class Target:
    """A target with the path of couplings to it, samples of it, and what its flows are made of.

    Args:
        action: phi^4, perhaps in an external field.
        h: the external field.
        args: options of the command line.
    """

    def __init__(self, action: Phi4, h: float, args: argparse.Namespace) -> None:
        self.phi4, self.h, self.args = action, h, args
        self.lattice = action.lattice
        self.observable = magnetisation if h else abs_magnetisation
        self.group = SymmetryGroup(self.lattice, z2=False) if h else None
        self.action = self.at(1.0)
        self._samples: torch.Tensor | None = None

    def at(self, b: float) -> Action:
        """Return the action of the fraction b of the way from a free field of m2 = 1."""
        inner = Phi4(self.lattice, m2=1 + b * (self.phi4.m2 - 1), lam=b * self.phi4.lam)
        return ExternalField(inner, h=b * self.h) if self.h else inner

    def path(self, n: int) -> list[Action]:
        return [self.at((k + 1) / n) for k in range(n - 1)] + [self.action]

    def generator(self, number: int) -> torch.Generator:
        return torch.Generator(self.args.device).manual_seed(1000 * self.args.seed + number)

    def flow(self, prior: FreeField | None = None) -> EquivariantCNF:
        torch.manual_seed(self.args.seed)
        solver = Solver("rk4", steps=self.args.solver_steps)
        flow = EquivariantCNF(self.lattice, group=self.group, prior=prior, solver=solver)
        return flow.to(self.args.device)

    def samples(self) -> torch.Tensor:
        """Return samples of the target by HMC; without a field half of the chains start from each sign."""
        if self._samples is not None:
            return self._samples
        n_chains = 256
        initial = self.action.initial(n_chains, self.generator(1), device=self.args.device) + 1.0
        if not self.h:
            initial[::2] *= -1
        chain = HMC(self.action).sample(
            4, n_chains=n_chains, thin=20, initial=initial, n_thermalisation=200, generator=self.generator(2)
        )
        self._samples = chain.configurations.float()
        return self._samples


def row(
    name: str,
    target: Target,
    ensemble: Ensemble,
    *,
    steps: int,
    training: float,
    evaluations: float,
    drawing: float,
    forward: Callable[[torch.Tensor], torch.Tensor] | None,
) -> dict[str, object]:
    """Return the figures of a method."""
    back = None
    if forward is not None:
        back = forward_effective_sample_size(forward(target.samples()).double())
    return {
        "method": name,
        "steps": steps,
        "training_seconds": training,
        "evaluations": evaluations,
        "seconds_per_1000": 1000 * drawing / len(ensemble.phi),
        "log_z": ensemble.log_z(),
        "reverse_ess": ensemble.effective_sample_size(),
        "forward_ess": back,
        "magnetisation": ensemble.mean(target.observable),
    }


def gradients(flow: StochasticFlow) -> float:
    """Return the number of gradients and of evaluations of vector fields per sample of a stochastic flow."""
    total = 0.0
    for leg in flow.legs:
        if isinstance(leg.layer, EquivariantCNF):
            total += 4 * (leg.layer.solver.steps or 0)
        if leg.n_updates:  # a kernel that is not used is not tuned
            total += leg.n_updates * of_update(leg.kernel)
    return total


def of_update(kernel: object) -> float:
    """Return the mean number of gradients of a trajectory."""
    if not isinstance(kernel, HMC):
        return 0.0
    assert kernel.step_size is not None
    return 1 + kernel.trajectory_length / kernel.step_size


def along_path(
    target: Target, n: int, *, layers: bool, n_updates: int, length: float = 1.0
) -> tuple[StochasticFlow, float]:
    """Return a stochastic flow of n actions, trained or only tuned, and the time that took."""
    args = target.args
    prior = FreeField(target.lattice, learnable=False).to(args.device)
    parts: Sequence[Flow | None] | None = [target.flow(prior) for _ in range(n)] if layers else None
    flow = StochasticFlow(
        prior,
        target.path(n),
        layers=parts,
        kernel=lambda action: HMC(action, trajectory_length=length),
        n_updates=n_updates,
    )
    if layers:
        train = lambda: fit_segments(  # noqa: E731
            flow, n_samples=4096, n_tuning=20, steps=args.steps // n, seed=args.seed, progress=False
        )
    else:
        train = lambda: flow.tune(256, n_tuning=20, generator=target.generator(3))  # noqa: E731
    return flow, timed(train)[1]


def filled(flow: StochasticFlow, budget: int) -> StochasticFlow:
    """Give the actions of a path so many updates that all together take the budget of evaluations."""
    moving = [leg for leg in flow.legs[:-1] if leg.kernel is not None]
    for leg in moving:
        leg.n_updates = 1
    while True:
        # Where one update costs the least, relative to those that are there, comes the next.
        leg = min(moving, key=lambda leg: leg.n_updates * of_update(leg.kernel))
        if gradients(flow) + of_update(leg.kernel) > budget:
            return flow
        leg.n_updates += 1


def compare(target: Target) -> Iterator[dict[str, object]]:
    """Yield the rows of one target, all of them at the same number of evaluations per sample."""
    args = target.args
    pilot, _ = along_path(target, 16, layers=False, n_updates=1)
    steps = round(16 * args.budget / gradients(pilot))
    for n in (steps, max(2, steps // 4)):
        flow, seconds = along_path(target, n, layers=False, n_updates=1)
        yield from stochastic_rows(
            target, filled(flow, args.budget), f"annealing, {n} steps", training=seconds, steps=0
        )
    yield cnf_alone(target, args.steps, "CNF alone", solver_steps=args.budget // 4)[1]
    for n in (2, 4):
        flow, seconds = along_path(target, n, layers=True, n_updates=2)
        filled(flow, args.budget)
        name = f"stochastic flow, {n} layers, {sum(leg.n_updates for leg in flow.legs)} updates"
        yield from stochastic_rows(target, flow, name, training=seconds, steps=args.steps)


def stochastic_rows(
    target: Target, flow: StochasticFlow, name: str, *, training: float, steps: int
) -> Iterator[dict[str, object]]:
    """Yield the row of a stochastic flow, and that with resampling."""

    def back(phi: torch.Tensor) -> torch.Tensor:
        return flow.log_weights_back(phi, generator=target.generator(6))

    certificate = flow.certificate(256, generator=target.generator(5))
    for resample in (None, 0.5):
        ensemble, drawing = timed(
            lambda resample=resample: stochastic_importance_sample(
                flow, target.args.samples, resample=resample, certify=0, generator=target.generator(4)
            )
        )
        yield row(
            name + (", resampled" if resample else ""),
            target,
            with_certificate(ensemble, certificate),
            steps=steps,
            training=training,
            evaluations=gradients(flow),
            drawing=drawing,
            forward=None if resample else back,
        )


def cnf_alone(
    target: Target, steps: int, name: str, *, solver_steps: int | None = None
) -> tuple[EquivariantCNF, dict[str, object]]:
    """Return a trained CNF and its row."""
    args, flow = target.args, target.flow()
    _, seconds = timed(lambda: fit(flow, target.action, steps=steps, seed=args.seed, progress=False))
    flow.solver = Solver("rk4", steps=solver_steps or args.solver_steps)
    ensemble, drawing = timed(
        lambda: importance_sample(flow, target.action, args.samples, certify=0, generator=target.generator(4))
    )
    certificate = flow.certificate(256, action=target.action, generator=target.generator(5))
    figures = row(
        name,
        target,
        with_certificate(ensemble, certificate),
        steps=steps,
        training=seconds,
        evaluations=4 * (flow.solver.steps or 0),
        drawing=drawing,
        forward=lambda phi: log_weights(flow, target.action, phi),
    )
    return flow, figures


def quarter_turn(action: LatentAction) -> HMC:
    """Return HMC whose trajectories turn white noise by a quarter period, after which it is drawn anew."""
    return HMC(action, step_size=LATENT_STEP, trajectory_length=math.pi / 2)


def stopped_early(target: Target) -> Iterator[dict[str, object]]:
    """Yield the rows of a CNF that is stopped early and repaired by annealing in its latent space."""
    args = target.args
    flow, first = cnf_alone(target, args.early, f"stopped at {args.early} steps")
    yield first
    solves = 2 * (1 + math.pi / 2 / LATENT_STEP) + 3
    for n in (2, 4, 8, 16, 32, 64):
        ensemble, drawing = timed(
            lambda n=n: annealed_importance_sample(
                flow,
                target.action,
                args.annealed_samples,
                betas=n,
                kernel=quarter_turn,
                certify=0,
                generator=target.generator(7),
            )
        )
        # A gradient takes a solve there and one back; the energies of a trajectory and the next weight need
        # three solves more.
        evaluations = 4 * args.solver_steps * (1 + (n - 1) * solves)
        yield row(
            f"and {n - 1} updates",
            target,
            ensemble,
            steps=args.early,
            training=float(first["training_seconds"]),
            evaluations=evaluations,
            drawing=drawing,
            forward=None,
        )
    for steps in (2 * args.early, 4 * args.early):
        yield cnf_alone(target, steps, f"trained for {steps} steps")[1]


def with_certificate(ensemble: Ensemble, certificate: Certificate | None) -> Ensemble:
    """Return an ensemble with a certificate that was measured outside of the time of drawing."""
    return replace(ensemble, certificate=certificate)


def shown(figures: dict[str, object]) -> tuple[str, ...]:
    times = f"{figures['training_seconds']:.1f}", f"{figures['evaluations']:.0f}"
    rest = (figures[name] for name in ("log_z", "reverse_ess", "forward_ess", "magnetisation"))
    return (
        str(figures["method"]), str(figures["steps"]), *times, f"{figures['seconds_per_1000']:.2f}",
        *("" if value is None else str(value) for value in rest),
    )  # fmt: skip


def print_row(figures: dict[str, object]) -> None:
    print(" | ".join(shown(figures)), flush=True)


def plain(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows for JSON, which knows no infinite errors."""

    def finite(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def of(value: object) -> object:
        if isinstance(value, Estimate):
            return {name: finite(part) for name, part in asdict(value).items()}
        return finite(value)

    return [{name: of(value) for name, value in figures.items()} for figures in rows]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {vars(args)}")
    craft = Target(Phi4(Lattice((14, 14)), m2=-4.75, lam=5.1), 0.0, args)
    broken = Target(Phi4(Lattice((12, 12)), m2=-4.0, lam=3.5), 0.02, args)
    questions = {
        "craft": ("L = 14, m2 = -4.75, lam = 5.1", lambda: compare(craft)),
        "broken": ("L = 12, m2 = -4, lam = 3.5, h = 0.02", lambda: compare(broken)),
        "early": ("L = 14, m2 = -4.75, lam = 5.1, a CNF stopped early", lambda: stopped_early(craft)),
    }
    results = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
    if args.out is not None and args.out.exists():  # keep the questions that are not asked now
        results = json.loads(args.out.read_text(encoding="utf-8"))
    for name, (title, find) in questions.items():
        if args.only is not None and name not in args.only:
            continue
        warm_up(broken if name == "broken" else craft)
        rows = []
        for figures in find():
            rows.append(figures)
            print_row(figures)
            results[title] = {"options": {**vars(args), "out": None}, "rows": plain(rows)}
            if args.out is not None:
                write_json(results, args.out)
        print_table(title, HEADER, [shown(figures) for figures in rows])
    print(f"{time.process_time() - started:.0f} s of processor time")


def warm_up(target: Target) -> None:
    """Compile all kernels, outside of all times."""
    fit(target.flow(), target.action, steps=2, progress=False)
    along_path(target, 2, layers=False, n_updates=1)[0].travel(8)
    target.samples()


if __name__ == "__main__":
    main()
