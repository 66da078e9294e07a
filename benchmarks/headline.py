"""Draw the picture of the README: a flow at work, and what log Z costs with it and without.

Above: one sample of the packaged flow for L = 32 at six flow times. Below: processor time for log Z to a
statistical error of 1e-3, from `benchmarks/results/cost.json`, which `benchmarks/cost.py` writes.

    python benchmarks/headline.py
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torchdiffeq import odeint

from equiflow import EquivariantCNF
from equiflow.report.style import FLOW, MUTED, save_figure, styled

RESULTS = Path(__file__).parent / "results"
#: methods of cost.json: how they are called here, colour, marker
METHODS = {
    "thermodynamic integration by HMC": ("HMC, integrated from the free field", MUTED, "s"),
    "flow, two levels for log Z": ("the flow", FLOW, "o"),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--costs", type=Path, default=RESULTS / "cost.json", help="figures of cost.py")
parser.add_argument("--seed", type=int, default=3, help="of the sample")
parser.add_argument("--out", type=Path, default=RESULTS / "headline.png", help="the picture")


@torch.no_grad()
def snapshots(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n flow times and one sample of the packaged flow at each of them, `(n, 32, 32)`."""
    flow = EquivariantCNF.pretrained("phi4-2d-L32")
    z = flow.prior.rsample(1, generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(0, 1, n)
    field = flow.vector_field
    return times, odeint(
        lambda t, phi: field.velocity_and_divergence(phi, t)[0], z, times, rtol=1e-5, atol=1e-5
    )[:, 0]


@styled
def picture(sides: list[dict[str, Any]], seed: int) -> Figure:
    """Draw the flow at work above, and below what log Z costs."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.7])

    times, phi = snapshots(seed)
    above.suptitle(r"$\phi^4$, 32 × 32, from the free field to the interacting one", fontsize=10)
    limit = float(phi[-1].abs().max())
    for axes, t, field in zip(above.subplots(1, len(times)), times, phi, strict=True):
        axes.imshow(field.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[], xlabel=f"t = {float(t):g}")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    axes = below.subplots()
    for method, (label, colour, marker) in METHODS.items():
        seconds = {
            side["L"]: row["costs"]["log Z"]["mean"] / 1e3
            for side in sides
            for row in side["rows"]
            if row["method"] == method
        }
        axes.plot(list(seconds), list(seconds.values()), marker=marker, color=colour)
        last = max(seconds)
        axes.annotate(
            label, (last, seconds[last]), (-8, 8), textcoords="offset points", ha="right", color=colour
        )
    axes.set(xscale="log", yscale="log", xlabel="L", ylabel="time of one core")
    axes.set_title(r"$\log Z$ to $10^{-3}$ at $m_p L = 4$", fontsize=10)
    axes.set_xticks([side["L"] for side in sides], [str(side["L"]) for side in sides])
    axes.set_yticks([0.1, 1, 60, 3600, 86400], ["0.1 s", "1 s", "1 min", "1 h", "1 day"])
    axes.set_ylim(0.02, 2e6)
    axes.minorticks_off()
    return figure


def main() -> None:
    args = parser.parse_args()
    figure = picture(json.loads(args.costs.read_text())["sides"], args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, args.out)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
