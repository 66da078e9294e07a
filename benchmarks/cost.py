"""What does a result on plain phi^4 cost, with a flow and without one, each at its best settings?

On the line m_p L = 4, m2 = -4, in processor time:

- an effective sample of an observable: `time x error^2 / variance`, for |M|, chi2 (the zero mode squared) and
  phi^2. For a chain this is 2 tau_int times the time of an update of one chain, tau_int by the Gamma method;
  for weighted samples the error is that of the reweighted mean, with the variance of the target;
- log Z to a statistical error of 1e-3: `time x (error / 1e-3)^2`.

Chains: trajectory lengths, then the acceptances at which steps are tuned, are scanned for the least cost of
|M| and chi2; a fresh run at the best is reported. Flows take the cheapest solver whose error of log Z is
below `--accuracy`; two levels and the numbers of annealing steps are chosen by pilots. Two more ways to log Z
need no flow: annealed importance sampling and thermodynamic integration, by HMC, from the free field of unit
mass along `S_s = (1 - s) S_free + s S`. The integration gets credit for the best share of time of each node.

All methods take turns, round by round. Tuning, burn-in and the compilation of kernels are left out for all.
Flows are trained here by default options, at L = 64 from that of L = 32; their training is given apart, with
the number of effective samples and the error of a single log Z from which on it pays. MCLMC is biased: its
bias is shown beside its cost.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import equiflow
from equiflow import (
    HMC,
    MCLMC,
    OMELYAN,
    AdjustedMCLMC,
    Alternate,
    EquivariantCNF,
    FreeScalar,
    Kernel,
    LatentHMC,
    Lattice,
    PathGradient,
    Phi4,
    Solver,
    SolverError,
    SwendsenWang,
    Wolff,
    annealed_importance_sample,
    fit,
    fused,
    importance_sample,
)
from equiflow import observables as obs
from equiflow.report import print_table, write_json
from equiflow.samplers import Ensemble, choose_levels
from equiflow.samplers.mclmc import widest
from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series

M2, M_PL_4 = -4.0, {8: 6.008, 16: 4.97, 32: 4.572, 64: 4.398}
OBSERVABLES = {"|M|": obs.abs_magnetisation, "chi2": obs.susceptibility, "phi^2": obs.phi_squared}
DECIDING = ("|M|", "chi2")
LOG_Z = "log Z"
WANTED = 1e-3  # error of log Z
COLUMNS = (*OBSERVABLES, LOG_Z)
#: through a flow, trajectories take minutes per effective sample on larger lattices
LATENT_UP_TO = 32
SITES_AT_ONCE = 65536
#: lengths tried beyond those listed, while the best is at an end
EXTENSIONS = 4
Row = dict[str, Any]
Costs = dict[str, Estimate]
#: side -> flow and seconds of its training
Trained = dict[int, tuple[EquivariantCNF, float]]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--L", type=int, nargs="+", default=list(M_PL_4), choices=list(M_PL_4), help="sides")
parser.add_argument("--quick", action="store_true", help="L = 8 in seconds: a test of the script, no result")
parser.add_argument("--seconds", type=float, default=5.0, help="of each method and side, over all rounds")
parser.add_argument("--scan-seconds", type=float, default=0.4, help="of each setting that is tried")
parser.add_argument("--rounds", type=int, default=5, help="turns of each method")
parser.add_argument("--accuracy", type=float, default=3e-4, help="solver error of log Z")
parser.add_argument("--train-seconds", type=float, default=90.0, help="training at L = 64")
parser.add_argument("--packaged", action="store_true", help="flows of the package instead of new ones")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", choices=["cpu"], help="where to compute")
parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="precision")
parser.add_argument("--seed", type=int, default=0, help="of everything random")
parser.add_argument("--out", type=Path, help="folder of cost.json and cost.md; sides are added")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def n_chains_of(action: Phi4) -> int:
    return max(16, min(512, SITES_AT_ONCE // action.lattice.volume))


def averaged(values: Sequence[float]) -> Estimate:
    """Return the mean of the values of all rounds."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(statistics.mean(values), error)


