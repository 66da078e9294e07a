"""Slow modes of mechanical systems by neural canonical transformations (arXiv:1910.00024).

Trains a canonical map from independent oscillators with learned frequencies to a system in equilibrium:
`chain`, unit masses on springs; `ring`, a particle held near a circle; `phi4`, a cold chain of anharmonic
double wells. It learns from the Hamiltonian, or from a file of trajectories by maximum likelihood. The
frequencies and the patterns of the slowest modes are compared with known ones.
"""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    HMC,
    CanonicalFlow,
    CheckpointError,
    CouplingPointLayer,
    Hamiltonian,
    HarmonicChain,
    InversePathGradient,
    Lattice,
    LinearPointLayer,
    Oscillators,
    Phi4,
    RingPotential,
    fit,
    fit_trajectories,
    importance_sample,
)
from equiflow.interop import load_trajectories
from equiflow.oracles import normal_modes, self_consistent_phonons, transfer_matrix
from equiflow.report import print_table
from equiflow.report.style import new_figure, save_figure, styled
from equiflow.statistics import jackknife_estimate
from equiflow.training.trainer import adam

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--system", choices=["chain", "ring", "phi4"], default="chain", help="what moves")
parser.add_argument("--n", type=int, default=32, help="masses of a chain; a ring has two coordinates")
parser.add_argument("--ends", choices=["fixed", "periodic"], default="fixed", help="of the harmonic chain")
parser.add_argument(
    "--pinning", type=float, default=0.01, help="binds a chain with periodic ends to its place"
)
parser.add_argument("--m2", type=float, default=-0.1, help="quadratic coupling of phi4")
parser.add_argument("--lam", type=float, default=0.1, help="quartic coupling of phi4")
parser.add_argument("--beta", type=float, help="inverse temperature; by default 1, and 40 for phi4")
parser.add_argument(
    "--trajectories", type=Path, help="file of states to learn from, instead of the Hamiltonian"
)
parser.add_argument("--steps", type=int, help="optimiser steps; by default 2000, and 3000 for the ring")
parser.add_argument(
    "--batch-size", type=int, help="states per step; by default 2048, and 256 for the ring and trajectories"
)
parser.add_argument("--learning-rate", type=float, help="of Adam; by default 0.03, and 0.01 for the ring")
parser.add_argument("--samples", type=int, default=4096, help="fresh model samples to measure on")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--seed", type=int, default=0, help="seed of weights, training and samples")
parser.add_argument("--out", type=Path, help="folder for results.json, flow.pt and modes.png")

N_SHOWN = 5


def build(args: argparse.Namespace) -> tuple[Hamiltonian, CanonicalFlow]:
    """Return the system and a new flow for it."""
    lattice = Lattice((2 if args.system == "ring" else args.n,))
    beta = args.beta if args.beta is not None else 40.0 if args.system == "phi4" else 1.0
    if args.system == "ring":
        layers = [LinearPointLayer(lattice)]
        layers += [CouplingPointLayer(lattice, parity=k % 2, n_features=32) for k in range(8)]
        prior = Oscillators(lattice, beta=beta, slowest=0.3, fastest=2.5)
        return Hamiltonian(RingPotential(lattice), beta=beta), CanonicalFlow(lattice, layers, prior=prior)
    if args.system == "chain":
        pinning = args.pinning if args.ends == "periodic" else 0.0
        potential = HarmonicChain(lattice, ends=args.ends, pinning=pinning)
    else:
        potential = Phi4(lattice, m2=args.m2, lam=args.lam)
    layers = [LinearPointLayer(lattice), LinearPointLayer(lattice)]  # which learn faster than one
    if args.system == "phi4" and args.m2 < 0:
        torch.nn.init.constant_(layers[-1].shift, (-args.m2 / (2 * args.lam)) ** 0.5)  # into one of two wells
    prior = Oscillators(lattice, beta=beta, slowest=1 / args.n, fastest=2.0)
    return Hamiltonian(potential, beta=beta), CanonicalFlow(lattice, layers, prior=prior)


def known_modes(hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor] | None:
    """Return the known frequencies, ascending, and the patterns of their modes; None for the ring."""
    potential = hamiltonian.potential
    if isinstance(potential, HarmonicChain):
        return potential.frequencies(), potential.modes()
    if isinstance(potential, Phi4):
        phonons = self_consistent_phonons(potential, beta=hamiltonian.beta)
        place = torch.full(potential.lattice.shape, phonons.mean, dtype=torch.float64)
        return phonons.frequencies, normal_modes(potential, place).patterns
    return None


