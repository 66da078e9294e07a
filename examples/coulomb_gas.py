"""Charges in a trap: free energy, energy, density and pair correlation of a classical Coulomb gas.

Trains a permutation- and rotation-equivariant flow on `exp(-beta H)` with
`H = sum_{i<j} 1 / |x_i - x_j| + sum_i x_i^2 / 2`. The centre of mass is exact by construction. Prints the
variational free energy `F_q = <log q + beta H> / beta`, the reweighted `F = -log Z / beta` below it, and
averages beside those of HMC and the virial theorem.
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    HMC,
    CoulombGas,
    EquivariantCNF,
    Estimate,
    ParticleField,
    Particles,
    TrappedGaussian,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.report import print_table
from equiflow.report.style import legend_below, new_figure, save_figure, styled
from equiflow.report.words import provenance
from equiflow.statistics import jackknife, jackknife_estimate, normalised_weights

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--particles", type=int, default=6, help="number of particles")
parser.add_argument("--dim", type=int, default=2, help="dimension of space")
parser.add_argument("--beta", type=float, default=2.0, help="inverse temperature")
parser.add_argument(
    "--l-max", type=int, default=1, help="1: densities and vectors; 2: tensors too (3D, e3nn)"
)
parser.add_argument("--steps", type=int, default=300, help="optimiser steps")
parser.add_argument("--batch-size", type=int, default=64, help="model samples per optimiser step")
parser.add_argument("--samples", type=int, default=4096, help="fresh model samples to measure on")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for the plot and flow.pt")


def virial(x: Tensor) -> Tensor:
    """Return `x . grad H = 2 U_trap - U_Coulomb`, whose average is `N dim / beta`."""
    gas = CoulombGas(Particles(*x.shape[1:]), beta=1.0)
    return (x * gas.grad(x)).sum((1, 2))


def squared_centre(x: Tensor) -> Tensor:
    """Return `X^2` of the centre of mass, whose average is `dim / (beta N)`."""
    return x.mean(1).square().sum(1)


def profiles(x: Tensor, weight: Tensor, edges: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the density of particles around the centre and of pairs, per volume, with their errors."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    shells = edges ** x.shape[2]  # up to the volume of the unit ball
    found = []
    for distance in (x.norm(dim=-1), (x[:, i] - x[:, j]).norm(dim=-1)):
        inside = (distance[..., None] >= edges[:-1]) & (distance[..., None] < edges[1:])
        density = inside.double().mean(1) / shells.diff()
        found.append(jackknife(lambda wo, w: wo / w, weight[:, None] * density, weight))
    return found


@styled
def picture(curves: dict[str, list[tuple[Tensor, Tensor]]], edges: Tensor, title: str) -> Figure:
    figure, panels = new_figure(1, 2, (10, 4), title=title)
    titles = ("density around the centre", "density of pairs")
    middle = 0.5 * (edges[1:] + edges[:-1])
    for n, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for (label, curve), style in zip(curves.items(), ("-", "o"), strict=True):
            axes.errorbar(middle, *curve[n], fmt=style, ms=4, capsize=2, label=label)
        axes.set(xlabel="distance r", title=title, ylim=(0, None))
    legend_below(figure, panels[0], columns=2)
    return figure


def main() -> None:
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(args.threads)

    particles = Particles(args.particles, args.dim)
    gas = CoulombGas(particles, beta=args.beta)
    flow = EquivariantCNF(
        particles,
        vector_field=ParticleField(particles, l_max=args.l_max),
        prior=TrappedGaussian(particles, beta=args.beta),
    ).to(args.device)
    history = fit(flow, gas, steps=args.steps, batch_size=args.batch_size, seed=args.seed)

    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    print(flow.tune_solver(args.accuracy, action=gas, n_samples=64, generator=generator))
    ensemble = importance_sample(flow, gas, args.samples, batch_size=512, certify=128, generator=generator)

    # HMC starts where no two particles are close: elsewhere the force is too strong for its step size.
    pool = TrappedGaussian(particles).to(args.device, torch.float64).rsample(1024, generator).detach()
    initial = pool[gas(pool).argsort()[:64]]
    chain = HMC(gas).sample(64, n_chains=64, thin=10, initial=initial, generator=generator)
    reference = chain.configurations

    free_energy = jackknife_estimate(lambda mean: mean, -ensemble.log_weight / args.beta)
    log_z = ensemble.log_z()
    reweighted = Estimate(
        -log_z.mean / args.beta, log_z.error / args.beta, systematic=log_z.systematic / args.beta
    )
    forward = log_weights(flow, gas, reference.to(flow.dtype), batch_size=512)
    print(f"reverse ESS {ensemble.effective_sample_size()}")
    print(f"forward ESS {forward_effective_sample_size(forward)}")
    print(f"variational free energy F_q = {free_energy}")
    print(f"reweighted F = -log Z / beta = {reweighted}")
    rows = []
    for name, observable, exact in (
        ("energy <H>", gas.hamiltonian, None),
        ("virial <x . grad H>", virial, particles.size / args.beta),
        ("centre of mass <X^2>", squared_centre, args.dim / (args.beta * args.particles)),
    ):
        ours, its = ensemble.mean(observable), chain.mean(observable)
        known = "" if exact is None else f"{exact:.4f} ({ours.sigmas_from(exact):+.1f} sigma)"
        rows.append([name, str(ours), str(its), f"{ours.sigmas_from(its):+.1f} sigma", known])
    print_table(str(gas), ["", "flow, reweighted", "HMC", "difference", "exact"], rows)
    print(f"trained in {history.seconds[-1]:.0f} s, {time.perf_counter() - start:.0f} s in all")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        flow.save(args.out / "flow.pt")
        edges = torch.linspace(
            0, float(reference.norm(dim=-1).quantile(0.999)) * 1.5, 31, dtype=torch.float64
        )
        ones = torch.ones(len(reference), dtype=torch.float64)
        curves = {
            "flow, reweighted": profiles(
                ensemble.phi.double().cpu(), normalised_weights(ensemble.log_weight).cpu(), edges
            ),
            provenance("HMC", chain, chain.tau_int(gas.hamiltonian)): profiles(reference.cpu(), ones, edges),
        }
        title = f"Coulomb gas: {args.particles} particles in {args.dim} dimensions, beta = {args.beta:g}"
        save_figure(picture(curves, edges, title), args.out / "coulomb_gas.png")
        print(f"wrote flow.pt and coulomb_gas.png to {args.out}")


if __name__ == "__main__":
    main()