def ratio(above: Estimate, below: Estimate) -> Estimate:
    value = above.mean / below.mean
    return Estimate(value, value * math.hypot(above.error / above.mean, below.error / below.mean))


@dataclass
class Method:
    """A way to results, and what it gave in each of its turns."""

    name: str
    about: Row = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    has_training: bool = False

    def prepare(self, seconds: float) -> None:
        """Choose how much to do in a turn of so many seconds."""
        raise NotImplementedError

    def turn(self) -> None:
        raise NotImplementedError

    def costs(self, variances: dict[str, float]) -> Costs:
        raise NotImplementedError

    def means(self) -> Costs:
        return {}


@dataclass
class Chains(Method):
    """Chains that go on from turn to turn."""

    kernel: Kernel | None = None
    phi: Tensor | None = None
    generator: torch.Generator | None = None
    n_updates: int = 20
    series: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in OBSERVABLES})

    def run(self, n: int) -> tuple[Any, float]:
        """Make n updates, and return the chain with the seconds of an update of one of its chains."""
        assert self.kernel is not None
        assert self.phi is not None
        draw = partial(
            self.kernel.sample, n, n_chains=len(self.phi), n_thermalisation=0, initial=self.phi, certify=0,
            generator=self.generator,
        )  # fmt: skip
        chain, seconds = timed(draw)
        self.phi = chain.samples[-1]
        return chain, seconds / n / len(self.phi)

    def prepare(self, seconds: float) -> None:
        assert self.phi is not None
        _, each = self.run(min(20, self.n_updates))
        self.n_updates = max(4, min(4000, round(seconds / each / len(self.phi))))

    def turn(self) -> None:
        chain, each = self.run(self.n_updates)
        self.seconds.append(each)
        for name, observable in OBSERVABLES.items():
            self.series[name].append(chain.series(observable))

    def costs(self, variances: dict[str, float]) -> Costs:
        assert self.phi is not None
        self.about |= {"updates": self.n_updates * len(self.seconds), "chains": len(self.phi)}
        each, found = averaged(self.seconds), {}
        for name, parts in self.series.items():
            tau = integrated_autocorrelation_time(torch.cat(parts))
            self.about[f"tau {name}"] = str(tau)
            value = 2e3 * tau.mean * each.mean
            found[name] = Estimate(
                value, value * math.hypot(tau.error / tau.mean, each.error / each.mean), note=tau.note
            )
        return found

    def means(self) -> Costs:
        return {name: mean_of_series(torch.cat(parts)) for name, parts in self.series.items()}

    def variances(self) -> dict[str, float]:
        return {name: float(torch.cat(parts).double().var()) for name, parts in self.series.items()}


@dataclass
class Weighted(Method):
    """Independent weighted samples; `results` are those that this way is tuned for."""

    draw: Callable[[int], Ensemble] | None = None
    n: int = 64
    results: tuple[str, ...] = COLUMNS
    found: list[dict[str, Estimate]] = field(default_factory=list)

    def prepare(self, seconds: float) -> None:
        assert self.draw is not None
        _, spent = timed(lambda: self.draw(self.n))
        self.n = max(32, min(200_000, round(self.n * seconds / spent)))

    def turn(self) -> None:
        assert self.draw is not None
        ensemble, spent = timed(lambda: self.draw(self.n))
        self.seconds.append(spent)
        self.found.append({name: ensemble.mean(o) for name, o in OBSERVABLES.items()})
        self.found[-1][LOG_Z] = ensemble.log_z()

    def costs(self, variances: dict[str, float]) -> Costs:
        self.about |= {"samples": self.n * len(self.seconds)}
        square = variances | {LOG_Z: WANTED**2}
        turns = list(zip(self.seconds, self.found, strict=True))
        return {
            name: averaged([1e3 * spent * one[name].error ** 2 / square[name] for spent, one in turns])
            for name in self.results
        }

    def means(self) -> Costs:
        n = len(self.found)
        return {
            name: Estimate(
                statistics.mean(one[name].mean for one in self.found),
                math.sqrt(sum(one[name].error ** 2 for one in self.found)) / n,
            )
            for name in self.results
        }


