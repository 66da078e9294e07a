"""Electrons in a trap at finite temperature: free energy, energy, entropy, density and pair correlation.

`H = sum_i (-lap_i / 2 + x_i^2 / 2) + sum_{i<j} Z / |x_i - x_j|` for spin-polarised electrons. The density
matrix is a mixture of Slater determinants with learned probabilities, carried by a learned flow that is
equivariant under permutations and rotations (FermiFlow, arXiv:2105.08644). Its free energy is an upper bound,
printed beside the exact one where that is known.

    python examples/fermions_in_a_trap.py --n 2 --dim 2 --beta 2 --Z 0.5 --steps 1500 --out fermions
    python examples/fermions_in_a_trap.py --n 6 --beta 6 --Z 0 0.5 2 8 --out fermions   # densities for four Z
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from equiflow import (
    Particles,
    SlaterStates,
    Solver,
    ThermalState,
    TrappedElectrons,
    fit_thermal_state,
    thermal_averages,
)
from equiflow.analysis import ThermalAverages
from equiflow.oracles import ideal_fermions, two_fermions
from equiflow.report.style import legend_below, new_figure, save_figure, styled

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--n", type=int, default=2, help="number of electrons (2)")
parser.add_argument("--dim", type=int, default=2, help="dimension of space (2)")
parser.add_argument(
    "--beta", type=float, default=2.0, help="inverse temperature; inf for the ground state (2)"
)
parser.add_argument(
    "--Z", type=float, nargs="+", default=[0.5], help="strength of the repulsion, one or more (0.5)"
)
parser.add_argument(
    "--cutoff", type=float, help="largest energy of a determinant for Z = 0; by default as needed"
)
parser.add_argument("--steps", type=int, default=1000, help="optimiser steps (1000)")
parser.add_argument("--batch-size", type=int, default=256, help="samples per optimiser step (256)")
parser.add_argument("--learning-rate", type=float, default=2e-2, help="largest learning rate of Adam (0.02)")
parser.add_argument("--samples", type=int, default=40_000, help="fresh samples to measure on (40000)")
parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
parser.add_argument("--seed", type=int, default=0, help="seed of training and samples (0)")
parser.add_argument("--out", type=Path, help="folder for results.json and densities.png")

#: loss of free energy that the default cutoff may cause for ideal fermions
CUTOFF_LOSS = 1e-4


def determinants(particles: Particles, beta: float, cutoff: float | None) -> SlaterStates:
    """Return all determinants up to the cutoff, by default so many that ideal fermions need no more."""
    if cutoff is not None or beta == math.inf:
        return SlaterStates(particles, cutoff=cutoff)
    exact = ideal_fermions(particles, beta=beta).free_energy
    states = SlaterStates(particles)
    while True:
        free_energy = -float(torch.logsumexp(-beta * states.energies, 0)) / beta
        if free_energy - exact < CUTOFF_LOSS:
            return states
        states = SlaterStates(particles, cutoff=float(states.energies.max()) + 1)


def exact_free_energy(electrons: TrappedElectrons, beta: float) -> float | None:
    """Return the exact free energy, or None where it is not known."""
    particles = electrons.particles
    if particles.number == 2 and particles.dim <= 3 and beta >= 0.5:
        return two_fermions(electrons, beta=beta).free_energy
    if electrons.Z == 0 and beta < math.inf:
        return ideal_fermions(particles, beta=beta).free_energy
    return None


def measured(args: argparse.Namespace, Z: float) -> tuple[dict[str, object], ThermalAverages]:
    """Train a density matrix for one strength of the repulsion, measure it and print what was found."""
    particles, start, used = Particles(args.n, args.dim), time.perf_counter(), time.process_time()
    electrons = TrappedElectrons(particles, Z=Z)
    states = determinants(particles, args.beta, args.cutoff)
    rho = ThermalState(states, beta=args.beta, solver=Solver("euler", steps=1))  # Nothing moves yet.
    untrained = thermal_averages(
        rho, electrons, args.samples, generator=torch.Generator().manual_seed(args.seed + 2)
    ).free_energy
    history = fit_thermal_state(
        rho,
        electrons,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    trained, used = time.perf_counter() - start, time.process_time() - used
    rho.solver = Solver("rk5", steps=8)
    generator = torch.Generator().manual_seed(args.seed + 1)
    found = thermal_averages(rho, electrons, args.samples, generator=generator)
    exact = exact_free_energy(electrons, args.beta)
    print(f"n={args.n}, dim={args.dim}, beta={args.beta:g}, Z={Z:g}, {len(rho.states)} determinants")
    print(found)
    print(f"free energy before training, of the thermal state for Z = 0: {untrained}")
    if exact is not None:
        print(f"exact free energy {exact:.6f}, the bound is {found.free_energy.mean - exact:.1e} above it")
    seconds = time.perf_counter() - start
    print(f"trained in {trained:.0f} s ({used:.0f} s of one processor), {seconds:.0f} s in all\n")
    result: dict[str, object] = {
        "n": args.n,
        "dim": args.dim,
        "beta": args.beta,
        "Z": Z,
        "free_energy": found.free_energy.mean,
        "free_energy_error": found.free_energy.error,
        "free_energy_exact": exact,
        "free_energy_untrained": untrained.mean,
        "free_energy_untrained_error": untrained.error,
        "energy": found.energy.mean,
        "energy_error": found.energy.error,
        "entropy": found.entropy.mean,
        "kinetic": found.kinetic.mean,
        "kinetic_error": found.kinetic.error,
        "repulsion": found.repulsion.mean,
        "repulsion_error": found.repulsion.error,
        "solver_error": found.free_energy.systematic,
        "spread": found.spread,
        "determinants": len(rho.states),
        "parameters": sum(p.numel() for p in rho.parameters()),
        "steps": args.steps,
        "batch_size": args.batch_size,
        "samples": args.samples,
        "seed": args.seed,
        "threads": args.threads,
        "seconds_of_training": history.seconds[-1],
        "processor_seconds_of_training": used,
        "seconds": seconds,
    }
    return result, found


@styled
def picture(curves: dict[str, ThermalAverages], dim: int, title: str) -> Figure:
    """Draw density and pairs for each strength of the repulsion, in units of the oscillator length a."""
    figure, axes = new_figure(1, 2, (10, 4.2), title=title)
    for label, found in curves.items():
        for panel, profile in zip(axes, (found.density, found.pairs), strict=True):
            panel.errorbar(profile.middle, profile.mean, profile.error, label=label)
    unit = "1 / a" if dim == 1 else f"1 / a$^{dim}$"
    axes[0].set(xlabel="distance from the centre [a]", ylabel=f"density of electrons [{unit}]")
    axes[1].set(xlabel="distance of two electrons [a]", ylabel=f"density of pairs [{unit}]")
    for panel in axes:
        panel.set(xlim=(0, None), ylim=(0, None))
    legend_below(figure, axes[0], columns=4)
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results, curves = [], {}
    for Z in args.Z:
        try:
            result, curves[f"Z = {Z:g}"] = measured(args, Z)
        except ValueError as error:  # such as a cutoff below the Fermi sea
            parser.error(str(error))
        results.append(result)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        # The numbers of the last Z, and those of each under "all".
        text = json.dumps({**results[-1], "all": results}, indent=1)
        (args.out / "results.json").write_text(text + "\n", encoding="utf-8")
        title = (
            f"{args.n} electrons in {args.dim} dimensions, beta = {args.beta:g}; a: length of the oscillator"
        )
        save_figure(picture(curves, args.dim, title), args.out / "densities.png")
        print(f"wrote results.json and densities.png to {args.out}")


if __name__ == "__main__":
    main()
