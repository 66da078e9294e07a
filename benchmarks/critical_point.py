"""Where is the critical coupling, from one flow for a range of couplings and from HMC with clusters?

Binder cumulants `U4 = 1 - <M^4> / (3 <M^2>^2)` and the second-moment correlation length over the side,
`xi / L = sqrt(S(0) / S(p) - 1) / (2 L sin(pi / L))`, `p = 2 pi / L`, as functions of lam at m2 = -4. Curves
of sides L and 2L cross at `lam_c + A L^-(1/nu + omega)`, with the exponents of the Ising model in two
dimensions: nu = 1 and omega = 7/4. A fit to these crossings with their covariance gives lam_c without further
input. Where the curves have their universal values at criticality on a square torus, U4* = 0.61069 and
(xi / L)* = 0.90505 (cond-mat/9904038), lam goes to lam_c with the same power, and with a smaller error.
What is quoted is the fit to these from L = 32 on, with the change under the power 2 in place of 11/4 in its
error.

- Chains: HMC by turns with three Wolff updates, 64 chains at one coupling, reweighted by
  `exp(-(lam - lam_0) sum phi^4)`.
- Flow: one `ConditionalFlow` in lam, trained on the smallest side and resized from one side to the next.
  Samples at several couplings are pooled: their weights know Z, so every ensemble estimates the same
  integrals `Z(lam) <O>` without a fit.

Errors are jackknife errors over 64 blocks, which are the chains or parts of the independent samples.

    python benchmarks/critical_point.py --stages chains --work runs/critical
    python benchmarks/critical_point.py --stages train sample --work runs/critical
    python benchmarks/critical_point.py --stages fit --work runs/critical
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ranges import times_set_back, trained_on
from matplotlib.figure import Figure
from torch import Tensor

import equiflow
from equiflow import (
    HMC,
    Alternate,
    ConditionalFlow,
    Lattice,
    Phi4,
    Wolff,
    importance_sample,
)
from equiflow.report import print_table, write_json
from equiflow.report.plots import FLOW, MUTED, REFERENCE, save_figure
from equiflow.statistics import effective_sample_size, integrated_autocorrelation_time

M2, BLOCKS = -4.0, 64
UNIVERSAL = {"U4": 0.610690, "xi / L": 0.905049}
#: correction to scaling in crossings of L and 2L
EXPONENT = 1 + 7 / 4
#: of the sides
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
RESULTS = Path(__file__).parent / "results"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--stages", nargs="+", default=["chains", "train", "sample", "fit"],
                    choices=["chains", "train", "sample", "fit"], help="what to do")  # fmt: skip
parser.add_argument("--L", type=int, nargs="+", default=[16, 24, 32, 48, 64], help="sides")
parser.add_argument("--centre", type=float, default=4.24, help="coupling of the chains")
parser.add_argument(
    "--updates", type=int, nargs="+", default=[24000, 12000, 12000, 8000, 8000], help="per side"
)
parser.add_argument("--thermalisation", type=int, default=1000, help="updates before, from a hot start")
parser.add_argument("--range", type=float, nargs=2, default=[4.18, 4.3], help="couplings of the flow")
parser.add_argument("--steps", type=int, nargs="+", default=[500, 150, 500, 150, 500], help="per side")
parser.add_argument("--batch-size", type=int, default=16, help="model samples per step")
parser.add_argument("--kernels", default="orbits", choices=["smooth", "orbits"], help="of PotentialField")
parser.add_argument("--degree", type=int, default=2, help="of the weights in lam")
parser.add_argument("--at", type=float, nargs="+", default=[4.22, 4.24, 4.26], help="couplings to sample at")
parser.add_argument(
    "--samples", type=int, nargs="+", default=[4096], help="at each coupling, one or each side"
)
parser.add_argument("--accuracy", type=float, default=1e-2, help="largest solver error of log Z")
parser.add_argument("--window", type=float, default=0.06, help="of couplings about the centre for crossings")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--work", type=Path, default=Path("runs/critical"), help="folder for series and flows")
parser.add_argument("--out", type=Path, default=RESULTS / "critical_point.json")
parser.add_argument("--plot", type=Path, default=RESULTS / "critical_point.png")


def reduced(phi: Tensor) -> np.ndarray:
    """Return M^2, sum phi^4 and S(p) / V of every configuration, `(batch, 3)` in float64."""
    phi = phi.double()
    side = phi.shape[-1]
    wave = torch.exp(-2j * math.pi / side * torch.arange(side, dtype=torch.float64))
    lines = torch.stack([phi.mean(1), phi.mean(2)]).to(wave.dtype)
    columns = (
        phi.mean((1, 2)).square(),
        phi.pow(4).sum((1, 2)),
        ((lines @ wave) / side).abs().square().mean(0),
    )
    return torch.stack(columns, 1).numpy()


def one_each(given: list[int], args: argparse.Namespace) -> dict[int, int]:
    return dict(zip(args.L, given * len(args.L) if len(given) == 1 else given, strict=True))


def run_chains(side: int, updates: int, args: argparse.Namespace) -> None:
    """Run the chains of one side; keep three numbers of every third update, and times."""
    action = Phi4(Lattice((side, side)), m2=M2, lam=args.centre)
    kernel = Alternate(HMC(action, trajectory_length=1.0), *[Wolff(action) for _ in range(3)])
    options = {"n_chains": BLOCKS, "generator": torch.Generator().manual_seed(args.seed), "progress": False}
    thin, kept = 3, max(1, 2**21 // (BLOCKS * side**2))
    last = kernel.sample(1, n_thermalisation=args.thermalisation, thin=thin, **options)
    parts, start = [], time.process_time()
    for _ in range(math.ceil(updates / (thin * kept))):
        last = last.kernel.sample(kept, start=last, thin=thin, generator=options["generator"], progress=False)
        parts.append(reduced(last.samples.flatten(0, 1)).reshape(kept, BLOCKS, 3))
    seconds = time.process_time() - start
    series = np.concatenate(parts).transpose(1, 0, 2)  # (chain, time, 3)
    np.savez(args.work / f"chains-{side}.npz", series=series, seconds=seconds, thin=thin, lam=args.centre)
    print(f"L = {side}: {series.shape[1] * thin} updates of {BLOCKS} chains, {seconds:.0f} s", flush=True)


def train(args: argparse.Namespace) -> None:
    """Train one flow in lam on each side in turn."""
    torch.manual_seed(args.seed)
    flow: ConditionalFlow | None = None
    for side, steps in one_each(args.steps, args).items():
        path, lattice = args.work / f"flow-{side}.pt", Lattice((side, side))
        if path.exists():
            flow = ConditionalFlow.load(path)
            continue
        flow, history, seconds = trained_on(
            lattice,
            flow,
            tuple(args.range),
            m2=M2,
            kernels=args.kernels,
            degree=args.degree,
            n_couplings=4,
            focus=1.0,
            steps=steps,
            batch_size=args.batch_size,
            seed=args.seed,
        )
        flow.about = {
            "steps": steps,
            "seconds": seconds,
            "training_nfe": max(history.nfe),
            "set_back": times_set_back(history),
        }
        flow.save(path)
        print(f"L = {side}: {flow.about}", flush=True)


def draw(side: int, n_samples: int, args: argparse.Namespace) -> None:
    """Draw from the flow at several couplings; keep three numbers and log w of every sample."""
    conditional = ConditionalFlow.load(args.work / f"flow-{side}.pt")
    generator = torch.Generator().manual_seed(args.seed + side)
    found: dict[str, Any] = {"lam": args.at}
    shifts, nfe, seconds = [], [], []
    for index, lam in enumerate(args.at):
        action = Phi4(Lattice((side, side)), m2=M2, lam=lam)
        flow = conditional.at(lam=lam)
        flow.tune_solver(args.accuracy, action=action, n_samples=32, generator=generator)
        start = time.process_time()
        ensemble = importance_sample(
            flow, action, n_samples, batch_size=max(16, 2**17 // side**2), certify=0, generator=generator
        )
        seconds.append(time.process_time() - start)
        certificate = flow.certificate(32, action=action, generator=generator)
        shifts.append(certificate.log_z_shift)
        nfe.append(certificate.nfe)
        found[f"series-{index}"] = reduced(ensemble.phi)
        found[f"log_w-{index}"] = ensemble.log_weight.double().numpy()
        print(f"L = {side}, lam = {lam}: ESS {ensemble.effective_sample_size()}, nfe {nfe[-1]}, "
              f"shift {shifts[-1]:.1e}, {seconds[-1]:.0f} s", flush=True)  # fmt: skip
    found |= {"shift": shifts, "nfe": nfe, "seconds": seconds}
    np.savez(args.work / f"samples-{side}.npz", **found)


@dataclass(frozen=True)
class Sums:
    """Weighted sums over blocks, of which one can be left out.

    Attributes:
        sums: of w, w M^2, w M^4, w S(p) / V, `(block, lam, 4)`.
        side: of the lattice.
    """

    sums: np.ndarray
    side: int

    def curves(self) -> dict[str, np.ndarray]:
        """Return U4 and xi / L on the couplings: of all blocks, then without each, `(1 + block, lam)`."""
        total = self.sums.sum(0)
        left_out = np.concatenate([total[None], total - self.sums])
        m2, m4, sp = (left_out[..., k] / left_out[..., 0] for k in (1, 2, 3))
        xi = np.sqrt(np.maximum(m2 / sp - 1, 1e-12)) / (2 * math.sin(math.pi / self.side))
        return {"U4": 1 - m4 / (3 * m2**2), "xi / L": xi / self.side}


def weighted(series: np.ndarray, log_w: np.ndarray) -> np.ndarray:
    """Return the sums of a block, `(lam, 4)`, for log weights `(lam, sample)`."""
    m2, sp = series[:, 0], series[:, 2]
    return np.exp(log_w) @ np.stack([np.ones_like(m2), m2, m2**2, sp], 1)


def sums_of_chains(side: int, lams: np.ndarray, args: argparse.Namespace) -> Sums:
    saved = np.load(args.work / f"chains-{side}.npz")
    series, mean = saved["series"], saved["series"][..., 1].mean()
    change = -(lams - float(saved["lam"]))[:, None]
    return Sums(np.stack([weighted(one, change * (one[:, 1] - mean)) for one in series]), side)


def sums_of_flow(side: int, lams: np.ndarray, args: argparse.Namespace) -> Sums:
    """Pool the ensembles, each with as much weight as it has effective samples at the coupling asked for."""
    saved = np.load(args.work / f"samples-{side}.npz")
    ensembles = []
    for index, lam in enumerate(saved["lam"]):
        series = saved[f"series-{index}"]
        ensembles.append((series, saved[f"log_w-{index}"] - (lams - lam)[:, None] * series[:, 1]))
    top = np.max([log_w.max(1) for _, log_w in ensembles], 0)[:, None]  # one for all: weights know Z
    pooled = 0.0
    for series, log_w in ensembles:
        w = np.exp(log_w - top)
        effective = w.sum(1) ** 2 / (w**2).sum(1)
        blocks = np.array_split(np.arange(len(series)), BLOCKS)
        sums = np.stack([weighted(series[b], (log_w - top)[:, b]) for b in blocks])
        pooled = pooled + sums * (effective / len(series))[:, None]
    return Sums(pooled, side)


def jackknife_error(values: np.ndarray) -> np.ndarray:
    """Return errors from leaving blocks out, `(block, ...)`."""
    return np.sqrt((len(values) - 1) * values.var(0))


def root(lams: np.ndarray, difference: np.ndarray) -> float:
    """Return where a curve changes its sign nearest to the centre, linearly interpolated; else NaN."""
    left, right = difference[:-1], difference[1:]
    (changes,) = np.nonzero(left * right <= 0)
    if not len(changes):
        return math.nan
    where = lams[changes] + np.diff(lams)[changes] * left[changes] / (left[changes] - right[changes])
    return float(where[np.abs(where - lams.mean()).argmin()])


@dataclass(frozen=True)
class Crossings:
    """Couplings where curves cross, and how they move if a block of one side is left out.

    Attributes:
        labels: of the crossings.
        values: `(crossing,)`.
        covariance: `(crossing, crossing)`.
        sides: the smaller side of each.
    """

    labels: list[str]
    values: np.ndarray
    covariance: np.ndarray
    sides: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))

    def fitted(self, *, smallest: int = 0, exponent: float = EXPONENT) -> dict[str, float]:
        """Fit `lam_c + A_k L^-(1 + omega)`, with A for each observable, by least squares with covariance."""
        keep = self.sides >= smallest
        names = [label.split(":")[0] for label in self.labels]
        kinds = sorted(set(names))
        columns = [np.ones(len(names))]
        columns += [np.array([n == kind for n in names]) * self.sides**-exponent for kind in kinds]
        design, values = np.stack(columns, 1)[keep], self.values[keep]
        inverse = np.linalg.pinv(self.covariance[np.ix_(keep, keep)])
        covariance = np.linalg.inv(design.T @ inverse @ design)
        best = covariance @ design.T @ inverse @ values
        rest = values - design @ best
        return {
            "lam_c": float(best[0]),
            "error": float(math.sqrt(covariance[0, 0])),
            "chi2": float(rest @ inverse @ rest),
            "dof": int(keep.sum() - len(best)),
        }


def crossings(
    curves: dict[int, dict[str, np.ndarray]], lams: np.ndarray, *, with_universal: bool
) -> Crossings:
    """Find crossings of L and 2L, or of each L and the universal value."""
    labels, sides, full, moved = [], [], [], {side: [] for side in curves}
    for name in UNIVERSAL:
        for side in curves:
            other = None if with_universal else 2 * side
            if other is not None and other not in curves:
                continue
            one = curves[side][name]
            two = np.full_like(one, UNIVERSAL[name]) if other is None else curves[other][name]
            labels.append(f"{name}: {side}, {other or 'universal'}")
            sides.append(side)
            full.append(root(lams, two[0] - one[0]))
            for mover in curves:
                a = one[1:] if mover == side else np.repeat(one[:1], BLOCKS, 0)
                b = two[1:] if mover == other else np.repeat(two[:1], BLOCKS, 0)
                is_still = mover not in (side, other)
                moved[mover].append([full[-1]] * BLOCKS if is_still else [root(lams, r) for r in b - a])
    # Curves of the smallest sides may cross outside of the window.
    rows = {side: np.array(values) for side, values in moved.items()}
    sound = [np.isfinite(values).reshape(len(full), -1).all(1) for values in rows.values()]
    keep = np.isfinite(full) & np.all(sound, 0)
    covariance = sum(
        (BLOCKS - 1) * np.atleast_2d(np.cov(values[keep], bias=True)) for values in rows.values()
    )
    kept = [label for label, is_kept in zip(labels, keep, strict=True) if is_kept]
    return Crossings(kept, np.array(full)[keep], covariance, np.array(sides, float)[keep])


def analyse(
    make: Callable[[int, np.ndarray, argparse.Namespace], Sums], sides: list[int], args: argparse.Namespace
) -> dict[str, Any]:
    lams = np.linspace(args.centre - args.window, args.centre + args.window, 41)
    curves = {side: make(side, lams, args).curves() for side in sides}
    found: dict[str, Any] = {"lams": lams.tolist(), "curves": {}}
    for side, by_name in curves.items():
        found["curves"][str(side)] = {
            name: {"mean": rows[0].tolist(), "error": jackknife_error(rows[1:]).tolist()}
            for name, rows in by_name.items()
        }
    for what, with_universal in (("pairs", False), ("universal", True)):
        points = crossings(curves, lams, with_universal=with_universal)
        found[what] = {
            "crossings": {
                label: [float(v), float(e)]
                for label, v, e in zip(points.labels, points.values, points.errors, strict=True)
            }
        }
        if len(points.values) > 3:
            found[what]["fits"] = {
                f"L >= {smallest}, power {exponent:g}": points.fitted(smallest=smallest, exponent=exponent)
                for smallest in (16, 24, 32)
                for exponent in (2.0, EXPONENT)
                if (points.sides >= smallest).sum() > 3
            }
    return found


def costs_of_chains(side: int, args: argparse.Namespace) -> dict[str, float]:
    saved = np.load(args.work / f"chains-{side}.npz")
    series, thin = saved["series"], int(saved["thin"])
    n_updates = series.shape[0] * series.shape[1] * thin
    per_update = float(saved["seconds"]) / n_updates
    found: dict[str, float] = {"microseconds_per_update": 1e6 * per_update, "updates": n_updates}
    for name, values in (("|M|", np.sqrt(series[..., 0])), ("phi4", series[..., 1])):
        tau = integrated_autocorrelation_time(torch.from_numpy(values.T.copy()))
        found[f"tau {name}"], found[f"tau {name} error"] = thin * tau.mean, thin * tau.error
    found["ms_per_independent"] = 2e3 * found["tau |M|"] * per_update
    return found | {"seconds": float(saved["seconds"])}


def costs_of_flow(side: int, args: argparse.Namespace) -> dict[str, Any]:
    saved = np.load(args.work / f"samples-{side}.npz")
    about = ConditionalFlow.load(args.work / f"flow-{side}.pt").about
    found: dict[str, Any] = {"training_seconds": about["seconds"], "steps": about["steps"]}
    found |= {"set_back": about["set_back"], "training_nfe": about["training_nfe"], "at": {}}
    for index, lam in enumerate(saved["lam"]):
        ess = effective_sample_size(torch.from_numpy(saved[f"log_w-{index}"]))
        n = len(saved[f"log_w-{index}"])
        seconds = float(saved["seconds"][index])
        found["at"][f"{lam:g}"] = {"ess": ess.mean, "error": ess.error, "samples": n,
                                   "nfe": int(saved["nfe"][index]), "shift": float(saved["shift"][index]),
                                   "ms_per_independent": 1e3 * seconds / (n * ess.mean)}  # fmt: skip
    return found


def picture(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    sources = [(name, results[name]) for name in ("chains", "flow") if name in results]
    for panel, name, label in zip(panels, UNIVERSAL, (r"$U_4$", r"$\xi / L$"), strict=False):
        for source, found in sources:
            sides = list(found["curves"])
            for index, side in enumerate(sides):
                curve = found["curves"][side][name]
                colour = COLOURS[index % len(COLOURS)]
                if source == "chains":
                    low, high = (np.array(curve["mean"]) + s * np.array(curve["error"]) for s in (-1, 1))
                    panel.fill_between(found["lams"], low, high, color=colour, alpha=0.5, lw=0,
                                       label=f"L = {side}")  # fmt: skip
                else:
                    panel.errorbar(found["lams"][::4], curve["mean"][::4], curve["error"][::4], fmt="o",
                                   ms=3, color=colour, capsize=2)  # fmt: skip
        panel.axhline(UNIVERSAL[name], color=MUTED, lw=0.8, ls="--")
        panel.set(xlabel=r"$\lambda$", ylabel=label, title=f"{label}: bands HMC + Wolff, points flow")
        panel.legend(frameon=False, fontsize=8)
    for source, found in sources:
        colour = REFERENCE if source == "chains" else FLOW
        for what, marker in (("pairs", "o"), ("universal", "^")):
            for label, (value, error) in found[what]["crossings"].items():
                name, side = label.split(": ")[0], float(label.split(": ")[1].split(",")[0])
                shift = 1.02 if source == "flow" else 0.98
                panels[2].errorbar(
                    [side ** -EXPONENT * shift], [value], [error], fmt=marker, color=colour, capsize=2, ms=5,
                    mfc="white" if name == "U4" else colour,
                )  # fmt: skip
    lam_c, error = results["lam_c"], results["lam_c_error"]
    panels[2].axhspan(lam_c - error, lam_c + error, color=MUTED, alpha=0.4, lw=0)
    panels[2].set(xlabel=r"$L^{-11/4}$", ylabel=r"crossing $\lambda$", xscale="log",
                  title=f"crossings: $\\lambda_c$ = {lam_c:.4f} ± {error:.4f}")  # fmt: skip
    panels[2].plot([], [], "o", color=REFERENCE, label="HMC + Wolff")
    panels[2].plot([], [], "o", color=FLOW, label="flow")
    panels[2].plot([], [], "ko", mfc="white", label=r"open $U_4$, filled $\xi/L$")
    panels[2].plot([], [], "k^", mfc="white", label="with the universal value")
    panels[2].legend(frameon=False, fontsize=8)
    return figure


def summarise(args: argparse.Namespace) -> None:
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "equiflow": equiflow.__version__, "clock": "processor time",
            "flow": "float32", "chains": "float64", "seed": args.seed, "degree": args.degree,
            "batch_size": args.batch_size,
        },
        "costs": {},
    }  # fmt: skip
    for source, make, costs, stem in (
        ("chains", sums_of_chains, costs_of_chains, "chains"),
        ("flow", sums_of_flow, costs_of_flow, "samples"),
    ):
        sides = [side for side in args.L if (args.work / f"{stem}-{side}.npz").exists()]
        if sides:
            results[source] = analyse(make, sides, args)
            results["costs"][source] = {str(side): costs(side, args) for side in sides}
    best = results.get("chains", results.get("flow"))
    assert best is not None
    fits = best["universal"].get("fits", {})
    chosen, other = (fits.get(f"L >= 32, power {power:g}") for power in (EXPONENT, 2.0))
    results |= {"lam_c": args.centre, "lam_c_error": 0.0}
    if chosen and other:  # what another power would give is part of the error
        error = math.hypot(chosen["error"], chosen["lam_c"] - other["lam_c"])
        results |= {"lam_c": chosen["lam_c"], "lam_c_error": error}
    for source in ("chains", "flow"):
        for what in ("pairs", "universal"):
            if source in results:
                rows = results[source][what]["crossings"].items()
                shown = [[label, f"{value:.5f} ± {error:.5f}"] for label, (value, error) in rows]
                print_table(
                    f"{source}, {what}: {results[source][what].get('fits')}", ["crossing", "lam"], shown
                )
    print(json.dumps(results["costs"], indent=1))
    write_json(results, args.out)
    save_figure(picture(results), args.plot)


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    if "chains" in args.stages:
        for side, updates in one_each(args.updates, args).items():
            run_chains(side, updates, args)
    if "train" in args.stages:
        train(args)
    if "sample" in args.stages:
        for side, n_samples in one_each(args.samples, args).items():
            draw(side, n_samples, args)
    if "fit" in args.stages:
        summarise(args)


if __name__ == "__main__":
    main()