@dataclass
class Integration(Method):
    """Thermodynamic integration of log Z by chains at the nodes of a Gauss-Legendre rule."""

    action: Phi4 | None = None
    nodes: list[tuple[float, Chains]] = field(default_factory=list)
    slopes: list[list[Tensor]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)

    def prepare(self, seconds: float) -> None:
        for _, node in self.nodes:
            node.prepare(seconds / len(self.nodes))
        self.slopes, self.times = [[] for _ in self.nodes], [[] for _ in self.nodes]

    def turn(self) -> None:
        assert self.action is not None
        for slopes, times, (_, node) in zip(self.slopes, self.times, self.nodes, strict=True):
            chain, each = node.run(node.n_updates)
            times.append(each)
            slopes.append(chain.series(partial(slope, self.action)))
        self.seconds.append(sum(times[-1] for times in self.times))

    def costs(self, variances: dict[str, float]) -> Costs:
        # With times t_i at the nodes, error^2 = sum w_i^2 s_i / t_i is least for t_i ~ w_i sqrt(s_i).
        total, square = 0.0, 0.0
        for (weight, _), slopes, times in zip(self.nodes, self.slopes, self.times, strict=True):
            series = torch.cat(slopes).double()
            tau, each = integrated_autocorrelation_time(series), averaged(times)
            root = weight * math.sqrt(2 * tau.mean * float(series.var()) * each.mean)
            total += root
            square += (0.5 * root * math.hypot(tau.error / tau.mean, each.error / each.mean)) ** 2
        self.about |= {"nodes": len(self.nodes), "updates": sum(len(torch.cat(s)) for s in self.slopes)}
        cost = 1e3 * total**2 / WANTED**2
        return {LOG_Z: Estimate(cost, 2 * cost * math.sqrt(square) / total)}

    def means(self) -> Costs:
        assert self.action is not None
        parts = [mean_of_series(torch.cat(slopes)) for slopes in self.slopes]
        weights = [weight for weight, _ in self.nodes]
        change = sum(w * one.mean for w, one in zip(weights, parts, strict=True))
        error = math.hypot(*(w * one.error for w, one in zip(weights, parts, strict=True)))
        return {LOG_Z: Estimate(FreeScalar(self.action.lattice, m2=1.0).log_z() - change, error)}


def slope(action: Phi4, phi: Tensor) -> Tensor:
    """Return `dS_s / ds` on the straight path from the free field of unit mass, `(batch,)` in float64."""
    square = phi.double().square()
    return ((action.m2 - 1) * square + action.lam * square.square()).sum(action.lattice.axes)


def between(action: Phi4, s: float) -> Phi4:
    return Phi4(action.lattice, m2=1 + s * (action.m2 - 1), lam=s * action.lam)


# Chains


@dataclass(frozen=True)
class Family:
    """Kernels to tune: lengths in units of the width of the widest direction, then what sets the step."""

    name: str
    make: Callable[[Phi4, float, float], Kernel]
    lengths: tuple[float, ...]
    targets: tuple[float, ...]
    is_exact: bool = True


def hmc(action: Phi4, length: float, target: float) -> HMC:
    return HMC(action, trajectory_length=length, target_acceptance=target)


def omelyan(action: Phi4, length: float, target: float) -> HMC:
    return HMC(action, trajectory_length=length, target_acceptance=target, integrator=OMELYAN)


def with_wolff(action: Phi4, length: float, target: float) -> Kernel:
    return Alternate(hmc(action, length, target), Wolff(action), Wolff(action))


def with_swendsen_wang(action: Phi4, length: float, target: float) -> Kernel:
    return Alternate(hmc(action, length, target), SwendsenWang(action))


def mclmc(action: Phi4, length: float, variance: float) -> Kernel:
    return MCLMC(action, decoherence_length=length, energy_variance=variance)


