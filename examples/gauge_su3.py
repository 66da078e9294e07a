"""SU(N) gauge theory in two dimensions: a flow on the group, its Wilson loops against exact results and HMC.

Trains a flow of links from the Haar measure to `exp(beta / N sum Re tr P)`, by least squares for the
continuity equation and then by gradient descent if asked for, and certifies it. Links stay in the group
throughout. Plaquette, Wilson loops and log Z are compared with the exact results of the torus.
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
    EquivariantCNF,
    Estimate,
    Lattice,
    Links,
    Solver,
    SUNField,
    WilsonAction,
    fit,
    fit_by_continuity,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.oracles import ExactGauge, gauge_torus
from equiflow.report import print_table, write_json
from equiflow.report.style import (
    FLOW,
    MUTED,
    REFERENCE,
    legend_below,
    new_figure,
    readable_log,
    save_figure,
    styled,
)
from equiflow.theories.gauge.observables import plaquette, wilson_loop

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--group", default="SU(3)", help="SU(2), SU(3), SU(4), ...")
parser.add_argument("--L", type=int, default=8, help="side of the periodic square lattice")
parser.add_argument("--beta", type=float, default=4.0, help="coupling")
parser.add_argument(
    "--reach", type=int, help="rungs on each side that a plaquette turns; half of the lattice unless given"
)
parser.add_argument("--sweeps", type=int, default=2, help="sweeps of least squares through time")
parser.add_argument("--sweep-samples", type=int, default=512, help="samples of a sweep")
parser.add_argument("--steps", type=int, default=0, help="steps of gradient descent that follow")
parser.add_argument("--batch-size", type=int, default=32, help="model samples per such step")
parser.add_argument("--samples", type=int, default=512, help="fresh model samples to measure on")
parser.add_argument("--accuracy", type=float, default=1e-2, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and HMC")
parser.add_argument("--out", type=Path, help="folder for the flow, the picture and results.json")

#: sides of the Wilson loops, as far as they fit into the lattice
SIDES = ((1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))


def train(flow: EquivariantCNF, action: WilsonAction, args: argparse.Namespace) -> float:
    """Train by least squares, then by gradient descent if asked for; return the seconds it took."""
    start = time.perf_counter()
    options = {"sweeps": args.sweeps, "n_samples": args.sweep_samples, "n_times": 12, "seed": args.seed}
    fit_by_continuity(flow, action, solver=Solver("midpoint", steps=1), **options)
    if args.steps:
        options = {"batch_size": args.batch_size, "learning_rate": 1e-3, "seed": args.seed}
        fit(flow, action, steps=args.steps, **options)
    return time.perf_counter() - start


@styled
def picture(
    log_weight: Tensor, loops: dict[str, dict[int, Estimate]], exact: ExactGauge, title: str
) -> Figure:
    """Draw the log weights about the exact log Z, and Wilson loops against their area."""
    figure, (left, right) = new_figure(1, 2, (10, 4.6), title=title)
    left.hist(log_weight - exact.log_z, 40, density=True, histtype="step", color=FLOW)
    left.axvline(0, color=MUTED, lw=1)
    left.set(xlabel=r"$\log w - \log Z$", ylabel="density", title="weights of model samples")
    for name, colour, shift in (("flow, reweighted", FLOW, -0.06), ("HMC", REFERENCE, 0.06)):
        areas = list(loops[name])
        means, errors = ([getattr(loops[name][area], field) for area in areas] for field in ("mean", "error"))
        right.errorbar(
            [area + shift for area in areas],
            means,
            errors,
            fmt="o",
            ms=4,
            capsize=2,
            color=colour,
            label=name,
        )
    area = range(1, max(loops["HMC"]) + 1)
    right.plot(area, [exact.wilson_loop(a) for a in area], color=MUTED, lw=1, label="exact")
    right.set(xlabel="area of the loop", ylabel=r"$\langle W \rangle$", title="Wilson loops")
    readable_log(right)
    legend_below(figure, right, columns=3)
    return figure


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    links = Links(Lattice((args.L, args.L)), args.group)
    if links.is_flat:
        parser.error("this example is for SU(N); gauge_u1.py is for U(1)")
    action = WilsonAction(links, beta=args.beta)
    exact = gauge_torus(action)
    reach = args.L // 2 if args.reach is None else args.reach
    flow = EquivariantCNF(links, vector_field=SUNField(links, shapes=("plaquette",), reach=reach))
    seconds = train(flow, action, args)

    generator = torch.Generator().manual_seed(args.seed + 1)
    print(flow.tune_solver(args.accuracy, action=action, n_samples=32, generator=generator))
    ensemble = importance_sample(flow, action, args.samples, batch_size=256, certify=64, generator=generator)
    options = {"n_chains": 32, "n_thermalisation": 60, "generator": generator, "dtype": torch.float32}
    chain = HMC(action).sample(24, thin=2, **options)
    target = chain.configurations.to(ensemble.phi.dtype)
    forward = forward_effective_sample_size(log_weights(flow, action, target, batch_size=256))

    fitting = [rt for rt in SIDES if max(rt) < args.L]
    loops = {
        name: {r * t: source.mean(wilson_loop(links, r, t)) for r, t in fitting}
        for name, source in (("flow, reweighted", ensemble), ("HMC", chain))
    }
    log_z, plaq, ess = (
        ensemble.log_z(),
        ensemble.mean(plaquette(links)),
        ensemble.effective_sample_size(),
    )
    rows = [
        ("log Z", str(log_z), "", f"{exact.log_z:.5f}"),
        ("plaquette", str(plaq), str(chain.mean(plaquette(links))), f"{exact.plaquette:.6f}"),
        *(
            (
                f"W({r}, {t})",
                *(str(one[r * t]) for one in loops.values()),
                f"{exact.wilson_loop(r * t):.6f}",
            )
            for r, t in fitting[1:]
        ),
    ]
    print_table(str(action), ["", "flow", "HMC", "exact"], rows)
    print(f"reverse ESS {ess}\nforward ESS {forward}\ntrained in {seconds:.0f} s")
    print(f"farthest from the group: {float(links.lie.defect(ensemble.phi).max()):.1e}")
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    flow.save(args.out / "flow.pt")
    title = f"{args.group} at beta = {args.beta:g} on {args.L} x {args.L}: reverse ESS {ess}"
    save_figure(picture(ensemble.log_weight, loops, exact, title), args.out / "gauge_su3.png")
    numbers = {name: value for name, value in vars(args).items() if name != "out"}
    for name, value in (
        ("reverse_ess", ess),
        ("forward_ess", forward),
        ("log_z", log_z),
        ("plaquette", plaq),
        *((f"wilson_loop_{r}x{t}", loops["flow, reweighted"][r * t]) for r, t in fitting),
    ):
        numbers |= {name: finite(value.mean), f"{name}_error": finite(value.error)}
    numbers |= {
        "log_z_exact": exact.log_z,
        "plaquette_exact": exact.plaquette,
        "log_z_shift": finite(ensemble.certificate.log_z_shift),
        "nfe": ensemble.certificate.nfe,
        "n_parameters": sum(p.numel() for p in flow.parameters()),
        "train_seconds": seconds,
        # Links of SU(N) have no topological charge in two dimensions.
        "chi_q": None,
        "raw_chi_q": None,
    }
    write_json(numbers, args.out / "results.json")
    print(f"wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} to {args.out}")


def finite(value: float) -> float | None:
    """Return a number for JSON, which has no infinity."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    main()