def minus_log_z(hamiltonian: Hamiltonian) -> float:
    """Return the known `-log int dq dp exp(-beta H)`; for a double well, that of one of both sides."""
    potential, beta = hamiltonian.potential, hamiltonian.beta
    volume = potential.lattice.volume
    of_momenta = 0.5 * volume * math.log(beta / (2 * math.pi))
    if isinstance(potential, RingPotential):
        return of_momenta - potential.log_z(beta)
    if isinstance(potential, HarmonicChain):
        return 2 * of_momenta + float(potential.frequencies().log().sum())
    # beta S(phi) is the action of sqrt(beta) phi with the quartic coupling lam / beta.
    rescaled = Phi4(potential.lattice, m2=potential.m2, lam=potential.lam / beta)
    sides = math.log(2) if potential.m2 < 0 else 0.0
    return of_momenta + 0.5 * volume * math.log(beta) - transfer_matrix(rescaled).log_z + sides


def projected(patterns: Tensor, exact: Tensor, modes: Tensor) -> Tensor:
    """Return the parts of the slowest patterns that lie among the known modes of the same frequency."""
    parts = []
    for pattern, omega in zip(patterns, exact, strict=False):
        alike = modes[(exact / omega - 1).abs() < 1e-6]
        parts.append(alike.T @ (alike @ pattern))
    return torch.stack(parts)


@styled
def draw_modes(patterns: Tensor, parts: Tensor, frequencies: Tensor, exact: Tensor) -> Figure:
    """Draw the slowest patterns over the known ones, and all frequencies."""
    title = f"harmonic chain of {len(exact)} sites"
    figure, (left, right) = new_figure(1, 2, (11, 4), title=title, width_ratios=(3, 2))
    for k, (pattern, part) in enumerate(zip(patterns, parts, strict=True)):
        (line,) = left.plot(part + 0.8 * k, "-", lw=1)
        left.plot(pattern + 0.8 * k, "o", ms=4, color=line.get_color())
        text = f"  $\\omega$ = {float(frequencies[k]):.4f}"
        left.text(len(pattern) - 1, float(part[-1]) + 0.8 * k, text, va="center")
    left.set(xlabel="site", ylabel="displacement, each mode shifted up", yticks=[])
    left.set(xlim=(-1, 1.25 * len(patterns[0])))
    left.set_title("slowest modes: learned (dots), known (lines)")
    right.plot(exact, "-", label="known")
    right.plot(frequencies, "o", ms=3, label="learned")
    right.set(xlabel="mode, the slowest is 0", ylabel=r"frequency $\omega$ [$\sqrt{k / m}$]")
    right.set_title("frequencies")
    right.legend(loc="lower right")
    return figure


@styled
def draw_ring(q: Tensor, latent: Tensor) -> Figure:
    """Draw samples of the ring in the colours of the slow latent, and both latents over angle and radius."""
    figure, (plane, slow, fast) = new_figure(1, 3, (12, 3.8), title="a particle in a ring-shaped valley")
    points = plane.scatter(*q.T, c=latent[:, 0], s=3, cmap="twilight")
    figure.colorbar(points, ax=plane, label="slow latent $Q_1$")
    plane.set(aspect="equal", xlabel="$q_1$", ylabel="$q_2$", title="states")
    slow.plot(torch.atan2(q[:, 1], q[:, 0]), latent[:, 0], ".", ms=2)
    slow.set(xlabel="angle", ylabel="$Q_1$", title="the slow latent is the angle")
    fast.plot(q.norm(dim=1), latent[:, 1], ".", ms=2)
    fast.set(xlabel="radius", ylabel="$Q_2$", title="the fast latent is the radius")
    return figure


def explained(latent: Tensor, coordinate: Tensor, n_bins: int = 40) -> float:
    """Return the part of the variance of a latent that is a function of a coordinate, by bins."""
    edges = coordinate.quantile(torch.linspace(0, 1, n_bins + 1, dtype=coordinate.dtype))
    index = torch.bucketize(coordinate, edges[1:-1])
    within = sum(
        float((latent[index == b] - latent[index == b].mean()).square().sum()) for b in range(n_bins)
    )
    return 1 - within / float((latent - latent.mean()).square().sum())


