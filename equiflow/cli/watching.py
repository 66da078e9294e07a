"""A run in the terminal while it trains: curves and numbers, read from its files."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from equiflow.cli.run.folder import Run
from equiflow.cli.run.journal import of_rung

BARS = "▁▂▃▄▅▆▇█"
#: steps over which the pace, and with it the time to the end, is taken
RECENT = 100


def watch(run: Run, *, once: bool, every: float) -> None:
    """Show the state of a run, until its last step or Ctrl-C; `once` prints it and returns."""
    console = Console()
    # A pipe has no width: keep rows on one line there.
    console = console if console.is_terminal else Console(width=100)
    if once:
        console.print(screen(run, console.width))
        return
    with Live(screen(run, console.width), console=console, auto_refresh=False) as live:
        while not _finished(run):
            time.sleep(every)
            live.update(screen(run, console.width), refresh=True)


def _finished(run: Run) -> bool:
    return (run.folder / "flow.pt").exists()


def screen(run: Run, width: int = 100) -> Group:
    """Curves and table of a run as it stands; of a ladder those of the lattice that it is on."""
    every, rungs = run.metrics, run.rungs
    rung = rungs[every[-1].get("rung", 1) - 1] if every else rungs[0]
    rows, steps = of_rung(every, rung.number), rung.config.training.steps
    where = f", rung {rung.number} of {len(rungs)}, {rung.shape}" if len(rungs) > 1 else ""
    title = f"{run.folder.name}{where}: step {rows[-1]['step'] if rows else 0} of {steps}"
    if not rows:
        return Group(Panel("No step has been taken yet.", title=title))
    wide = max(10, min(width, 150) - 50)
    fresh = [row for row in run.evaluations if "ess" in row]
    curves = Table.grid(padding=(0, 2))
    for name, values in (
        ("loss", [row["loss"] for row in rows]),
        ("ESS on the batch", [row["ess"] for row in rows]),
        ("log10 gradient norm", [math.log10(max(row["grad_norm"], 1e-300)) for row in rows]),
    ):
        shown = [value for value in values if value is not None and math.isfinite(value)]
        if shown:
            line = sparkline(shown, wide)
            curves.add_row(name, Text(line, style="cyan"), f"{min(shown):.4g} to {max(shown):.4g}")
    table = Table(show_header=False, box=None)
    for below in rungs[: rung.number - 1]:
        name = f"rung {below.number}, {below.shape}"
        table.add_row(name, _summary(of_rung(every, below.number), of_rung(fresh, below.number)))
    for name, value in _numbers(rows, of_rung(fresh, rung.number), steps):
        table.add_row(name, value)
    if rung is not rungs[-1]:
        table.add_row("", "of this rung; those above it come after")
    return Group(Panel(Group(curves, "", table), title=title))


def _summary(rows: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]]) -> str:
    """A rung that has been climbed, in one line."""
    ess = f", ESS {fresh[-1]['ess']:.4f} ± {fresh[-1]['ess_error']:.4f} on fresh samples" if fresh else ""
    return f"{len(rows)} steps in {_clock(rows[-1]['seconds'])}{ess}"


def _numbers(
    rows: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]], steps: int
) -> list[tuple[str, str]]:
    last = rows[-1]
    ess = "none for this objective" if last["ess"] is None else f"{last['ess']:.4f}"
    numbers = [("loss", f"{last['loss']:.6g}"), ("ESS on the batch", ess)]
    if fresh:
        late, best = fresh[-1], max(fresh, key=lambda row: row["ess"])
        numbers += [
            ("ESS on fresh samples", f"{late['ess']:.4f} ± {late['ess_error']:.4f} (step {late['step']})"),
            ("best of them", f"{best['ess']:.4f} (step {best['step']})"),
            ("acceptance, estimated", f"{late['acceptance']:.3f}"),
            ("log Z", f"{late['log_z']:.6g} ± {late['log_z_error']:.2g}"),
        ]
    else:
        numbers.append(("ESS on fresh samples", "not measured yet"))
    return [
        *numbers,
        ("gradient norm", f"{last['grad_norm']:.3g}"),
        ("learning rate", f"{last['learning_rate']:.3g}"),
        ("evaluations per sample (nfe)", str(last["nfe"])),
        ("time so far", _clock(last["seconds"])),
        ("time to the end", _clock(remaining(rows, steps))),
    ]


def remaining(rows: Sequence[dict[str, Any]], steps: int) -> float:
    """Seconds to the last step at the pace of recent steps; NaN if no pace is known."""
    recent = rows[-RECENT:]
    left = steps - recent[-1]["step"]
    if left == 0:
        return 0.0
    if len(recent) < 2:
        return math.nan
    return left * (recent[-1]["seconds"] - recent[0]["seconds"]) / (len(recent) - 1)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of block characters: bins of equal length, their means from lowest to highest."""
    n_bins = min(width, len(values))
    edges = [round(i * len(values) / n_bins) for i in range(n_bins + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high <= low:
        return BARS[0] * n_bins
    return "".join(BARS[min(int((m - low) / (high - low) * len(BARS)), len(BARS) - 1)] for m in means)