def adjusted_mclmc(action: Phi4, length: float, target: float) -> Kernel:
    return AdjustedMCLMC(action, trajectory_length=length, target_acceptance=target)


FAMILIES = (
    Family("HMC, leapfrog", hmc, (0.75, 1.0, 1.5), (0.8, 0.65, 0.9, 0.95)),
    Family("HMC, Omelyan", omelyan, (0.75, 1.0, 1.5), (0.9, 0.8, 0.95)),
    Family("HMC + 2 Wolff", with_wolff, (0.2, 0.35, 0.5), (0.8, 0.65, 0.9)),
    Family("HMC + Swendsen-Wang", with_swendsen_wang, (0.2, 0.35, 0.5), (0.8, 0.65, 0.9)),
    Family("adjusted MCLMC", adjusted_mclmc, (0.75, 1.0, 1.5), (0.9, 0.8, 0.95)),
    Family("MCLMC, as it is by default", mclmc, (0.75, 1.5, 3.0), (5e-4,), is_exact=False),
    Family("MCLMC, variance / 100", mclmc, (0.75, 1.5, 3.0), (5e-6,), is_exact=False),
)


def tuned(family: Family, action: Phi4, phi: Tensor, args: argparse.Namespace) -> Chains:
    """Return chains at the best settings."""
    width, tried = widest(phi), {}

    def started(length: float, target: float, seed: int) -> Chains:
        generator = torch.Generator().manual_seed(seed)
        kernel = family.make(action, length * width, target)
        chain = kernel.sample(
            1, n_chains=len(phi), n_thermalisation=100, initial=phi, generator=generator
        )  # fmt: skip
        return Chains(family.name, {}, kernel=chain.kernel, phi=chain.samples[-1], generator=generator)

    def cost(length: float, target: float) -> float:
        chains = started(length, target, args.seed + 1)
        # Where everything takes longer, shorter series would tell less.
        chains.prepare(args.scan_seconds * max(1.0, action.lattice.volume / 1024))
        chains.n_updates = max(60, chains.n_updates)
        chains.turn()
        chains.seconds *= 2  # an error is not known from one turn
        found = chains.costs({})
        tried[length, target] = max(found[name].mean for name in DECIDING)
        return tried[length, target]

    first, *others = family.targets
    lengths = {one: cost(one, first) for one in family.lengths}
    for _ in range(EXTENSIONS):
        length = min(lengths, key=lengths.__getitem__)
        if min(lengths) < length < max(lengths):
            break
        longer = length * 1.4 if length == max(lengths) else length / 1.4
        lengths[longer] = cost(longer, first)
    length = min(lengths, key=lengths.__getitem__)
    for target in others:
        cost(length, target)
    length, target = min(tried, key=tried.__getitem__)
    best = started(length, target, args.seed + 2)
    steps = [one.step_size for one in getattr(best.kernel, "kernels", [best.kernel])]
    best.about |= {"length": length * width, "target": target, "step": steps[0]}
    best.about |= {"scan": {str(setting): value for setting, value in tried.items()}}
    return best


# Flows


