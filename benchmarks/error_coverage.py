"""Do one-sigma errors cover the truth two times in three, and 1.96 sigma 19 times in 20?

Means of Markov chains by the Gamma method: AR(1) series of every correlation, sums of a fast and a slow one,
series that oscillate or nearly cancel, and HMC on a free field, whose autocorrelation is known in closed
form. Reweighted means with few effective samples, where weights and observable are independent, or both come
from a target that is wider than the model or lies beside it. Reverse and forward ESS of log-normal weights,
and log Z. Two levels of a flow on 3 x 3 sites, from coarse solvers that are good to useless, and as a pilot
chooses them. "noted" is the share of estimates that carry a note. The last columns are the mean claimed error
over the scatter of the means, and tau_int over the exact one. A series of less than 50 tau_int cannot know
its slow part; its estimates say so in print. A weak slow part shows from about 50 of its own tau_int on.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor

from equiflow import HMC, EquivariantCNF, FreeScalar, Lattice, Phi4, Solver, importance_sample
from equiflow.observables import phi_squared, susceptibility
from equiflow.oracles import transfer_matrix
from equiflow.samplers import Correction, Ensemble, TwoLevels
from equiflow.statistics import (
    Estimate,
    effective_sample_size,
    error_of_fluctuations,
    forward_effective_sample_size,
    log_mean_exp,
    weighted_mean,
)

AR = (-0.95, -0.9, -0.5, 0.0, 0.5, 0.9, 0.98)
#: coefficient and amplitude of a fast and of a slow series
MIXTURES = (
    ((-0.9, 0.8), (0.98, 0.2)),
    ((-0.9, 0.5), (0.98, 0.5)),
    ((-0.5, 0.8), (0.9, 0.2)),
    ((0.0, 0.95), (0.98, 0.2)),
    ((-0.5, 0.9), (0.99, 0.1)),
)
#: coefficients of the last values and of the last noises, of series that oscillate or nearly cancel
OSCILLATIONS = {
    "AR(2), damping 0.98, period 8": ((2 * 0.98 * math.cos(math.pi / 4), -(0.98**2)), ()),
    "AR(2), damping 0.9, period 3": ((2 * 0.9 * math.cos(2 * math.pi / 3), -(0.9**2)), ()),
    "MA(1), -0.9": ((), (-0.9,)),
    "MA(2), 0, -0.9": ((), (0.0, -0.9)),
}
#: steps and chains
LENGTHS = ((20_000, 1), (4000, 1), (500, 8), (400, 1), (100, 1), (30, 1), (5, 64))
#: standard deviations of log weights
WEIGHT_SPREADS = (0.5, 2.0, 3.0, 5.0, 40.0)
#: width of 16 normal variables of the target, in units of those of the model
WIDTHS = (0.8, 0.9, 1.15, 1.25)
#: distances of a target from the model, in widths
SHIFTS = (1.0, 1.5, 2.0, 3.0, 4.0)
#: standard deviations of the log weights behind an ESS, and numbers of samples
LOG_WIDTHS = (0.1, 0.5, 1.0, 2.0)
COUNTS = (200, 1000, 10_000)
#: coarse solvers of two levels, and the fine one
COARSE = (
    Solver("euler", steps=1),
    Solver("euler", steps=3),
    Solver("midpoint", steps=2),
    Solver("rk4", steps=2),
)
FINE = Solver("rk5", steps=4)
#: samples of an ensemble of two levels, and how many of them are pairs
N_COARSE, N_PAIRS = 160, 32
#: samples for the ESS of the fine solver
N_EXACT = 40_000


def ar1(a: float, n: int, n_chains: int, n_runs: int, rng: np.random.Generator) -> Tensor:
    """Return stationary series `x' = a x + noise` of unit variance, `(n, n_chains, n_runs)`."""
    noise = rng.standard_normal((n, n_chains * n_runs))
    noise[1:] *= math.sqrt(1 - a * a)
    return torch.from_numpy(lfilter([1.0], [1.0, -a], noise, axis=0)).unflatten(1, (n_chains, n_runs))


def oscillation(
    of_values: tuple[float, ...],
    of_noise: tuple[float, ...],
    n: int,
    n_chains: int,
    n_runs: int,
    rng: np.random.Generator,
) -> tuple[Tensor, float]:
    """Return series `x' = sum a x + noise + sum b noise`, `(n, n_chains, n_runs)`, and their tau_int."""
    past, noise = [1.0, *(-a for a in of_values)], [1.0, *of_noise]
    response = lfilter(noise, past, np.eye(1, 2000)[0])
    series = lfilter(noise, past, rng.standard_normal((n + 1000, n_chains * n_runs)), axis=0)[1000:]
    tau = 0.5 * (sum(noise) / sum(past)) ** 2 / float((response**2).sum())
    return torch.from_numpy(series).unflatten(1, (n_chains, n_runs)), tau


def tau_of(a: float) -> float:
    """Return the integrated autocorrelation time of an AR(1) series."""
    return 0.5 * (1 + a) / (1 - a)


def row(name: str, found: list[Estimate], truth: float, tau: float | None = None) -> dict[str, object]:
    """Print and return one line of the table."""
    distances = torch.tensor([abs(e.mean - truth) / e.error for e in found])
    scatter = torch.tensor([e.mean for e in found]).std()
    known = [e.error for e in found if math.isfinite(e.error)]
    numbers = {
        "within 1": float((distances <= 1).double().mean()),
        "within 1.96": float((distances <= 1.96).double().mean()),
        "error / scatter": float(torch.tensor(known).mean() / scatter),
        "unknown": 1 - len(known) / len(found),
        "noted": sum(bool(e.note) for e in found) / len(found),
    }
    if tau is not None:
        numbers["tau / exact"] = sum(e.tau_int or 0.5 for e in found) / len(found) / tau
    print(f"{name:<44}", "  ".join(f"{key} {value:.2f}" for key, value in numbers.items()), flush=True)
    return {"name": name, "runs": len(found)} | numbers


def means(runs: Tensor) -> list[Estimate]:
    """Return the mean of each run, `(n, n_chains, n_runs)`."""
    averages = runs.mean((0, 1))
    errors = error_of_fluctuations(runs - averages)
    return [errors.estimate(k, mean) for k, mean in enumerate(averages.tolist())]


def chains(n_runs: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Measure the means of AR(1) series and of their mixtures."""
    rows = []
    for n, n_chains in LENGTHS:
        for a in AR:
            name = f"AR({a}), {n} steps, chains: {n_chains}"
            rows.append(row(name, means(ar1(a, n, n_chains, n_runs, rng)), 0.0, tau_of(a)))
        for (fast, size), (slow, other) in MIXTURES:
            series = size * ar1(fast, n, n_chains, n_runs, rng) + other * ar1(slow, n, n_chains, n_runs, rng)
            tau = (size**2 * tau_of(fast) + other**2 * tau_of(slow)) / (size**2 + other**2)
            name = f"{size} AR({fast}) + {other} AR({slow}), {n} steps, chains: {n_chains}"
            rows.append(row(name, means(series), 0.0, tau))
        for name, (of_values, of_noise) in OSCILLATIONS.items():
            series, tau = oscillation(of_values, of_noise, n, n_chains, n_runs, rng)
            rows.append(row(f"{name}, {n} steps, chains: {n_chains}", means(series), 0.0, tau))
    return rows


