"""What do log Z and means cost to a given error by one level, and by two: a coarse solver, few fine solves?

Each way draws the same number of samples in turn, several times. Its cost to an error e is its cost per
sample times `samples x (its error / e)^2`, in seconds of the processor and in evaluations of the vector
field. The flow's solver is tuned to a fraction of the error of log Z. Ways of one level by a coarse solver
are listed too: their solver error, from the certificate, says what they are good for. Certificates and pilots
cost the same for any number of samples and are printed apart.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiflow import EquivariantCNF, Phi4, Solver, importance_sample
from equiflow.flows import Certificate
from equiflow.observables import phi_squared, susceptibility
from equiflow.report import print_table, write_json
from equiflow.samplers import Ensemble, TwoLevels, choose_levels
from equiflow.statistics import Estimate

RESULTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "log Z": None,
    "phi^2": phi_squared,
    "chi2": susceptibility,
}
SOLVERS = [Solver("rk4", steps=n) for n in (3, 4, 5, 6)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--flows", nargs="+", default=["phi4-2d-L8", "phi4-2d-L16", "phi4-2d-L32"])
    parser.add_argument("--samples", type=int, default=4096, help="samples of each way in each round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in which all ways take turns")
    parser.add_argument("--error", type=float, default=1e-3, help="error of log Z, relative one of means")
    parser.add_argument("--solver-error", type=float, default=3e-4, help="target of tune_solver")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--device", default="cpu", help="where flows run")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def estimate(ensemble: Ensemble, name: str) -> Estimate:
    result = RESULTS[name]
    return ensemble.log_z() if result is None else ensemble.mean(result)


def joined(estimates: list[Estimate]) -> Estimate:
    """Return the mean of independent estimates of equal size."""
    n = len(estimates)
    error = math.sqrt(sum(one.error**2 for one in estimates)) / n
    return Estimate(sum(one.mean for one in estimates) / n, error, systematic=estimates[0].systematic)


def finite(value: Any) -> Any:
    """Return rows for JSON, which has no infinity: the solver error of a solve that has not converged."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


@dataclass
class Way:
    """A way to sample, and what it gave."""

    name: str
    solver: Solver
    certificate: Certificate
    levels: TwoLevels | None = None
    nfe: float = 0.0
    seconds: list[float] = field(default_factory=list)
    found: list[dict[str, Estimate]] = field(default_factory=list)

    def draw(self, flow: EquivariantCNF, action: Phi4, n: int, generator: torch.Generator) -> None:
        flow.solver = self.solver
        options: dict[str, Any] = {"batch_size": 512, "levels": self.levels or 1, "certify": 0}
        drawn, spent = timed(lambda: importance_sample(flow, action, n, generator=generator, **options))
        self.seconds.append(spent / n)
        drawn = replace(drawn, certificate=self.certificate)
        self.found.append({result: estimate(drawn, result) for result in RESULTS})
        fine = drawn.correction
        self.nfe = (
            self.certificate.nfe if fine is None else fine.coarse_nfe + fine.fine_nfe * len(fine.rows) / n
        )

    def row(self, args: argparse.Namespace) -> dict[str, Any]:
        second = statistics.median(self.seconds)
        row = {"way": self.name, "solver": str(self.solver), "nfe": self.nfe, "ms per sample": 1e3 * second}
        if self.levels is not None:
            row |= {"coarse": str(self.levels.coarse), "fine_share": self.levels.fine_share}
        for result in RESULTS:
            found = joined([one[result] for one in self.found])
            wanted = args.error if result == "log Z" else args.error * abs(found.mean)
            needed = args.samples * args.rounds * (found.error / wanted) ** 2
            row |= {result: asdict(found), f"{result} samples": needed}
            row |= {f"{result} seconds": needed * second, f"{result} evaluations": needed * self.nfe}
            row |= {f"{result} solver error": found.systematic / wanted}
        return row


def measured(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every way to sample one flow."""
    generator = torch.Generator(args.device).manual_seed(args.seed)
    flow = EquivariantCNF.pretrained(name, device=args.device)
    coupling = re.search(r"lam=([\d.]+)", flow.about["action"])
    assert coupling is not None
    action = Phi4(flow.lattice, m2=-4.0, lam=float(coupling[1])).to(args.device)
    flow.tune_solver(args.solver_error, action=action, n_samples=256, generator=generator)
    fine = flow.solver
    certificate, spent = timed(lambda: flow.certificate(256, action=action, generator=generator))
    print(f"{name}: certificate of 256 samples in {spent:.1f} s: {certificate}")
    ways = [Way("one level", fine, certificate)]
    for result, observable in RESULTS.items():
        choice, spent = timed(
            lambda o=observable: choose_levels(flow, action, observable=o, n_samples=256, generator=generator)
        )
        print(f"pilot of 256 samples for {result} in {spent:.1f} s:\n{choice}")
        if choice.best is not None:
            ways.append(Way(f"two for {result}", fine, certificate, choice.levels))
    for solver in SOLVERS:
        flow.solver = solver
        coarse = flow.certificate(256, action=action, generator=generator)
        ways.append(Way(f"{solver} alone", solver, coarse))
    for _ in range(args.rounds):
        for way in ways:
            way.draw(flow, action, args.samples, generator)
    return [{"flow": name, **way.row(args)} for way in ways]


def show(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    one = rows[0]
    for result in RESULTS:
        table = [
            (
                row["way"],
                f"{row['nfe']:.1f}",
                f"{row[f'{result} samples']:.0f}",
                f"{row[f'{result} evaluations']:.3g}",
                f"{row[f'{result} seconds']:.1f}",
                f"{one[f'{result} evaluations'] / row[f'{result} evaluations']:.2f}",
                f"{one[f'{result} seconds'] / row[f'{result} seconds']:.2f}",
                f"{row[f'{result} solver error']:.2f}",
                f"{Estimate(row[result]['mean'], row[result]['error'])}",
            )
            for row in rows
        ]
        error = f"{args.error:g}" if result == "log Z" else f"{args.error:g} of {one[result]['mean']:.4g}"
        header = (
            "way",
            "nfe",
            "samples",
            "evaluations",
            "s",
            "gain, nfe",
            "gain, s",
            "solver error",
            "found",
        )
        print_table(f"{one['flow']}: {result} to {error}", header, table)


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "dtype": "float32",
        "device": args.device,
        "seed": args.seed,
        "samples": args.samples * args.rounds,
    }
    print(json.dumps(machine))
    every = []
    for name in args.flows:
        rows = measured(name, args)
        show(rows, args)
        every += rows
        if args.out is not None:
            write_json({"machine": machine, "rows": finite(every)}, args.out)


if __name__ == "__main__":
    main()
