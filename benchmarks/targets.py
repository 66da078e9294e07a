"""How do flows do on the targets of others? ESS in both directions, log Z and processor time.

Trains on couplings that other works have published, near the critical point and in the broken phase. Large
lattices are reached by `fit_ladder`, the broken phase by a path of couplings on one lattice if asked. Target
samples for the forward ESS and for the sectors come from HMC by turns with Wolff clusters in float64, which
cross between the sectors.

    python benchmarks/targets.py --out benchmarks/results/targets.json
    python benchmarks/targets.py --cases broken --ways fit --steps 2400 --out runs/targets.json
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import equiflow
from equiflow import HMC, Alternate, EquivariantCNF, Lattice, Phi4, Wolff, fit, fit_ladder, importance_sample
from equiflow.analysis import diagnose
from equiflow.report import print_table, write_json
from equiflow.training import History


@dataclass(frozen=True)
class Target:
    """A point of the phase diagram, and the lattices or couplings on the way to it.

    Attributes:
        m2: of our action, without a factor 1/2.
        lam: the same.
        side: of the lattice.
        source: who has it.
        smaller: sides of a ladder before.
        from_lam: couplings of a path before, on the same lattice.
    """

    m2: float
    lam: float
    side: int
    source: str
    smaller: tuple[int, ...] = ()
    from_lam: tuple[float, ...] = ()

    @property
    def action(self) -> Phi4:
        return Phi4(Lattice((self.side, self.side)), m2=self.m2, lam=self.lam)

    @property
    def actions(self) -> list[Phi4]:
        """The actions on the way, the target the last."""
        on_the_way = [Phi4(Lattice((side, side)), m2=self.m2, lam=self.lam) for side in self.smaller]
        paths = [Phi4(Lattice((self.side, self.side)), m2=self.m2, lam=lam) for lam in self.from_lam]
        return [*on_the_way, *paths, self.action]


TARGETS = {
    "jaxqft": Target(-0.4, 0.4, 16, "jaxQFT: 0.515"),
    "craft": Target(-4.75, 5.1, 14, "CRAFT, arXiv:2201.13117"),
    "kappa-32": Target(-0.465804, 0.300669, 32, "kappa = 0.2705, lambda = 0.022", smaller=(16,)),
    "kappa-64": Target(-0.465804, 0.300669, 64, "kappa = 0.2705, lambda = 0.022", smaller=(16, 32)),
    "broken": Target(-4.0, 3.5, 16, "broken phase", from_lam=(4.24, 3.8)),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--cases", nargs="+", default=list(TARGETS), choices=list(TARGETS))
parser.add_argument(
    "--ways",
    nargs="+",
    default=["fit"],
    choices=["fit", "ladder"],
    help="fit: from nothing; ladder: by smaller lattices, or by couplings on the way",
)
parser.add_argument("--steps", type=int, nargs="+", help="optimiser steps, for all stages or one each")
parser.add_argument("--batch-size", type=int, help="model samples per step")
parser.add_argument(
    "--learning-rate", type=float, nargs="+", help="for all stages or one each; by default the field's"
)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training each")
parser.add_argument("--samples", type=int, default=4096, help="fresh model samples")
parser.add_argument("--chain", type=int, default=2048, help="target samples, of 64 chains")
parser.add_argument("--accuracy", type=float, default=2e-3, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="of the flow")
parser.add_argument("--flows", type=Path, help="folder for the trained flows")
parser.add_argument("--out", type=Path, help="JSON file for the figures, to which runs are added")


def train(
    target: Target, way: str, seed: int, args: argparse.Namespace
) -> tuple[EquivariantCNF, list[History]]:
    """Train from nothing; return the flow with the histories of all stages."""
    torch.manual_seed(seed)  # of the initial weights
    actions = target.actions if way == "ladder" else [target.action]
    flow = EquivariantCNF(actions[0].lattice).to(getattr(torch, args.dtype))
    steps, rate = (
        given if given is None or len(given) > 1 else given[0] for given in (args.steps, args.learning_rate)
    )
    options: dict[str, Any] = {"batch_size": args.batch_size, "learning_rate": rate}
    if way == "ladder":
        rungs = fit_ladder(actions, flow=flow, steps=steps, seed=seed, n_fresh=0, progress=False, **options)
        return rungs[-1].flow, [rung.history for rung in rungs]
    return flow, [fit(flow, target.action, steps=steps, seed=seed, n_fresh=0, progress=False, **options)]


def measure(flow: EquivariantCNF, action: Phi4, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure on fresh samples of the flow and on samples of the target."""
    generator = torch.Generator().manual_seed(1000 + seed)
    flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator)
    size = max(16, min(512, 2**17 // action.lattice.volume))
    ensemble = importance_sample(flow, action, args.samples, batch_size=size, certify=64, generator=generator)
    kernel = Alternate(HMC(action, trajectory_length=1.0), Wolff(action), Wolff(action))
    chain = kernel.sample(
        args.chain // 64,
        n_chains=64,
        n_thermalisation=400,
        thin=max(10, action.lattice.shape[0]),
        generator=generator,
        dtype=torch.float64,
    )
    found = diagnose(flow, action, ensemble, chain, explain=False)
    assert found.positive_sector is not None
    numbers = {
        "reverse_ess": found.reverse_ess,
        "forward_ess": found.forward_ess,
        "log_z": found.log_z_reverse,
        "log_z_forward": found.log_z_forward,
        "positive_model": found.positive_sector[0],
        "positive_target": found.positive_sector[1],
    }
    pairs = {name: one.mean for name, one in numbers.items()}
    pairs |= {f"{name}_error": one.error for name, one in numbers.items()}
    certificate = ensemble.certificate
    return pairs | {
        "log_z_shift": certificate.log_z_shift,
        "nfe": certificate.nfe,
        "samples": args.samples,
        "chain": chain.samples.shape[0] * chain.samples.shape[1],
        "warnings": list(found.warnings),
    }


def run(name: str, way: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    target, start = TARGETS[name], time.process_time()
    flow, histories = train(target, way, seed, args)
    seconds = time.process_time() - start
    measured = measure(flow, target.action, seed, args)
    if args.flows is not None:
        args.flows.mkdir(parents=True, exist_ok=True)
        flow.about = {"action": repr(target.action), "reverse_ess": measured["reverse_ess"]}
        flow.save(args.flows / f"{name}-{way}-{seed}.pt")
    return {
        "case": name,
        "m2": target.m2,
        "lam": target.lam,
        "L": target.side,
        "way": way,
        "seed": seed,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "steps": [len(history) for history in histories],
        "batch_size": args.batch_size or flow.training_batch_size,
        "learning_rate": args.learning_rate,
        "set_back": sum("set back" in note for history in histories for note in history.notes),
        "training_nfe": [max(history.nfe) for history in histories],
        "training_seconds": seconds,
        **measured,
    }


def row(one: dict[str, Any]) -> list[object]:
    def value(name: str, digits: int = 4) -> str:
        return f"{one[name]:.{digits}f} ± {one[f'{name}_error']:.{digits}f}"

    return [
        f"{one['case']}, {one['way']}, seed {one['seed']}",
        "+".join(map(str, one["steps"])),
        f"{one['training_seconds']:.0f}",
        one["set_back"],
        value("reverse_ess"),
        value("forward_ess"),
        value("log_z"),
        value("log_z_forward"),
        value("positive_model", 3),
        f"{one['log_z_shift']:.0e}",
    ]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "clock": "processor time",
        "dtype": args.dtype,
    }
    print(json.dumps(machine), flush=True)
    runs: list[dict[str, Any]] = []
    if args.out is not None and args.out.exists():
        runs = json.loads(args.out.read_text())["runs"]
    fit(
        EquivariantCNF(Lattice((4, 4))),
        Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0),
        steps=4,
        n_fresh=64,
        progress=False,
    )
    new = []
    for name in args.cases:
        for way in args.ways:
            for seed in args.seeds:
                new.append(run(name, way, seed, args))
                print(json.dumps(new[-1]), flush=True)
                if args.out is not None:
                    write_json({"machine": machine, "runs": runs + new}, args.out)
    header = ["case", "steps", "s", "set back", "reverse ESS", "forward ESS", "log Z, reverse",
              "log Z, forward", "P(M > 0)", "solver"]  # fmt: skip
    print_table("targets of others", header, [row(one) for one in new])


if __name__ == "__main__":
    main()
