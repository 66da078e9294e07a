"""Can a flow from the Haar measure reach lattice gauge theory in two dimensions, sectors included?

Trains by `fit_by_continuity` alone and certifies the result on fresh samples: reverse and forward ESS, log Z
and plaquette against the exact values of the torus, and for U(1) the topological susceptibility,
as the flow gives it (raw) and reweighted. Target samples for the forward ESS are independent for U(1), where
plaquettes are drawn exactly, and come from HMC for SU(N), which does not freeze at these couplings. Training
costs processor time, which neighbours on a shared machine change little.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import equiflow
from equiflow import (
    HMC,
    Ensemble,
    EquivariantCNF,
    Estimate,
    Lattice,
    Links,
    Solver,
    SUNField,
    U1Field,
    WilsonAction,
    fit_by_continuity,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.oracles import gauge_torus
from equiflow.report import print_table, write_json
from equiflow.report.numbers import finite
from equiflow.theories.gauge.observables import plaquette, topological_charge

#: reverse ESS to reach on 16 x 16
GOALS = {"U(1)@2": 0.99, "U(1)@5.5": 0.85, "U(1)@7": 0.75, "SU(2)@2.2": 0.98, "SU(2)@4": 0.95}
GOALS |= {"SU(3)@4": 0.985, "SU(3)@5": 0.93, "SU(3)@6": 0.80}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--cases", nargs="+", default=list(GOALS), help="group and beta")
parser.add_argument("--side", type=int, default=16, help="sites per axis")
parser.add_argument("--dim", type=int, default=2, help="number of axes; exact values are known for 2")
parser.add_argument(
    "--shapes", nargs="+", default=["plaquette"], help="Wilson loops of the potential, for SU(N)"
)
parser.add_argument("--seed", type=int, default=0, help="of training and sampling")
parser.add_argument("--sweeps", type=int, default=3, help="see fit_by_continuity")
parser.add_argument(
    "--training-samples", type=int, nargs="+", default=[1024], help="per sweep: one number, or one each"
)
parser.add_argument(
    "--local", type=float, nargs="+", default=[0.1], help="see fit_by_continuity: one number, or one each"
)
parser.add_argument("--times", type=int, default=20, help="per sweep")
parser.add_argument(
    "--method", default="rk4", help="of the step from one time to the next: rk4, midpoint, ..."
)
parser.add_argument("--modes", type=int, default=8, help="polynomials in flow time")
parser.add_argument("--degree", type=int, default=3, help="of functions of Wilson loops, for SU(N)")
parser.add_argument("--strips", type=int, default=0, help="longest strips of the field, for SU(N)")
parser.add_argument("--samples", type=int, default=2048, help="fresh samples of the flow")
parser.add_argument("--target-samples", type=int, default=2048, help="samples of the target")
parser.add_argument("--certify", type=int, default=64, help="samples that are solved again, finely")
parser.add_argument("--steps", type=int, default=16, help="of rk4, for fresh samples")
parser.add_argument("--threads", type=int, default=1, help="CPU threads")
parser.add_argument("--save", type=Path, help="folder for the flows, named as those in the package")
parser.add_argument("--out", type=Path, help="JSON file for the figures, to which cases are added")


@dataclass(frozen=True)
class Result:
    """One trained flow; errors are one standard deviation."""

    case: str
    side: int
    seed: int
    parameters: int
    sweeps: int
    training_samples: list[int]
    local: list[float]
    seconds: float
    ess_of_sweeps: list[float | None]
    seconds_of_sweeps: list[float]
    reverse_ess: float
    reverse_ess_error: float
    forward_ess: float
    forward_ess_error: float
    log_z: float
    log_z_error: float
    log_z_exact: float | None
    log_z_shift: float
    max_log_q_error: float
    plaquette: float
    plaquette_error: float
    plaquette_exact: float | None
    plaquette_target: float
    plaquette_target_error: float
    dim: int = 2
    raw_chi_q: float | None = None
    raw_chi_q_error: float | None = None
    chi_q: float | None = None
    chi_q_error: float | None = None
    chi_q_exact: float | None = None


def one_each(given: list[Any], sweeps: int) -> list[Any]:
    """Return what is given for every sweep, where it is one number for all or one each."""
    return given * sweeps if len(given) == 1 else given


def flow_for(action: WilsonAction, args: argparse.Namespace) -> EquivariantCNF:
    """Return an untrained flow in single precision."""
    torch.manual_seed(args.seed)
    links = action.space
    if links.is_flat:
        vector_field = U1Field(links, n_time_modes=args.modes)
    else:
        # Rectangles add nothing to plaquettes that move alone, which suits two dimensions.
        vector_field = SUNField(
            links,
            shapes=tuple(args.shapes),
            reach=args.side // 2 if args.dim == 2 else 0,
            strips=args.strips,
            n_time_modes=args.modes,
            degree=args.degree,
        )
    return EquivariantCNF(links, vector_field=vector_field, solver=Solver("rk4", steps=args.steps))


def target_samples(action: WilsonAction, n: int, generator: torch.Generator) -> tuple[Tensor, Estimate]:
    """Return samples of the target and their plaquette.

    Samples are independent for U(1), which has exact ones in two dimensions, else of HMC from many starts.
    """
    if action.space.is_flat:
        phi = links_with(plaquettes_of_u1(action, n, generator), action.space, generator)
        values = plaquette(action.space)(phi)
        return phi, Estimate(float(values.mean()), float(values.std()) / math.sqrt(n))
    chain = HMC(action).sample(
        math.ceil(n / 64),
        n_chains=64,
        n_thermalisation=50,
        thin=2,
        certify=0,
        dtype=torch.float32,
        generator=generator,
        progress=False,
    )
    return chain.configurations[:n], chain.mean(plaquette(action.space))


def plaquettes_of_u1(action: WilsonAction, n: int, generator: torch.Generator) -> Tensor:
    """Return angles of plaquettes, `(n, *lattice)`: independent, but for their sum, a multiple of 2 pi.

    All but the last are drawn freely. The last follows, and is accepted with its own probability.
    """
    volume, kept = action.lattice.volume, []
    grid = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
    distribution = torch.exp(action.beta * (grid.cos() - 1)).cumsum(0)
    distribution = distribution / distribution[-1]
    while sum(map(len, kept)) < n:
        uniform = torch.rand(n, volume - 1, generator=generator, dtype=torch.float64)
        place = torch.searchsorted(distribution, uniform).clamp(1, len(grid) - 1)
        low, high = distribution[place - 1], distribution[place]
        free = grid[place - 1] + (grid[1] - grid[0]) * (uniform - low) / (high - low)
        last = -free.sum(1, keepdim=True)
        chance = torch.rand(n, generator=generator, dtype=torch.float64)
        kept.append(torch.cat([free, last], 1)[chance < torch.exp(action.beta * (last[:, 0].cos() - 1))])
    return torch.cat(kept)[:n].view(n, *action.lattice.shape)


def links_with(angles: Tensor, links: Links, generator: torch.Generator) -> Tensor:
    """Return links with given plaquettes, random Polyakov loops and in a random gauge."""
    theta = torch.zeros(len(angles), 2, *angles.shape[1:], dtype=torch.float64)
    # Without links along the second axis, those along the first fall by a plaquette from row to row. The last
    # row makes up for the sums of the columns.
    theta[:, 0] = -(angles.cumsum(2) - angles)
    columns = angles.sum(2)
    theta[:, 1, :, -1] = columns.cumsum(1) - columns
    loops = 2 * math.pi * torch.rand(2, len(angles), 1, generator=generator, dtype=torch.float64)
    theta[:, 0, 0] += loops[0]
    theta[:, 1, :, -1] += loops[1]
    gauge = 2 * math.pi * torch.rand(angles.shape, generator=generator, dtype=torch.float64)
    for mu in range(2):
        theta[:, mu] += gauge - gauge.roll(-1, mu + 1)
    return links.nearest(theta)


def trained(case: str, args: argparse.Namespace) -> Result:
    """Train one flow and measure it on fresh samples."""
    group, _, beta = case.partition("@")
    action = WilsonAction(Links(Lattice((args.side,) * args.dim), group), beta=float(beta))
    flow, exact = flow_for(action, args), gauge_torus(action) if args.dim == 2 else None
    before, start = time.process_time(), []
    history = fit_by_continuity(
        flow,
        action,
        sweeps=args.sweeps,
        n_samples=one_each(args.training_samples, args.sweeps),
        local=one_each(args.local, args.sweeps),
        n_times=args.times,
        solver=Solver(args.method, steps=1),
        seed=args.seed,
        callback=lambda h: start.append(time.process_time() - before),
        progress=False,
    )
    generator = torch.Generator().manual_seed(1000 + args.seed)
    ensemble = importance_sample(
        flow, action, args.samples, batch_size=256, certify=args.certify, generator=generator
    )
    phi, target_plaquette = target_samples(action.double(), args.target_samples, generator)
    phi = phi.to(ensemble.phi.dtype)
    forward = forward_effective_sample_size(log_weights(flow, action, phi, batch_size=256))
    reverse, log_z = ensemble.effective_sample_size(), ensemble.log_z()
    energy = ensemble.mean(plaquette(action.space))
    certificate = ensemble.certificate
    result = Result(
        case=case,
        side=args.side,
        seed=args.seed,
        parameters=sum(p.numel() for p in flow.vector_field.linear_parameters),
        sweeps=args.sweeps,
        training_samples=one_each(args.training_samples, args.sweeps),
        local=one_each(args.local, args.sweeps),
        seconds=start[-1],
        ess_of_sweeps=history.ess,
        seconds_of_sweeps=start,
        reverse_ess=reverse.mean,
        reverse_ess_error=reverse.error,
        forward_ess=forward.mean,
        forward_ess_error=forward.error,
        log_z=log_z.mean,
        log_z_error=log_z.error,
        log_z_exact=None if exact is None else exact.log_z,
        log_z_shift=certificate.log_z_shift,
        max_log_q_error=certificate.max_log_q_error,
        plaquette=energy.mean,
        plaquette_error=energy.error,
        plaquette_exact=None if exact is None else exact.plaquette,
        plaquette_target=target_plaquette.mean,
        plaquette_target_error=target_plaquette.error,
        dim=args.dim,
        **(
            susceptibilities(ensemble, action, exact.topological_susceptibility)
            if group == "U(1)" and exact is not None
            else {}
        ),
    )
    if args.save is not None:
        save(flow, action, result, args.save)
    return result


def save(flow: EquivariantCNF, action: WilsonAction, result: Result, folder: Path) -> None:
    """Write a flow with what is known about it, such as `u1-2d-L8-beta5.5.pt`."""
    known = {name: value for name, value in asdict(result).items() if isinstance(value, int | float)}
    flow.about = {"action": repr(action), "group": action.space.group, "beta": action.beta, **known}
    name = action.space.group.lower().replace("(", "").replace(")", "")
    folder.mkdir(parents=True, exist_ok=True)
    flow.save(folder / f"{name}-{action.lattice.dim}d-L{result.side}-beta{action.beta:g}.pt")


def susceptibilities(ensemble: Ensemble, action: WilsonAction, exact: float) -> dict[str, float]:
    """Return the susceptibility of the charge as the flow gives it, reweighted, and exact."""
    squares = topological_charge(action.space)(ensemble.phi.double()).square() / action.lattice.volume
    weight = torch.softmax(ensemble.log_weight.double(), 0)
    mean = float(weight @ squares)
    error = float((weight * (squares - mean)).square().sum().sqrt())
    return {
        "raw_chi_q": float(squares.mean()),
        "raw_chi_q_error": float(squares.std()) / math.sqrt(len(squares)),
        "chi_q": mean,
        "chi_q_error": error,
        "chi_q_exact": exact,
    }


def row(result: Result) -> list[object]:
    """Return a line of the table."""
    r = result
    off, error = "", r.plaquette_error
    if r.log_z_exact is not None:
        off = f"{(r.log_z - r.log_z_exact) / math.hypot(r.log_z_error, r.log_z_shift):+.1f}"
    reference = r.plaquette_exact
    if reference is None:
        reference, error = r.plaquette_target, math.hypot(error, r.plaquette_target_error)
    raw = "" if r.raw_chi_q is None else f"{r.raw_chi_q / r.chi_q_exact - 1:+.1%}"
    return [
        r.case,
        f"{r.side}^{r.dim}",
        r.parameters,
        f"{r.seconds:.0f}",
        f"{r.reverse_ess:.4f}({1e4 * r.reverse_ess_error:.0f})",
        f"{r.forward_ess:.4f}({1e4 * r.forward_ess_error:.0f})",
        off,
        f"{(r.plaquette - reference) / error:+.1f}",
        raw,
        GOALS.get(r.case, ""),
    ]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "equiflow": equiflow.__version__,
        "clock": "processor time",
    }
    content = {"machine": machine, "runs": []}
    if args.out is not None and args.out.exists():
        content["runs"] = json.loads(args.out.read_text())["runs"]
    results = []
    for case in args.cases:
        results.append(trained(case, args))
        print(json.dumps(asdict(results[-1])), flush=True)
        content["runs"].append({name: finite(value) for name, value in asdict(results[-1]).items()})
        if args.out is not None:
            write_json(content, args.out)
    header = ["theory", "L", "weights", "seconds", "reverse ESS", "forward ESS", "log Z (sigma)",
              "plaquette (sigma)", "raw chi_Q", "goal"]  # fmt: skip
    print_table(
        "From the Haar measure by least squares for the continuity equation", header, list(map(row, results))
    )


if __name__ == "__main__":
    main()
