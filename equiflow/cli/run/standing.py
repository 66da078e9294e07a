"""How far a run has come, for commands that show or use an unfinished one."""

from __future__ import annotations

from typing import Any

from equiflow import EquivariantCNF
from equiflow.cli.run.folder import Run
from equiflow.cli.run.journal import of_rung
from equiflow.cli.run.rungs import RunRung
from equiflow.report.terminal import print_line


def latest(run: Run) -> tuple[RunRung, list[dict[str, Any]]]:
    """Return the lattice that training is on, and the records of its steps so far."""
    every, rungs = run.metrics, run.rungs
    rung = rungs[every[-1].get("rung", 1) - 1] if every else rungs[0]
    return rung, of_rung(every, rung.number)


def standing(run: Run) -> str:
    """Return where training is, such as `step 12 of 30` or `rung 1 of 2, 4 x 4: step 12 of 30`."""
    rungs, (rung, rows) = run.rungs, latest(run)
    step = f"step {rows[-1]['step'] if rows else 0} of {rung.config.training.steps}"
    return f"rung {rung.number} of {len(rungs)}, {rung.shape}: {step}" if len(rungs) > 1 else step


def note_if_unfinished(run: Run, flow: EquivariantCNF, source: str) -> None:
    """Print where an unfinished run stands, and which flow a command takes from it.

    Args:
        run: that the flow is from.
        flow: as `run.trained` returns it.
        source: name of its file.
    """
    if run.is_finished:
        return
    step = f", of step {flow.about['step']}" if "step" in flow.about else ""
    print_line(
        f"{run.folder} is unfinished: {standing(run)}. The flow is that of {source}{step}; "
        f"`equiflow resume {run.folder}` goes on."
    )
