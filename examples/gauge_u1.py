"""U(1) gauge theory in two dimensions: a gauge-equivariant flow where HMC freezes, against exact results.

Trains a flow of links from the Haar measure to `exp(beta sum cos P)` by least squares for the continuity
equation, in seconds, along a path on which topological sectors are settled early. Draws fresh weighted
samples and chains of them, and compares plaquette, log Z and topological susceptibility with exact results.
HMC runs beside it from cold starts, where its topological charge Q stays.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    HMC,
    Chain,
    EquivariantCNF,
    IndependenceMetropolis,
    Lattice,
    Links,
    WilsonAction,
    fit,
    fit_by_continuity,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.analysis import frozen_charge
from equiflow.oracles import ExactGauge, gauge_torus
from equiflow.report import print_table, write_json
from equiflow.report.style import FLOW, MUTED, REFERENCE, legend_below, new_figure, save_figure, styled
from equiflow.report.words import provenance
from equiflow.theories.gauge.observables import plaquette, topological_charge, topological_susceptibility
from equiflow.theories.gauge.sectors import uniform_flux

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=16, help="side of the periodic square lattice")
parser.add_argument("--beta", type=float, default=5.5, help="coupling")
parser.add_argument("--sweeps", type=int, default=2, help="sweeps of least squares through time")
parser.add_argument("--sweep-samples", type=int, default=1024, help="samples of a sweep")
parser.add_argument("--steps", type=int, default=0, help="steps of gradient descent that follow")
parser.add_argument("--batch-size", type=int, default=64, help="model samples per such step")
parser.add_argument("--samples", type=int, default=2048, help="fresh model samples to measure on")
parser.add_argument("--trajectories", type=int, default=256, help="of each HMC chain")
parser.add_argument("--chains", type=int, default=16, help="number of chains, of HMC and of the flow")
parser.add_argument("--accuracy", type=float, default=1e-2, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for the flow, the picture and results.json")


def train(flow: EquivariantCNF, action: WilsonAction, args: argparse.Namespace) -> float:
    """Train by least squares, then by gradient descent if asked for; return the seconds it took."""
    start = time.perf_counter()
    fit_by_continuity(
        flow, action, sweeps=args.sweeps, n_samples=args.sweep_samples, n_times=16, seed=args.seed
    )
    if args.steps:
        options = {"batch_size": args.batch_size, "learning_rate": 1e-3, "seed": args.seed}
        fit(flow, action, steps=args.steps, **options)
    return time.perf_counter() - start


def target_samples(action: WilsonAction, exact: ExactGauge, n: int, generator: torch.Generator) -> Tensor:
    """Return samples of the target: sectors drawn from their exact probabilities, HMC within them."""
    charge = exact.draw_charges(n, generator)
    chain = HMC(action).sample(
        1, n_chains=n, n_thermalisation=60, initial=uniform_flux(action.space, charge), generator=generator
    )
    return chain.configurations


@styled
def picture(
    hmc: Tensor, flow: Tensor, sectors: dict[str, Tensor], exact: ExactGauge, title: str, source: str
) -> Figure:
    """Draw the charge along chains of HMC and of the flow, and how often each charge occurs."""
    figure, panels = new_figure(2, 2, (10, 7), title=title)
    reach = int(max(hmc.abs().max(), flow.abs().max())) + 1
    for axes, series, colour, name, step in (
        (panels[0, 0], hmc, REFERENCE, source, "trajectory"),
        (panels[0, 1], flow, FLOW, "flow with Metropolis", "proposal"),
    ):
        for chain in range(min(3, series.shape[1])):
            axes.plot(series[:, chain], color=colour, lw=0.8, alpha=1 - 0.25 * chain)
        axes.set(title=name, xlabel=f"{step} of three chains", ylabel="charge Q", ylim=(-reach, reach))
    charges = torch.arange(-reach, reach + 1)
    axes = panels[1, 0]
    for name, (colour, values, weight) in sectors.items():
        share = [float(weight[values == q].sum() / weight.sum()) for q in charges.tolist()]
        axes.stairs(share, torch.arange(-reach, reach + 2) - 0.5, color=colour, label=name)
    axes.plot(charges, exact.charge_probabilities(reach), "k_", ms=12, label="exact (dash, dashed line)")
    axes.set(xlabel="charge Q", ylabel="probability", title="sectors")
    legend_below(figure, axes, columns=4)
    axes = panels[1, 1]
    for series, colour, name in ((hmc, REFERENCE, "HMC"), (flow, FLOW, "flow with Metropolis")):
        running = (series.square().mean(1).cumsum(0) / torch.arange(1, len(series) + 1)) / exact.volume
        axes.plot(running, color=colour, label=name)
    axes.axhline(exact.topological_susceptibility, color=MUTED, ls="--", label="exact")
    axes.set(xlabel="step of all chains", ylabel=r"running mean of $Q^2 / V$", title="susceptibility")
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    links = Links(Lattice((args.L, args.L)), "U(1)")
    action = WilsonAction(links, beta=args.beta)
    exact = gauge_torus(action)
    flow = EquivariantCNF(links)
    seconds = train(flow, action, args)

    generator = torch.Generator().manual_seed(args.seed + 1)
    print(flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator))
    ensemble = importance_sample(flow, action, args.samples, batch_size=512, generator=generator)
    cold = uniform_flux(links, torch.zeros(args.chains))
    options = {"n_chains": args.chains, "n_thermalisation": 60, "initial": cold, "generator": generator}
    hmc = HMC(action).sample(args.trajectories, **options)
    steps = IndependenceMetropolis.from_ensemble(ensemble, n_chains=args.chains, generator=generator)
    target = target_samples(action, exact, min(512, args.samples), generator)
    forward = forward_effective_sample_size(log_weights(flow, action, target.to(flow.dtype), batch_size=256))

    charge, chi, mean = topological_charge(links), topological_susceptibility(links), plaquette(links)
    q = charge(ensemble.phi)
    raw = Chain(ensemble.phi[None], torch.ones(1, args.samples), space=links).mean(chi)
    chi_q, plaq, log_z, ess = (
        ensemble.mean(chi),
        ensemble.mean(mean),
        ensemble.log_z(),
        ensemble.effective_sample_size(),
    )
    of_hmc, of_flow = hmc.tau_int(lambda u: charge(u).square()), steps.tau_int(lambda u: charge(u).square())
    rows = [
        ("log Z", str(log_z), "", f"{exact.log_z:.5f}"),
        ("plaquette", str(plaq), str(hmc.mean(mean)), f"{exact.plaquette:.6f}"),
        ("chi_Q", str(chi_q), str(hmc.mean(chi)), f"{exact.topological_susceptibility:.6f}"),
        ("chi_Q without weights", str(raw), "", ""),
        ("tau_int of Q^2", str(of_flow), str(of_hmc), ""),
    ]
    print_table(str(action), ["", "flow", "HMC, cold start", "exact"], rows)
    print(f"reverse ESS {ess}\nforward ESS {forward}\ntrained in {seconds:.0f} s")
    if frozen := frozen_charge(hmc, links):
        print(f"HMC: {frozen}")
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    flow.save(args.out / "flow.pt")
    one = torch.ones(len(q))
    sectors = {
        "flow": (MUTED, q, one),
        "flow, reweighted": (FLOW, q, ensemble.log_weight.softmax(0)),
        "HMC": (REFERENCE, charge(hmc.configurations), torch.ones(hmc.samples.shape[:2].numel())),
    }
    title = f"U(1) at beta = {args.beta:g} on {args.L} x {args.L}: reverse ESS {ess}"
    source = provenance("HMC from cold starts", hmc, of_hmc)
    figure = picture(hmc.series(charge), steps.series(charge), sectors, exact, title, source)
    save_figure(figure, args.out / "gauge_u1.png")
    numbers = {name: value for name, value in vars(args).items() if name != "out"}
    for name, value in (
        ("reverse_ess", ess),
        ("forward_ess", forward),
        ("log_z", log_z),
        ("plaquette", plaq),
        ("chi_q", chi_q),
        ("raw_chi_q", raw),
        ("tau_int_q2_flow", of_flow),
        ("tau_int_q2_hmc", of_hmc),
        ("hmc_chi_q", hmc.mean(chi)),
    ):
        numbers |= {name: finite(value.mean), f"{name}_error": finite(value.error)}
    numbers |= {
        "log_z_exact": exact.log_z,
        "plaquette_exact": exact.plaquette,
        "chi_q_exact": exact.topological_susceptibility,
        "log_z_shift": finite(ensemble.certificate.log_z_shift),
        "nfe": ensemble.certificate.nfe,
        "train_seconds": seconds,
    }
    write_json(numbers, args.out / "results.json")
    print(f"wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} to {args.out}")


def finite(value: float) -> float | None:
    """Return a number for JSON, which has no infinity: tau_int of a charge that never changes is None."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    main()
