"""The two-dimensional XY model: energy, spin stiffness and vortices from a flow of angles, against HMC.

Trains a flow from uniform angles to `exp(beta sum cos(theta_x - theta_y))`, equivariant under O(2) and the
symmetries of the lattice. The betas are trained in order, each from the weights of the one before.
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    HMC,
    AngleField,
    Angles,
    EquivariantCNF,
    Lattice,
    XYModel,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.report import print_table
from equiflow.report.style import REFERENCE, new_figure, save_figure, styled
from equiflow.theories.angles.observables import (
    abs_magnetisation,
    energy,
    helicity_modulus,
    vortex_density,
    vorticity,
)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=8, help="sites along each side of the lattice")
parser.add_argument(
    "--beta", type=float, nargs="+", default=[0.5, 0.8], help="couplings, in the order of training"
)
parser.add_argument("--steps", type=int, default=150, help="optimiser steps at each coupling")
parser.add_argument("--batch-size", type=int, default=128, help="model samples per optimiser step")
parser.add_argument(
    "--learning-rate", type=float, help="learning rate of Adam; by default what suits the field"
)
parser.add_argument("--samples", type=int, default=4096, help="fresh model samples to measure on")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for the flows and the picture")


@styled
def picture(samples: dict[float, Tensor]) -> Figure:
    """Draw a configuration for each beta, with its vortices (+) and antivortices (-)."""
    side = len(next(iter(samples.values())))
    title = f"XY model, {side} x {side}: vortices +, antivortices -"
    figure, panels = new_figure(
        1, len(samples), (max(4.6, 3.6 * len(samples)), 4), title=title, squeeze=False
    )
    for axes, (beta, theta) in zip(panels[0], samples.items(), strict=True):
        axes.quiver(
            theta.cos().T, theta.sin().T, theta.T, cmap="twilight", pivot="middle", clim=(-3.15, 3.15)
        )
        for sign, mark in ((1, "+"), (-1, "_")):
            x, y = (vorticity(theta[None])[0] == sign).nonzero(as_tuple=True)
            axes.scatter(x + 0.5, y + 0.5, marker=mark, s=90, color=REFERENCE)
        seen = (-0.8, side - 0.2)  # the same in all panels, vortices between the last sites and the first too
        axes.set(title=f"beta = {beta:g}", aspect="equal", xticks=[], yticks=[], xlim=seen, ylim=seen)
        axes.spines[:].set_visible(False)
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    angles = Angles(Lattice((args.L, args.L)))
    flow = EquivariantCNF(angles, vector_field=AngleField(angles)).to(args.device)
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    samples: dict[float, Tensor] = {}
    for beta in args.beta:
        action = XYModel(angles, beta=beta)
        start = time.process_time()
        options = {"batch_size": args.batch_size, "learning_rate": args.learning_rate, "seed": args.seed}
        fit(flow, action, steps=args.steps, **options)
        trained = time.process_time() - start
        print(flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator))
        ensemble = importance_sample(flow, action, args.samples, batch_size=512, generator=generator)
        chain = HMC(action).sample(128, n_chains=64, thin=4, generator=generator, device=args.device)
        target = chain.configurations.to(flow.device, flow.dtype)
        forward = log_weights(flow, action, target, batch_size=512)
        rows = []
        for name, observable in (
            ("energy per site", energy),
            ("helicity modulus", helicity_modulus(beta)),
            ("|m|", abs_magnetisation),
            ("vortex density", vortex_density),
        ):
            ours, its = ensemble.mean(observable), chain.mean(observable)
            rows.append([name, str(ours), str(its), f"{ours.sigmas_from(its):+.1f} sigma"])
        print_table(str(action), ["", "flow, reweighted", "HMC", "difference"], rows)
        print(f"reverse ESS {ensemble.effective_sample_size()}")
        print(f"forward ESS {forward_effective_sample_size(forward)}")
        print(f"log Z {ensemble.log_z()}; trained in {trained:.0f} s of processor time")
        samples[beta] = ensemble.phi[0].cpu()
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            flow.save(args.out / f"flow-{beta:g}.pt")
    if args.out is not None:
        save_figure(picture(samples), args.out / "xy_model.png")
        print(f"wrote the flows and xy_model.png to {args.out}")


if __name__ == "__main__":
    main()
