"""What do samplers of plain phi^4 cost: a gradient, and an effective sample, with and without fused kernels?

On the line m_p L = 4. Per gradient: the time of an update of HMC, divided by its gradients and the sites of
all chains; a trajectory of one step more or less leaves out what an update costs beside them. Per effective
sample: 2 tau_int of |M| and of chi2 = V M^2 times the time of an update per chain, tau_int by the Gamma
method. Lengths of trajectories are those of a scan with the least cost; a fresh run with another seed at the
best of them is reported. Step sizes are tuned by the samplers themselves. Burn-in and tuning are left out,
and so is the bias of MCLMC, which is shown beside its cost in units of the mean.

Times are processor seconds of updates of equilibrated chains, medians of runs in turn with and without
kernels.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import equiflow
from equiflow import (
    HMC,
    MCLMC,
    OMELYAN,
    AdjustedMCLMC,
    Alternate,
    Chain,
    Kernel,
    Lattice,
    LocalMetropolis,
    Phi4,
    SwendsenWang,
    Wolff,
    fused,
)
from equiflow import observables as obs
from equiflow.report import print_table, write_json
from equiflow.samplers import LEAPFROG
from equiflow.samplers.mclmc import widest

M_PL_4 = {8: 6.008, 16: 4.97, 32: 4.572, 64: 4.398}
OBSERVABLES = {"|M|": obs.abs_magnetisation, "chi2": obs.susceptibility, "phi^2": obs.phi_squared}
DECIDING = ("|M|", "chi2")
Row = dict[str, Any]
Make = Callable[[Phi4, float], Kernel]

METHODS: dict[str, Make] = {
    "HMC": lambda a, length: HMC(a, trajectory_length=length),
    "HMC, Omelyan": lambda a, length: HMC(a, trajectory_length=length, integrator=OMELYAN),
    "HMC + 2 Wolff": lambda a, length: Alternate(HMC(a, trajectory_length=length), Wolff(a), Wolff(a)),
    "adjusted MCLMC": lambda a, length: AdjustedMCLMC(a, trajectory_length=length),
    "MCLMC": lambda a, length: MCLMC(a, decoherence_length=length),
    "MCLMC, 1/100 variance": lambda a, length: MCLMC(a, decoherence_length=length, energy_variance=5e-6),
}
#: lengths to scan, in units of the standard deviation of the widest direction
LENGTHS = {"HMC + 2 Wolff": (0.1, 0.2, 0.35, 0.5), "": (0.5, 0.75, 1.0, 1.5, 2.0)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=[16, 32, 64], choices=list(M_PL_4))
parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
parser.add_argument("--chains", type=int, default=64)
parser.add_argument("--samples", type=int, default=2000, help="per chain, of the reported run")
parser.add_argument("--scan-samples", type=int, default=600, help="per chain and length of the scan")
parser.add_argument("--thermalisation", type=int, default=300)
parser.add_argument("--repeats", type=int, default=15, help="of each timing")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path)


def seconds(kernel: Kernel, phi: Tensor, repeats: int, seed: int) -> dict[bool, float]:
    """Return the time of an update with and without fused kernels, as medians of runs in turn."""
    source, found = torch.Generator().manual_seed(seed), {True: [], False: []}
    for repeat in range(repeats + 1):
        for is_fused, times in found.items():
            if not is_fused and repeat > max(3, repeats // 4):
                continue
            with fused.switched(is_fused):
                start = time.process_time()
                kernel.update(phi, source)
                if repeat:
                    times.append(time.process_time() - start)
    return {is_fused: statistics.median(times) for is_fused, times in found.items()}


def per_gradient(action: Phi4, phi: Tensor, args: argparse.Namespace) -> list[Row]:
    """Return nanoseconds per site of a gradient, and of what an update costs beside its gradients."""
    rows, sites = [], phi.numel()
    for name, integrator, make in (
        ("HMC", LEAPFROG, lambda n: HMC(action, step_size=0.05, trajectory_length=0.05 * n)),
        (
            "HMC, Omelyan",
            OMELYAN,
            lambda n: HMC(action, step_size=0.05, trajectory_length=0.05 * n, integrator=OMELYAN),
        ),
        (
            "adjusted MCLMC",
            OMELYAN,
            lambda n: AdjustedMCLMC(action, step_size=0.05, trajectory_length=0.05 * n),
        ),
        ("MCLMC", LEAPFROG, lambda n: MCLMC(action, step_size=0.05, decoherence_length=0.05 * n)),
    ):
        short, long = 4, 36
        # The number of steps is drawn between one half and three halves; here it is kept.
        with constant_stretch():
            times = [seconds(make(n), phi, args.repeats, args.seed) for n in (short, long)]
        row: Row = {"method": name}
        for is_fused, label in ((True, "fused"), (False, "eager")):
            few, many = (1e9 * found[is_fused] / sites for found in times)
            slope = (many - few) / ((long - short) * len(integrator.drifts))
            row |= {
                f"{label} ns / gradient": slope,
                f"{label} ns beside": few - slope * (short * len(integrator.drifts) + 1),
            }
        rows.append(row)
    for name, kernel in {"local": LocalMetropolis(action, width=0.8), "Wolff": Wolff(action)}.items():
        found = seconds(kernel, phi, args.repeats, args.seed)
        rows.append(
            {
                "method": name,
                **{f"{k} ns beside": 1e9 * found[k == "fused"] / sites for k in ("fused", "eager")},
            }
        )
    found = seconds(SwendsenWang(action), phi, args.repeats, args.seed)
    rows.append(
        {
            "method": "Swendsen-Wang",
            **{f"{k} ns beside": 1e9 * found[k == "fused"] / sites for k in ("fused", "eager")},
        }
    )
    return rows


class constant_stretch:  # noqa: N801 (used as a function)
    """Let every trajectory have its mean length within a `with` block."""

    def __enter__(self) -> None:
        self.rand = torch.rand

        def rand(*shape: Any, **options: Any) -> Tensor:
            return torch.tensor(0.5) if shape == ((),) else self.rand(*shape, **options)

        torch.rand = rand

    def __exit__(self, *_: object) -> None:
        torch.rand = self.rand


def run(kernel: Kernel, start: Tensor, n: int, args: argparse.Namespace, seed: int) -> Chain:
    return kernel.sample(
        n,
        n_chains=args.chains,
        n_thermalisation=args.thermalisation,
        initial=start,
        generator=torch.Generator().manual_seed(seed),
    )


def cost(chain: Chain, repeats: int, seed: int) -> Row:
    """Return tau_int and milliseconds per effective sample of each observable."""
    times = seconds(chain.kernel, chain.samples[-1], repeats, seed)
    n_chains = chain.samples.shape[1]
    row: Row = {"update us": 1e6 * times[True] / n_chains, "eager update us": 1e6 * times[False] / n_chains}
    for name, observable in OBSERVABLES.items():
        tau = chain.tau_int(observable)
        row |= {f"tau {name}": tau, f"ms {name}": 2e3 * tau.mean * times[True] / n_chains}
        row |= {
            f"eager ms {name}": 2e3 * tau.mean * times[False] / n_chains,
            f"mean {name}": chain.mean(observable),
        }
    return row


def gradients(kernel: Kernel) -> float:
    """Return the mean number of gradients of an update."""
    if isinstance(kernel, Alternate):
        return sum(map(gradients, kernel.kernels))
    length = kernel.trajectory_length if isinstance(kernel, HMC) else getattr(kernel, "length", None)
    return 0.0 if length is None else length / kernel.step_size * len(kernel.integrator.drifts) + 1


def measure(side: int, args: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    action = Phi4(Lattice((side, side)), m2=-4.0, lam=M_PL_4[side])
    source = torch.Generator().manual_seed(args.seed)
    first = Alternate(HMC(action), Wolff(action)).sample(
        1, n_chains=args.chains, n_thermalisation=400, generator=source, dtype=getattr(torch, args.dtype)
    )
    phi = first.samples[-1]
    width, rows = widest(phi), []
    for name in args.methods:
        scanned = {}
        for factor in LENGTHS.get(name, LENGTHS[""]):
            kernel = METHODS[name](action, factor * width)
            found = cost(run(kernel, phi, args.scan_samples, args, args.seed + 1), 3, args.seed)
            scanned[factor] = max(found[f"ms {observable}"] for observable in DECIDING)
        best = min(scanned, key=scanned.__getitem__)
        chain = run(METHODS[name](action, best * width), phi, args.samples, args, args.seed + 2)
        steps = [k.step_size for k in getattr(chain.kernel, "kernels", [chain.kernel])]
        row: Row = {"L": side, "method": name, "length": best * width, "step": steps[0]}
        row |= {"acceptance": float(chain.acceptance.mean()), "gradients": gradients(chain.kernel)}
        rows.append(row | cost(chain, args.repeats, args.seed) | {"scan ms": scanned})
        print(json.dumps({k: str(v) for k, v in rows[-1].items()}), flush=True)
    return rows, [{"L": side, **row} for row in per_gradient(action, phi, args)]


def cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def table(title: str, rows: list[Row], names: list[str]) -> None:
    print_table(title, names, [[cell(row.get(name)) for name in names] for row in rows])


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "model": processor_model(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "fused": fused.state(),
        **{k: v for k, v in vars(args).items() if k != "out"},
    }
    print(json.dumps(machine), flush=True)
    rows, speeds = [], []
    for side in args.L:
        found = measure(side, args)
        rows, speeds = rows + found[0], speeds + found[1]
    kinds = ("fused", "eager")
    per = [f"{kind} ns {what}" for what in ("/ gradient", "beside") for kind in kinds]
    table(
        "nanoseconds per site and gradient, and per site beside the gradients", speeds, ["L", "method", *per]
    )
    names = ["L", "method", "length", "step", "acceptance", "gradients", *(f"tau {o}" for o in DECIDING)]
    table("tuned runs", rows, [*names, *(f"mean {o}" for o in OBSERVABLES)])
    names = [f"{kind}ms {o}" for o in DECIDING for kind in ("", "eager ")]
    table("milliseconds per effective sample", rows, ["L", "method", "update us", "eager update us", *names])
    if args.out is not None:
        plain = [
            {k: str(v) if not isinstance(v, float | int | dict) else v for k, v in row.items()}
            for row in rows
        ]
        write_json({"machine": machine, "rows": plain, "per gradient": speeds}, args.out)


def processor_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