def hmc(n_runs: int, seed: int) -> list[dict[str, object]]:
    """Measure `phi(0)` and M along HMC on a free field, where each chain is one run."""
    m2, side = 0.03, 8
    action = FreeScalar(Lattice((side, side)), m2=m2)
    sampler = HMC(action, step_size=0.05, trajectory_length=1.0)
    generator = torch.Generator().manual_seed(seed)
    chain = sampler.sample(2000, n_chains=n_runs, n_thermalisation=300, generator=generator)
    k2 = 4 * torch.sin(math.pi * torch.arange(side, dtype=torch.float64) / side) ** 2
    omega = (2 * (k2[:, None] + k2 + m2)).sqrt()
    # A trajectory of length t in [1/2, 3/2] multiplies a mode by cos(omega t).
    kept, variance = (torch.sin(1.5 * omega) - torch.sin(0.5 * omega)) / omega, 1 / omega**2
    modes = 0.5 * (1 + kept) / (1 - kept)
    site = float((variance * modes).sum() / variance.sum())
    rows = []
    for name, values, tau in (
        ("phi(0)", chain.samples[:, :, 0, 0], site),
        ("M", chain.samples.mean((2, 3)), float(modes[0, 0])),
    ):
        found = means(values.double()[:, None])
        rows.append(row(f"HMC, free field {side}^2, m2 = {m2}, {name}", found, 0.0, tau))
    return rows


