"""Reference values at m_p L = 4, each twice: from a Markov chain and from a flow, with their distance.

For every preset asked for: chi2, <phi^2>, the nearest-neighbour correlation, m_p L, the Binder cumulant and
-log Z / V, with errors, and beside them the published figures that the preset knows.

- Markov chain: HMC, by turns with Swendsen-Wang clusters of the signs, in float64 from 64 chains; errors by
  jackknife over whole chains, so that no autocorrelation enters them. log Z knows nothing of a flow: it is
  integrated from a free field, `S_s = (1 - s) S_free + s S`, `d log Z / ds = -<S - S_free>_s`, by
  Gauss-Legendre with HMC at every node.
- flow: the packaged one of the nearest size, resized and trained on, unless it is for this lattice; weighted
  samples in float32, its solver tuned, errors of sampling and of the solver in quadrature.

The CSV has one line per preset and quantity, in `sigma` the distances in combined errors; it is written after
every preset.

    python benchmarks/reference_observables.py --out benchmarks/results/reference_observables.csv
"""

import argparse
import csv
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import equiflow
from equiflow import (
    HMC,
    Alternate,
    Ensemble,
    EquivariantCNF,
    Estimate,
    FreeScalar,
    Phi4,
    SwendsenWang,
    fit,
    importance_sample,
    measure,
    presets,
)
from equiflow.report import print_table
from equiflow.runtime.storage import written_atomically
from equiflow.theories.scalar.presets import Preset

NAMES = ("albergo-E1", "albergo-E2", "albergo-E3", "albergo-E4", "albergo-E5", "equiflow-L16", "gerdes-L20")
#: preset -> packaged flow to start from, and steps of training on its own lattice
START = {
    "albergo-E1": ("phi4-2d-L8", 150),
    "albergo-E2": ("phi4-2d-L8", 0),
    "albergo-E3": ("phi4-2d-L8", 200),
    "albergo-E4": ("phi4-2d-L16", 200),
    "albergo-E5": ("phi4-2d-L16", 200),
    "equiflow-L16": ("phi4-2d-L16", 0),
    "gerdes-L20": ("phi4-2d-L16", 300),
}
MEASURED = ("susceptibility", "phi_squared", "nearest_neighbour", "mass_times_length", "binder")
CHAINS = 64
COLUMNS = (
    *("preset", "L", "lam", "quantity", "hmc", "hmc_error", "flow", "flow_error", "sigma"),
    *("published", "published_error", "published_source", "hmc_sigma", "flow_sigma", "seed"),
)
Row = dict[str, object]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--presets", nargs="+", default=list(NAMES), choices=list(START), help="which")
parser.add_argument("--hmc", type=int, default=200, help="samples kept per chain")
parser.add_argument("--thin", type=int, default=8, help="trajectories per kept sample")
parser.add_argument("--nodes", type=int, default=8, help="of the integral for log Z")
parser.add_argument("--node-samples", type=int, default=50, help="samples kept per chain at a node")
parser.add_argument("--samples", type=int, default=32768, help="of the flow")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--seed", type=int, default=0, help="of the chains; the flow's samples take the next")
parser.add_argument("--out", type=Path, required=True, help="CSV file")


def free_energy_by_hmc(action: Phi4, args: argparse.Namespace, generator: torch.Generator) -> Estimate:
    """Integrate `-log Z / V` from the free field of unit mass along `S_s = (1 - s) S_free + s S`."""
    free = FreeScalar(action.lattice, m2=1.0)
    s, weights = np.polynomial.legendre.leggauss(args.nodes)
    log_z, variance = free.log_z(), 0.0
    for node, weight in zip((1 + s) / 2, weights / 2, strict=True):
        at_node = Phi4(action.lattice, m2=1 + node * (action.m2 - 1), lam=node * action.lam)
        chain = HMC(at_node).sample(
            args.node_samples, n_chains=CHAINS, n_thermalisation=200, thin=4, generator=generator
        )
        per_chain = chain.series(lambda phi: action(phi) - free(phi)).mean(0)
        log_z -= weight * float(per_chain.mean())
        variance += weight**2 * float(per_chain.var()) / CHAINS
    volume = action.lattice.volume
    return Estimate(-log_z / volume, math.sqrt(variance) / volume)