def flow_of(action: Phi4, smaller: Trained, args: argparse.Namespace) -> tuple[EquivariantCNF, Row]:
    """Return a trained flow, and how it was trained. `smaller` are the flows of the sides before."""
    side, dtype = action.lattice.shape[0], getattr(torch, args.dtype)
    if side < 64 and args.packaged:
        flow = EquivariantCNF.pretrained(f"phi4-2d-L{side}")
        training = {"seconds": flow.about["ladder_seconds"], "how": "packaged, trained by version 0.1"}
        return flow.to(dtype=dtype), training
    if side < 64:
        torch.manual_seed(args.seed)
        fit(EquivariantCNF(action.lattice).to(dtype=dtype), action, steps=2, progress=False)  # compiles
        flow = EquivariantCNF(action.lattice).to(dtype=dtype)
        _, spent = timed(lambda: fit(flow, action, seed=args.seed, progress=False))
        return flow, {"seconds": spent, "how": "fit(flow, action) from nothing"}
    if 32 in smaller:
        flow, before = smaller[32]
    else:
        flow = EquivariantCNF.pretrained("phi4-2d-L32")
        before = flow.about["ladder_seconds"]
    flow = flow.resized(action.lattice).to(dtype=dtype)
    options = {"batch_size": 8, "objective": PathGradient(solver=Solver("rk4", steps=7)), "progress": False}
    options["seed"] = args.seed
    timed(lambda: fit(flow, action, steps=2, learning_rate=1e-9, **options))  # compiles
    _, spent = timed(lambda: fit(flow, action, steps=4, learning_rate=1e-9, **options))
    steps = max(4, round(args.train_seconds / (spent / 4)))
    _, spent = timed(lambda: fit(flow, action, steps=steps, learning_rate=1e-2, **options))
    how = f"the flow of L = 32, resized, {steps} steps of batch 8 by rk4 x 7 in {spent:.0f} s"
    return flow, {"seconds": before + spent, "how": how}