def weights(n_runs: int, seed: int) -> list[dict[str, object]]:
    """Measure reweighted means of 1000 samples."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = []
    for spread in WEIGHT_SPREADS:
        found = [weighted_mean(normal(1000), spread * normal(1000)) for _ in range(n_runs)]
        rows.append(row(f"log weights of width {spread}, independent", found, 0.0))
    for width in WIDTHS:
        found = []
        for _ in range(n_runs):
            x = normal(1000, 16)
            log_weight = 0.5 * (x.square() * (1 - width**-2)).sum(1)
            found.append(weighted_mean(x.square().mean(1), log_weight))
        ess = (width * math.sqrt(2 - width**2)) ** 16
        rows.append(row(f"target of width {width}, ESS {ess:.2f}", found, width**2))
    for shift in SHIFTS:
        runs = normal(n_runs, 1000)
        found = [weighted_mean(x, shift * x) for x in runs]
        rows.append(row(f"target beside by {shift}, ESS {math.exp(-(shift**2)):.1g}", found, shift))
    return rows


def effective_sizes(n_runs: int, seed: int) -> list[dict[str, object]]:
    """Measure both effective sample sizes and log Z of log-normal weights."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in COUNTS:
        for width in LOG_WIDTHS:
            runs = width * torch.randn(n_runs, n, generator=generator, dtype=torch.float64)
            name, ess = f"log width {width}, {n} samples", math.exp(-(width**2))
            # Log weights of samples of the target have the same law, up to a constant.
            rows.append(row(f"reverse ESS, {name}", [effective_sample_size(run) for run in runs], ess))
            rows.append(
                row(f"forward ESS, {name}", [forward_effective_sample_size(run) for run in runs], ess)
            )
            rows.append(row(f"log Z, {name}", [log_mean_exp(run) for run in runs], width**2 / 2))
    return rows


def two_levels(n_runs: int, seed: int) -> list[dict[str, object]]:
    """Measure results of two levels, for given coarse solvers and for those of pilots."""
    lattice = Lattice((3, 3))
    action, generator = Phi4(lattice, m2=-4.0, lam=6.0), torch.Generator().manual_seed(seed)
    flow = EquivariantCNF.pretrained("phi4-2d-L8").resized(lattice).double()
    flow.solver, truth = FINE, transfer_matrix(action)
    options = {"certify": 0, "batch_size": 10_000, "generator": generator}
    exact = {
        "log Z": truth.log_z,
        "phi^2": truth.phi_squared,
        "chi2": truth.susceptibility,
        "ESS": importance_sample(flow, action, N_EXACT, **options).effective_sample_size().mean,
    }
    rows = []

    def add(name: str, ensembles: list[Ensemble]) -> None:
        for result, value in exact.items():
            found = [_result(ensemble, result) for ensemble in ensembles]
            rows.append(row(f"{result}, {name}", found, value))

    for coarse in COARSE:
        levels = TwoLevels(coarse, fine_share=1.0)
        with warnings.catch_warnings():  # of solvers that are too coarse, which are measured on purpose
            warnings.simplefilter("ignore")
            drawn = importance_sample(flow, action, n_runs * N_COARSE, levels=levels, **options)
            add(f"{N_PAIRS} of {N_COARSE} pairs, {coarse}", list(_parts(drawn)))
    chosen = [importance_sample(flow, action, 500, levels=2, **options) for _ in range(n_runs)]
    add("500 samples, levels=2", chosen)
    return rows


def _result(ensemble: Ensemble, name: str) -> Estimate:
    """Return one result of an ensemble by its name."""
    if name == "ESS":
        return ensemble.effective_sample_size()
    return (
        ensemble.log_z()
        if name == "log Z"
        else ensemble.mean(phi_squared if name == "phi^2" else susceptibility)
    )


def _parts(drawn: Ensemble) -> Iterator[Ensemble]:
    """Yield independent ensembles, of which the first samples are pairs."""
    fine = drawn.correction
    assert fine is not None
    for start in range(0, len(drawn.phi), N_COARSE):
        some, twice = slice(start, start + N_COARSE), slice(start, start + N_PAIRS)
        pairs = Correction(
            torch.arange(N_PAIRS), fine.phi[twice], fine.log_q[twice], fine.log_weight[twice],
            fine.coarse, fine.fine, fine.coarse_nfe, fine.fine_nfe,
        )  # fmt: skip
        yield Ensemble(drawn.phi[some], drawn.log_q[some], drawn.log_weight[some], correction=pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"float64, torch {torch.__version__}, {arguments.runs} runs, seed {arguments.seed}")
    rng = np.random.default_rng(arguments.seed)
    rows = chains(arguments.runs, rng)
    rows += weights(arguments.runs, arguments.seed)
    rows += effective_sizes(arguments.runs, arguments.seed)
    rows += two_levels(arguments.runs, arguments.seed)
    rows += hmc(min(arguments.runs, 400), arguments.seed)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
