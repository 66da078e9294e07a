"""Neural renormalisation group: a hierarchy of flows from coarse lattices to fine ones, for the Ising model.

Trains a `MultiscaleFlow` on the Ising model as a theory of a continuous field, on lattices of side 8, 16 and
so on up to L, each started from the one before, and compares log Z with Kaufman's exact one. Then the Ising
spins of each lattice are coarsened step by step. With one step more, those of a lattice twice as large are
smaller by 2^(-eta / 2) on the same coarse lattice: eta / 2 = 1/8 at the critical point.

`--levels 1` is a single scale, one `EquivariantCNF` on the whole lattice, to compare with.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from equiflow import (
    CheckpointError,
    ContinuousIsing,
    Estimate,
    Lattice,
    MultiscaleFlow,
    PotentialField,
    SpinClusters,
    fit,
    importance_sample,
)
from equiflow.nn.blocking import Blocking
from equiflow.oracles import ising_torus
from equiflow.report import Report, print_table
from equiflow.report.style import new_figure, save_figure, styled
from equiflow.samplers import Samples
from equiflow.statistics import error_of_fluctuations
from equiflow.theories.scalar.ising import CRITICAL_TEMPERATURE
from equiflow.training import AdaptivePathGradient


def temperature(text: str) -> float:
    """Read a temperature, or `critical`."""
    return CRITICAL_TEMPERATURE if text == "critical" else float(text)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--L", type=int, default=16, help="side of the periodic square lattice")
parser.add_argument("--T", type=temperature, default="critical", help="temperature, or critical")
parser.add_argument("--levels", type=int, default=3, help="lattices of the hierarchy; 1 is a single scale")
parser.add_argument("--smallest", type=int, default=8, help="side of the first lattice to train on")
parser.add_argument("--start", type=Path, help="flow.pt of a smaller lattice, to go on from")
parser.add_argument("--ridges", type=int, default=32, help="ridges of the potential of each level")
parser.add_argument(
    "--steps", type=int, help="optimiser steps on each lattice; more on larger ones by default"
)
parser.add_argument("--batch-size", type=int, help="samples per step; 32, and 16 from L = 32 on, by default")
parser.add_argument("--learning-rate", type=float, help="of Adam; by default twice that of `fit`")
parser.add_argument("--samples", type=int, default=8192, help="fresh model samples to measure on")
parser.add_argument("--accuracy", type=float, default=1e-3, help="largest solver error of log Z")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1")
parser.add_argument("--seed", type=int, default=0, help="seed of training, samples and the chain")
parser.add_argument("--out", type=Path, help="folder for plots, flow.pt and results.json")


def sides_of(args: argparse.Namespace) -> list[int]:
    """Return the sides of the lattices to train on: L, and halves of it without a flow to go on from."""
    sides = [args.L]
    while sides[0] > args.smallest and sides[0] % 2 == 0 and args.start is None:
        sides.insert(0, sides[0] // 2)
    return sides


def recipe(flow: MultiscaleFlow, args: argparse.Namespace, *, is_new: bool) -> dict[str, object]:
    """Return how to train on a lattice: the larger it is, the better its flow has to be at each site."""
    side = flow.lattice.shape[0]
    steps = 800 if side <= 8 else 1500 if side <= 16 else 3000
    return {
        "steps": args.steps or steps,
        "batch_size": args.batch_size or (32 if side < 32 else 16),
        "learning_rate": args.learning_rate or 2 * flow.learning_rate,
        # A strong penalty would undo what a flow has learned on the lattice before.
        "objective": AdaptivePathGradient(first_penalty=1e-2 if is_new else 1e-3),
    }


def new_flow(lattice: Lattice, args: argparse.Namespace) -> MultiscaleFlow:
    """Return an untrained hierarchy."""
    return MultiscaleFlow(
        lattice,
        n_levels=args.levels,
        vector_field=lambda group: PotentialField(group.lattice, group=group, n_ridges=args.ridges),
    )


def block_spins(action: ContinuousIsing, samples: Samples, seed: int) -> dict[int, Estimate]:
    """Return the mean square of blocks of Ising spins by the side of the coarse lattice, all of them in one.

    A block is a smooth average; on the lattice of side 1 it is the magnetisation.
    """
    lattices = [action.lattice]
    while lattices[-1].shape[0] % 2 == 0:
        lattices.append(Lattice(tuple(side // 2 for side in lattices[-1].shape)))

    def squares(phi: Tensor) -> Tensor:
        # The same spins whenever this is called, one configuration after the other.
        spins = action.spins(phi, torch.Generator(phi.device).manual_seed(seed))
        means = [torch.ones(len(phi), dtype=phi.dtype, device=phi.device)]
        for fine in lattices[:-1]:
            spins = Blocking(fine).restrict(spins) / 2
            means.append(spins.square().mean((1, 2)))
        return torch.stack(means, 1).double()

    mean, fluctuations = samples.mean_and_fluctuations(squares)
    errors = error_of_fluctuations(fluctuations).error
    return {
        lattice.shape[0]: Estimate(float(value), float(error))
        for lattice, value, error in zip(lattices, mean, errors, strict=True)
    }


def exponents(blocks: dict[int, dict[int, Estimate]]) -> dict[int, dict[int, Estimate]]:
    """Return eta / 2 from each two neighbouring lattices, by the side on which they are compared."""
    found: dict[int, dict[int, Estimate]] = {}
    for small, large in zip(blocks, list(blocks)[1:], strict=False):
        found[large] = {}
        for side in sorted(set(blocks[small]) & set(blocks[large]), reverse=True):
            one, other = blocks[small][side], blocks[large][side]
            error = math.hypot(one.error / one.mean, other.error / other.mean) / (2 * math.log(2))
            found[large][side] = Estimate(math.log(one.mean / other.mean) / (2 * math.log(2)), error)
    return found


@styled
def picture(fields: list[Tensor], found: dict[int, dict[int, Estimate]]) -> Figure:
    """Draw a configuration as each level of the flow sees it, and eta / 2 after each step of coarsening."""
    title = "Ising model at its critical point: a configuration on each level, and the exponent"
    if not found:  # on one lattice alone there is nothing to compare
        title = title.removesuffix(", and the exponent")
    n_panels = len(fields) + bool(found)
    figure, [panels] = new_figure(1, n_panels, (3 * n_panels + 1.5, 3.8), title=title, squeeze=False)
    for axes, phi in zip(panels, fields, strict=False):
        size = float(phi.abs().max())
        axes.imshow(phi[0].cpu().numpy(), cmap="RdBu_r", vmin=-size, vmax=size)
        axes.set(title=f"level of {phi.shape[1]} x {phi.shape[2]}", xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    if not found:
        return figure
    axes = panels[-1]
    for large, values in found.items():
        steps = sorted((round(math.log2(large / side)), value) for side, value in values.items())
        axes.errorbar(
            [n for n, _ in steps],
            [value.mean for _, value in steps],
            [value.error for _, value in steps],
            fmt="o-",
            capsize=3,
            label=f"sides {large // 2} and {large}",
        )
    axes.axhline(0.125, color="black", linestyle=":", label="1/8")
    longest = max(len(values) for values in found.values())
    axes.set(xlabel="steps of coarsening", ylabel="eta / 2", xticks=range(1, longest + 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def main() -> None:
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(args.threads)
    generator = torch.Generator(args.device).manual_seed(args.seed + 1)
    blocks: dict[int, dict[int, Estimate]] = {}
    try:
        flow = None if args.start is None else MultiscaleFlow.load(args.start, device=args.device)
    except (CheckpointError, OSError) as error:
        parser.error(str(error))
    seconds, few = 0.0, max(64, args.samples // 32)
    for side in sides_of(args):
        try:
            lattice = Lattice((side, side))
            action = ContinuousIsing(lattice, args.T)
            is_new = flow is None
            new = new_flow(lattice, args) if is_new else flow.resized(lattice)
        except ValueError as error:  # such as an odd side
            parser.error(str(error))
        flow = new.to(args.device)
        begin = time.process_time()
        history = fit(flow, action, **recipe(flow, args, is_new=is_new), seed=args.seed)
        seconds += time.process_time() - begin
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            flow.save(args.out / f"flow_L{side}.pt")  # what `--start` takes
        choice = flow.tune_solver(args.accuracy, action=action, n_samples=64, generator=generator)
        ensemble = importance_sample(
            flow, action, args.samples, batch_size=512, certify=few, generator=generator
        )
        blocks[side] = block_spins(action, ensemble, args.seed)
        exact, log_z = ising_torus(action), ensemble.log_z()
        rows = [
            ["levels, symmetry", f"{len(flow.levels)}, {flow.group}"],
            ["solver", str(choice.solver)],
            ["reverse ESS", str(ensemble.effective_sample_size())],
            ["log Z", str(log_z)],
            ["exact", f"{exact.log_z:.5f}, {(log_z.mean - exact.log_z) / log_z.error:+.1f} sigma"],
            ["trained so far", f"{seconds:.0f} s of processor time"],
        ]
        print_table(str(action), ["", ""], rows)

    # Exact samples of the target: spins by cluster updates, and the field given the spins.
    n = max(4, args.samples // 128)
    chain = SpinClusters(action).sample(n, n_chains=64, thin=5, generator=generator, device=args.device)
    report = Report(flow, action, history, ensemble, chain)
    report.print()
    found = exponents(blocks)
    names = {large: f"sides {large // 2} and {large}" for large in found}
    rows = [
        [names[n], f"on side {side}", str(v)] for n, values in found.items() for side, v in values.items()
    ]
    if rows:
        print_table("eta / 2, which is 1/8 at the critical point", ["", "", ""], rows)
    total = {"total_seconds": time.perf_counter() - start}
    if args.out is not None:
        settings = {
            **{"log_z_exact": exact.log_z, "processor_seconds": seconds, "levels": len(flow.levels)},
            "eta_half": {n: {s: [v.mean, v.error] for s, v in values.items()} for n, values in found.items()},
        }
        report.save(args.out, settings={**vars(args), **settings, **total})
        save_figure(picture(flow.coarsen(ensemble.phi[:1]), found), args.out / "neural_rg.png")
        print(f"wrote {', '.join(sorted(p.name for p in args.out.iterdir()))} to {args.out}")


if __name__ == "__main__":
    main()