def by_hmc(preset: Preset, args: argparse.Namespace) -> dict[str, Estimate]:
    generator = torch.Generator().manual_seed(args.seed)
    kernel = Alternate(HMC(preset.action), SwendsenWang(preset.action))
    chain = kernel.sample(
        args.hmc, n_chains=CHAINS, n_thermalisation=400, thin=args.thin, generator=generator
    )
    measured = measure(chain)
    values = {name: getattr(measured, name) for name in MEASURED}
    return values | {"free_energy_density": free_energy_by_hmc(preset.action, args, generator)}


def flow_for(preset: Preset, seed: int) -> EquivariantCNF:
    start, steps = START[preset.name]
    flow = EquivariantCNF.pretrained(start)
    if not steps:
        return flow
    flow = flow.resized(preset.lattice)
    fit(flow, preset.action, steps=steps, batch_size=128, learning_rate=flow.learning_rate / 2, seed=seed)
    return flow


def by_flow(preset: Preset, args: argparse.Namespace) -> tuple[dict[str, Estimate], Ensemble]:
    flow, action = flow_for(preset, args.seed), preset.action
    generator = torch.Generator().manual_seed(args.seed + 1)
    flow.tune_solver(1e-3, action=action, generator=generator)
    ensemble = importance_sample(flow, action, args.samples, batch_size=256, certify=512, generator=generator)
    measured, volume = measure(ensemble), preset.lattice.volume
    log_z = ensemble.log_z()
    values = {name: getattr(measured, name) for name in MEASURED}
    values["free_energy_density"] = Estimate(
        -log_z.mean / volume, log_z.error / volume, systematic=log_z.systematic / volume
    )
    return values, ensemble


def rows_of(preset: Preset, args: argparse.Namespace) -> Iterator[Row]:
    start = time.process_time()
    chain = by_hmc(preset, args)
    middle = time.process_time()
    flow, ensemble = by_flow(preset, args)
    ess = ensemble.effective_sample_size()
    print(
        f"{preset.name}: HMC {middle - start:.0f} s, flow {time.process_time() - middle:.0f} s of the "
        f"processor, reverse ESS {ess}, {ensemble.certificate}",
        flush=True,
    )
    known = {figure.quantity: figure for figure in preset.published}
    for quantity, expected in chain.items():
        value, figure = flow[quantity], known.get(quantity)
        yield {
            **{"preset": preset.name, "L": preset.lattice.shape[0], "lam": preset.lam, "quantity": quantity},
            **{"hmc": expected.mean, "hmc_error": expected.error},
            **{"flow": value.mean, "flow_error": value.total_error, "sigma": value.sigmas_from(expected)},
            "published": figure and figure.value,
            "published_error": figure and figure.error,
            "published_source": figure and figure.source,
            "hmc_sigma": figure and figure.sigmas_from(expected),
            "flow_sigma": figure and figure.sigmas_from(value),
            "seed": args.seed,
        }


def write(rows: list[Row], args: argparse.Namespace) -> None:
    with written_atomically(args.out) as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()})


def print_rows(rows: list[Row]) -> None:
    shown = [
        [
            *(row["preset"], row["quantity"]),
            Estimate(row["hmc"], row["hmc_error"]),
            Estimate(row["flow"], row["flow_error"]),
            f"{row['sigma']:+.1f}",
            "" if row["published"] is None else Estimate(row["published"], row["published_error"]),
            "" if row["published"] is None else f"{row['hmc_sigma']:+.1f}, {row['flow_sigma']:+.1f}",
        ]
        for row in rows
    ]
    header = ["preset", "quantity", "HMC", "flow", "sigma", "published", "sigma of HMC, flow"]
    print_table("reference observables", header, shown)
    distances = [float(row["sigma"]) for row in rows]
    chi2 = sum(d * d for d in distances)
    print(f"sum of sigma^2 over {len(rows)} comparisons of HMC and flow: {chi2:.1f}")


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{platform.machine()}, torch {torch.__version__}, equiflow {equiflow.__version__}, {vars(args)}")
    rows: list[Row] = []
    for name in args.presets:
        rows += rows_of(presets.get(name), args)
        write(rows, args)
    print_rows(rows)


if __name__ == "__main__":
    main()
