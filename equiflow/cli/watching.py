"""A run in the terminal while it trains: curves and numbers, read from its files.

`watch` is the command; `screen` is one picture of the run, and `follow` prints lines for pipes and files.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.journal import of_rung
from equiflow.cli.run.locking import is_locked
from equiflow.cli.run.standing import latest, standing
from equiflow.report.terminal import console as terminal
from equiflow.report.terminal import print_line, printable
from equiflow.runtime.progress import clock

#: characters of a curve, from the lowest value to the highest
BLOCKS = "▁▂▃▄▅▆▇█"
#: number of latest steps that the time to the end is estimated from
STEPS_OF_PACE = 100
#: width in columns unless given
DEFAULT_WIDTH = 100


def watch(run: Run, *, once: bool, every: float) -> None:
    """Show the state of a run until its last step, in a terminal through all its stops.

    Args:
        run: to be watched.
        once: print the state and return.
        every: seconds between updates.

    Raises:
        RunError: see `follow`.
    """
    console = terminal()
    if once:
        console.print(screen(run, console.width))
        return
    if not console.is_terminal:
        follow(run, every)
        return
    with Live(screen(run, console.width), console=console, auto_refresh=False) as live:
        while not run.is_finished:
            time.sleep(every)
            live.update(screen(run, console.width), refresh=True)


def follow(run: Run, every: float) -> None:
    """Print a line about each step that is seen, as a pipe or a file needs it, until nobody trains the run.

    Args:
        run: to be followed.
        every: seconds between looks.

    Raises:
        RunError: if nobody is training the run, and its last step is not taken.
    """
    printed = ""
    if is_locked(run.folder) is None:
        print_line(_state(run))
    while True:
        trains = is_locked(run.folder)  # before the files are read: what a process wrote last is seen
        line, finished = progress(run), run.is_finished
        # Twice, because a process that begins lets go of the lock for a moment.
        if finished or (trains is False and line == printed):
            break
        if line != printed:
            print_line(line)
        printed = line
        time.sleep(every)
    if line != printed:
        print_line(line)
    if not finished:
        raise RunError(f"{run.folder}: {standing(run)}. {_state(run)}")
    print_line(f"{run.folder}: {_state(run)}")


def progress(run: Run) -> str:
    """Return one line about the latest step, such as `step 12 of 30, loss -3.2, ..., to the end 0:00:05`."""
    if lost := lost_records(run):
        return lost
    rung, rows = latest(run)
    if not rows:
        return "No step has been taken yet."
    last = rows[-1]
    ess = "" if last["ess"] is None else f", ESS {last['ess']:.4f} on the batch"
    left = remaining(rows, rung.config.training.steps)
    times = f"time so far {clock(last['seconds'])}, to the end {clock(left)}"
    return f"{standing(run)}, loss {last['loss']:.6g}{ess}, {times}"


def screen(run: Run, width: int = DEFAULT_WIDTH) -> Group:
    """Return curves and a table of a run, on the lattice that training is on.

    Args:
        run: to be shown.
        width: of the terminal, in columns.

    Returns:
        What rich prints: a panel.
    """
    every, rungs, (rung, rows) = run.metrics, run.rungs, latest(run)
    steps = rung.config.training.steps
    lost = lost_records(run)
    title = Text(printable(f"{run.folder.name}{', ' if len(rungs) > 1 else ': '}{standing(run)}"))
    state = Text(printable(_state(run)))
    if lost:
        return Group(Panel(Group(printable(lost), state), title=printable(run.folder.name)))
    if not rows:
        return Group(Panel(Group("No step has been taken yet.", state), title=title))
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
            curves.add_row(name, Text(printable(line), style="cyan"), f"{min(shown):.4g} to {max(shown):.4g}")
    table = Table(show_header=False, box=None)
    for below in rungs[: rung.number - 1]:
        name = f"rung {below.number}, {below.shape}"
        summary = _summary(of_rung(every, below.number), of_rung(fresh, below.number))
        table.add_row(name, printable(summary))
    for name, value in _numbers(rows, of_rung(fresh, rung.number), steps):
        table.add_row(name, printable(value))
    if rung is not rungs[-1]:
        table.add_row("", "of this rung; those above it come after")
    return Group(Panel(Group(curves, "", table, state), title=title))


def lost_records(run: Run) -> str:
    """Return a sentence about a finished run whose metrics do not reach its last step; empty otherwise."""
    if not run.is_finished:  # looked at first: whoever writes flow.pt has written all metrics before
        return ""
    rungs, (rung, rows) = run.rungs, latest(run)
    known, steps = rows[-1]["step"] if rows else 0, rung.config.training.steps
    if rung.number == len(rungs) and known == steps:
        return ""
    where = f" of rung {rung.number} of {len(rungs)}" if len(rungs) > 1 else ""
    return (
        f"metrics.jsonl was cut off after step {known} of {steps}{where}: the records of later steps are "
        "lost; the trained flow in flow.pt is not."
    )


def _state(run: Run) -> str:
    """Return a sentence that says whether a process is training the run."""
    if run.is_finished:
        return "Training is finished."
    trains = is_locked(run.folder)
    if trains:
        return "A process is training it."
    if trains is None:
        return "Whether a process is training it cannot be known on this file system."
    return f"No process is training it: it was stopped or killed. `equiflow resume {run.folder}` goes on."


def _summary(rows: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]]) -> str:
    """Return one line about a finished rung."""
    ess = f", ESS {fresh[-1]['ess']:.4f} ± {fresh[-1]['ess_error']:.4f} on fresh samples" if fresh else ""
    return f"{len(rows)} steps in {clock(rows[-1]['seconds'])}{ess}"


def _numbers(
    rows: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]], steps: int
) -> list[tuple[str, str]]:
    """Return rows `quantity, value` about the latest step and the latest evaluation."""
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
        ("time so far", clock(last["seconds"])),
        ("time to the end", clock(remaining(rows, steps))),
    ]


def remaining(rows: Sequence[dict[str, Any]], steps: int) -> float:
    """Return the seconds to the last step, at the pace of the latest steps.

    Args:
        rows: records of the steps so far.
        steps: number of the last step.

    Returns:
        NaN if no pace is known yet.
    """
    recent = rows[-STEPS_OF_PACE:]
    left = steps - recent[-1]["step"]
    if left == 0:
        return 0.0
    if len(recent) < 2:
        return math.nan
    return left * (recent[-1]["seconds"] - recent[0]["seconds"]) / (len(recent) - 1)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a curve as one line of block characters.

    Args:
        values: of the curve, in order; each character shows the mean of equally many.
        width: largest number of characters.

    Returns:
        At most `width` characters.
    """
    n_bins = min(width, len(values))
    edges = [round(i * len(values) / n_bins) for i in range(n_bins + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high <= low:
        return BLOCKS[0] * n_bins
    return "".join(BLOCKS[min(int((m - low) / (high - low) * len(BLOCKS)), len(BLOCKS) - 1)] for m in means)