def main() -> None:
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    is_ring = args.system == "ring"
    if args.learning_rate is None:
        args.learning_rate = 0.01 if is_ring else 0.03
    if args.steps is None:
        args.steps = 3000 if is_ring else 2000
    if args.batch_size is None:
        # The noise of small batches mixes modes whose frequencies are close.
        args.batch_size = 256 if is_ring or args.trajectories else 2048
    processor = time.process_time()
    try:
        hamiltonian, flow = build(args)
        if args.trajectories is None:
            history = fit(
                flow,
                hamiltonian,
                steps=args.steps,
                batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                objective=InversePathGradient(),
                optimiser=partial(adam, eps=1e-8),  # pairs of fast modes have small gradients
                seed=args.seed,
            )
        else:
            history = fit_trajectories(
                flow,
                load_trajectories(args.trajectories),
                steps=args.steps,
                batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                seed=args.seed,
            )
    except (CheckpointError, OSError, ValueError) as error:
        parser.error(str(error))
    processor = time.process_time() - processor
    generator = torch.Generator().manual_seed(args.seed + 1)
    ensemble = importance_sample(flow, hamiltonian, args.samples, generator=generator)
    free_energy = jackknife_estimate(lambda mean: mean, -ensemble.log_weight)
    results = {
        "system": args.system,
        "learned_from": "Hamiltonian" if args.trajectories is None else "trajectories",
        "frequencies": flow.latent_frequencies().tolist(),
        "exact": None,
        "minus_log_z_bound": free_energy.mean,
        "minus_log_z_bound_error": free_energy.error,
        "minus_log_z_exact": minus_log_z(hamiltonian),
        "reverse_ess": ensemble.effective_sample_size().mean,
        "train_seconds": history.seconds[-1],
        "train_processor_seconds": processor,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "seed": args.seed,
    }
    print(
        f"reverse ESS {ensemble.effective_sample_size()}, <log q + beta H> = {free_energy} above -log Z = "
        f"{results['minus_log_z_exact']:.4f}"
    )
    known = known_modes(hamiltonian)
    if known is None:
        figure = study_ring(flow, hamiltonian, results, generator)
    else:
        figure = study_modes(flow, known, results, ensemble.phi[:256])
    results["total_seconds"] = time.perf_counter() - start
    print(f"trained in {history.seconds[-1]:.0f} s ({processor:.0f} s of processor time)")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        flow.save(args.out / "flow.pt")
        save_figure(figure, args.out / "modes.png")
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
        print(f"wrote results.json, flow.pt and modes.png to {args.out}")


def study_modes(flow: CanonicalFlow, known: tuple[Tensor, Tensor], results: dict, states: Tensor) -> Figure:
    """Compare frequencies and patterns with the known ones, add that to the results, and draw it."""
    exact, modes = known
    slow = flow.slow_modes(states, min(N_SHOWN, len(exact)))
    patterns = slow.patterns.double().mean(0)
    patterns = patterns / patterns.norm(dim=1, keepdim=True)
    parts = projected(patterns, exact, modes)
    frequencies = flow.latent_frequencies().double()
    errors = frequencies / exact - 1
    results |= {
        "exact": exact.tolist(),
        "overlaps": parts.norm(dim=1).tolist(),
        "largest_relative_error": float(errors.abs().max()),
    }
    rows = [
        [k + 1, f"{frequencies[k]:.5f}", f"{exact[k]:.5f}", f"{errors[k]:+.1e}", f"{parts[k].norm():.5f}"]
        for k in range(len(parts))
    ]
    print_table("slowest modes", ["", "frequency", "known", "relative error", "overlap"], rows)
    print(f"largest relative error of all {len(exact)} frequencies: {float(errors.abs().max()):.1e}")
    sign = torch.where(patterns[:, : len(exact) // 3 + 1].sum(1, keepdim=True) < 0, -1.0, 1.0)
    return draw_modes(sign * patterns, sign * parts, frequencies, exact)


def study_ring(
    flow: CanonicalFlow, hamiltonian: Hamiltonian, results: dict, generator: torch.Generator
) -> Figure:
    """Say how much of each latent is a function of angle and of radius, on samples of HMC, and draw it."""
    chain = HMC(hamiltonian).sample(16, n_chains=256, thin=4, generator=generator)
    states = chain.configurations.to(flow.dtype)
    latent, q = flow.slow_modes(states, 2).positions.double(), states[:, 0].double()
    angle, radius = torch.atan2(q[:, 1], q[:, 0]), q.norm(dim=1)
    shares = [[explained(latent[:, k], coordinate) for coordinate in (angle, radius)] for k in range(2)]
    results |= {
        "slow_latent_explained_by_angle": shares[0][0],
        "slow_latent_explained_by_radius": shares[0][1],
        "fast_latent_explained_by_angle": shares[1][0],
        "fast_latent_explained_by_radius": shares[1][1],
    }
    rows = [
        [name, f"{omega:.4f}", f"{share[0]:.4f}", f"{share[1]:.4f}"]
        for name, omega, share in zip(("slow", "fast"), flow.latent_frequencies(), shares, strict=True)
    ]
    print_table("latent variables", ["", "frequency", "explained by angle", "by radius"], rows)
    return draw_ring(q, latent)


if __name__ == "__main__":
    main()