def weighted_by_flow(
    flow: EquivariantCNF, action: Phi4, args: argparse.Namespace
) -> tuple[list[Weighted], Row]:
    """Return flow samples by one level and by two, and annealed ones, with what is known of the flow."""
    volume = action.lattice.volume
    generator = torch.Generator().manual_seed(args.seed + 3)
    few = max(16, min(128, 32768 // volume))
    for accuracy in (args.accuracy, 3 * args.accuracy, 10 * args.accuracy):
        try:
            flow.tune_solver(accuracy, action=action, n_samples=few, generator=generator)
            break
        except SolverError as error:
            print(f"no solver to {accuracy:g}: {error}", flush=True)
    certificate = flow.certificate(few, action=action, generator=generator)
    about: Row = {"solver": str(flow.solver), "certificate": str(certificate), "nfe": certificate.nfe}
    about |= {"error of log Z": certificate.log_z_shift}
    batch = max(32, min(1024, 2 * SITES_AT_ONCE // volume))
    draw = partial(
        importance_sample, flow, action, batch_size=batch, certify=0, generator=generator
    )  # fmt: skip
    about["ESS"] = str(draw(max(256, 4 * batch) if volume < 4096 else 256).effective_sample_size())
    methods = [Weighted("flow, one level", {}, has_training=True, draw=draw)]
    for result, observable in ((LOG_Z, None), ("chi2", obs.susceptibility)):
        choice = choose_levels(
            flow, action, observable=observable, n_samples=max(64, 2 * few), generator=generator
        )  # fmt: skip
        results = (LOG_Z,) if observable is None else tuple(OBSERVABLES)
        two = partial(draw, levels=choice.levels or 1)
        name = f"flow, two levels for {result}"
        about[name] = str(choice).splitlines()[-1]
        methods.append(Weighted(name, {}, has_training=True, draw=two, n=256, results=results))
    if action.lattice.shape[0] <= LATENT_UP_TO:
        annealed = partial(
            annealed_importance_sample, flow, action, batch_size=batch, certify=0, generator=generator
        )  # fmt: skip
        pilots = {betas: pilot(partial(annealed, betas=betas), 32) for betas in (2, 4)}
        betas = min(pilots, key=pilots.__getitem__)
        one = Weighted("AIS from the flow", {"betas": betas}, has_training=True, n=16)
        one.draw = partial(annealed, betas=betas)
        methods.append(one)
    return methods, about


def latent(flow: EquivariantCNF, action: Phi4, args: argparse.Namespace) -> Chains:
    generator, n = torch.Generator().manual_seed(args.seed + 4), max(16, 4096 // action.lattice.volume)
    kernel = LatentHMC(flow, action)
    chain = kernel.sample(1, n_chains=n, n_thermalisation=12, certify=0, generator=generator)
    about = {"step": chain.kernel.step_size}
    return Chains(
        "latent HMC", about, has_training=True, kernel=chain.kernel, phi=chain.samples[-1],
        generator=generator, n_updates=1,
    )  # fmt: skip


# log Z without a flow


def pilot(draw: Callable[[int], Ensemble], n: int) -> float:
    """Return the cost of log Z by a few samples; infinite if these tell nothing of the error."""
    ensemble, spent = timed(lambda: draw(n))
    if float(ensemble.log_weight.double().var()) > 1:
        return math.inf
    return spent * ensemble.log_z().error ** 2


class Annealing:
    """Annealed importance sampling from the free field of unit mass by HMC of fixed steps."""

    def __init__(self, action: Phi4, n_betas: int, n_steps: int, generator: torch.Generator) -> None:
        self.action, self.n_betas, self.generator = action, n_betas, generator
        self.prior = EquivariantCNF(action.lattice).prior
        self.free_log_z = FreeScalar(action.lattice, m2=1.0).log_z()
        step = 0.15 * (256 / action.lattice.volume) ** 0.25
        betas = [i / n_betas for i in range(1, n_betas)]
        self.kernels = [
            HMC(between(action, s), step_size=step, trajectory_length=n_steps * step) for s in betas
        ]
        self.batch = n_chains_of(action)

    @torch.no_grad()
    def __call__(self, n: int) -> Ensemble:
        parts = [
            self._driven(min(self.batch, n - start)) for start in range(0, n, self.batch)
        ]  # fmt: skip
        phi, log_weight = (torch.cat(part) for part in zip(*parts, strict=True))
        log_q = -self.action(phi.double()) - log_weight
        return Ensemble(phi, log_q, log_weight, annealed=True, space=self.action.space)

    def _driven(self, n: int) -> tuple[Tensor, Tensor]:
        phi = self.prior.rsample(n, self.generator)
        work = slope(self.action, phi)
        for kernel in self.kernels:
            phi, _ = kernel.update(phi, self.generator)
            work += slope(self.action, phi)
        return phi, self.free_log_z - work / self.n_betas


def annealed_without_flow(action: Phi4, args: argparse.Namespace) -> Weighted | None:
    """Return annealing in the best number of steps; None if log weights fluctuate too much in all."""
    generator = torch.Generator().manual_seed(args.seed + 5)
    side, n = action.lattice.shape[0], n_chains_of(action)
    settings = [(factor * side, n_steps) for n_steps in (2, 6) for factor in (2, 4, 8, 16, 32)]
    ways = {one: Annealing(action, *one, generator) for one in settings}
    ways[settings[0]](2)  # compiles
    costs = {one: pilot(way, max(64, 2 * n)) for one, way in ways.items()}
    best = min(costs, key=costs.__getitem__)
    if math.isinf(costs[best]):
        return None
    about = {"betas": best[0], "leapfrog steps": best[1]}
    return Weighted("AIS from the free field", about, n=n, draw=ways[best], results=(LOG_Z,))


def integration(action: Phi4, args: argparse.Namespace, n_nodes: int = 10) -> Integration:
    nodes, generator = [], torch.Generator().manual_seed(args.seed + 6)
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    n, dtype = n_chains_of(action), getattr(torch, args.dtype)
    for s, weight in zip((1 + points) / 2, weights / 2, strict=True):
        at_node, tried = between(action, float(s)), []
        phi = omelyan(at_node, 2.0, 0.9).sample(
            1, n_chains=n, n_thermalisation=100, generator=generator, dtype=dtype
        ).samples[-1]  # fmt: skip
        # The slope is a sum of local terms, which may decorrelate in less than the zero mode does.
        for length in (0.35 * widest(phi), 0.7 * widest(phi), 1.4 * widest(phi)):
            chain = omelyan(at_node, length, 0.9).sample(
                1, n_chains=n, n_thermalisation=60, initial=phi, generator=generator
            )  # fmt: skip
            node = Chains("node", {}, kernel=chain.kernel, phi=chain.samples[-1], generator=generator)
            run, each = node.run(60)
            tau = integrated_autocorrelation_time(run.series(partial(slope, action)))
            tried.append((tau.mean * each, len(tried), node))
        nodes.append((float(weight), min(tried)[2]))
    return Integration("thermodynamic integration by HMC", {}, action=action, nodes=nodes)


# All together


def measure(side: int, trained: Trained, args: argparse.Namespace) -> Row:
    action = Phi4(Lattice((side, side)), m2=M2, lam=M_PL_4[side])
    generator, dtype = torch.Generator().manual_seed(args.seed), getattr(torch, args.dtype)
    start = Alternate(HMC(action), Wolff(action)).sample(
        1, n_chains=n_chains_of(action), n_thermalisation=300, generator=generator, dtype=dtype
    )
    chains = [tuned(family, action, start.samples[-1], args) for family in FAMILIES]
    flow, training = flow_of(action, trained, args)
    trained[side] = flow, training["seconds"]
    weighted, about = weighted_by_flow(flow, action, args)
    print(json.dumps({"L": side, "training": training, **about}), flush=True)
    methods: list[Method] = [*chains, *weighted]
    if side <= LATENT_UP_TO:
        methods.append(latent(flow, action, args))
    methods += [one for one in (annealed_without_flow(action, args), integration(action, args)) if one]
    for method in methods:
        method.prepare(args.seconds / args.rounds)
    for _ in range(args.rounds):
        for method in methods:
            method.turn()
    # Of a way that is exact and mixes well.
    reference = next(one for one in chains if one.name == "HMC + 2 Wolff")
    rows = []
    for method in methods:
        rows.append({"method": method.name, "costs": method.costs(reference.variances())})
        rows[-1] |= {"means": method.means(), "about": method.about, "trained": method.has_training}
    return {"L": side, "lam": action.lam, "flow": about, "training": training, "rows": rows} | verdict(
        rows, training["seconds"]
    )


def cheapest(rows: list[Row], result: str, *, trained: bool) -> Row | None:
    biased = {family.name for family in FAMILIES if not family.is_exact}
    able = [
        row
        for row in rows
        if row["trained"] == trained and result in row["costs"] and row["method"] not in biased
    ]
    return min(able, key=lambda row: row["costs"][result].mean, default=None)


def verdict(rows: list[Row], training: float) -> Row:
    """Return, per result, the ratio of the best way without a flow to the best with one, and what pays it."""
    found: Row = {}
    for result in COLUMNS:
        with_flow, without = (cheapest(rows, result, trained=trained) for trained in (True, False))
        if with_flow is None or without is None:
            continue
        ours, theirs = with_flow["costs"][result], without["costs"][result]
        gain = 1e-3 * (theirs.mean - ours.mean)
        entry = {"with": with_flow["method"], "without": without["method"], "ratio": ratio(theirs, ours)}
        if result == LOG_Z:
            entry["error that pays the training"] = WANTED * math.sqrt(max(0.0, gain) / training)
        else:
            entry["effective samples that pay the training"] = training / gain if gain > 0 else math.inf
        found[result] = entry
    return {"verdict": found}


def bias_of(row: Row, rows: list[Row]) -> str:
    """Return by how many per cent the means of a biased method are off."""
    if all(family.is_exact or family.name != row["method"] for family in FAMILIES):
        return ""
    exact = next(one for one in rows if one["method"] == "HMC + 2 Wolff")["means"]
    parts = []
    for name in OBSERVABLES:
        off = ratio(row["means"][name], exact[name])
        parts.append(f"{100 * (off.mean - 1):+.1f}({100 * off.error:.1f})")
    return ", ".join(parts)


def shown(estimate: Estimate | None, scale: float = 1.0) -> str:
    if estimate is None or not math.isfinite(estimate.mean):
        return "–"
    mean, error = scale * estimate.mean, scale * estimate.error
    if not 0 < error < math.inf:
        return f"{mean:.3g}"
    digits = 1 - math.floor(math.log10(error))
    if digits > 0:
        return f"{mean:.{digits}f}({round(error * 10**digits)})"
    return f"{round(mean, digits):.0f}({round(error, digits):.0f})"


def markdown(machine: Row, sides: list[Row]) -> str:
    lines = ["# Costs of results on phi^4", "", "`python benchmarks/cost.py`", "", "```json"]
    lines += [json.dumps(machine, indent=1), "```", ""]
    lines += ["ms of processor time per effective sample, s for log Z to 1e-3; errors in brackets.", ""]
    for side in sides:
        lines += [f"## L = {side['L']}, lam = {side['lam']}", ""]
        about = side["flow"]
        lines += [f"Flow: {side['training']['how']}; {side['training']['seconds']:.0f} s of training in all."]
        lines += [
            f"Reverse ESS {about['ESS']}; {about['solver']}, nfe {about['nfe']}; {about['certificate']}"
        ]
        lines += ["", "| method | \\|M\\|, ms | chi2, ms | phi^2, ms | log Z, s | amount | bias, % |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in side["rows"]:
            costs = row["costs"]
            cells = [shown(costs.get(name)) for name in OBSERVABLES] + [shown(costs.get(LOG_Z), 1e-3)]
            amount = row["about"].get("samples") or f"{row['about']['updates']} updates"
            lines.append(
                f"| {row['method']} | {' | '.join(cells)} | {amount} | {bias_of(row, side['rows'])} |"
            )
        lines.append("")
        for result, entry in side["verdict"].items():
            rest = {k: v for k, v in entry.items() if k not in ("with", "without", "ratio")}
            text = "; ".join(
                f"{name}: {'none' if not value else f'{value:.2g}'}" for name, value in rest.items()
            )
            lines.append(
                f"- {result}: {entry['without']} / {entry['with']} = {shown(entry['ratio'])}; {text}"
            )
        lines.append("")
    return "\n".join(lines)


def plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"mean": plain(value.mean), "error": plain(value.error), "note": value.note}
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def revived(value: Any) -> Any:
    """Return what `plain` made of rows, with estimates again."""
    if isinstance(value, dict) and set(value) == {"mean", "error", "note"}:
        mean, error = (math.inf if one is None else one for one in (value["mean"], value["error"]))
        return Estimate(mean, error, note=value["note"])
    if isinstance(value, dict):
        return {name: revived(entry) for name, entry in value.items()}
    return [revived(entry) for entry in value] if isinstance(value, list) else value


def keep(machine: Row, sides: list[Row], folder: Path) -> None:
    """Write the figures beside those of other sides that are there already, as JSON and as tables."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cost.json"
    known = json.loads(path.read_text(encoding="utf-8"))["sides"] if path.exists() else []
    every = {side["L"]: side for side in [*known, *plain(sides)]}
    content = {"machine": machine, "sides": [every[side] for side in sorted(every)]}
    write_json(content, path)
    (folder / "cost.md").write_text(markdown(machine, revived(content["sides"])), encoding="utf-8")


def processor_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    args = parser.parse_args()
    if args.quick:
        args.L, args.seconds, args.scan_seconds, args.rounds = [8], 0.2, 0.02, 2
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # of few effective samples and short chains; the table shows errors
    machine = {
        "processor": processor_model(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "fused kernels": fused.state(),
        **{k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("L", "out")},
    }
    print(json.dumps(machine), flush=True)
    sides: list[Row] = []
    trained: Trained = {}
    for side in args.L:
        found, spent = timed(partial(measure, side, trained, args))
        sides.append(found | {"processor seconds in all": spent})
        table = [
            [row["method"], *(shown(row["costs"].get(c), 1e-3 if c == LOG_Z else 1.0) for c in COLUMNS)]
            for row in found["rows"]
        ]
        print_table(f"L = {side}: ms per effective sample, s for log Z to {WANTED:g}", ["", *COLUMNS], table)
        print(json.dumps(plain(found["verdict"])), f"{spent:.0f} s in all", flush=True)
        if args.out is not None:
            keep(machine, sides, args.out)


if __name__ == "__main__":
    main()
