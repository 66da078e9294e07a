"""Bring the records of a run back to its checkpoints, from which training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equiflow.cli.run.journal import of_rung, read_lines, rewrite_lines
from equiflow.cli.run.rungs import RunRung
from equiflow.runtime.storage import CheckpointError, load_safely, sweep


def rewind(folder: Path, rungs: list[RunRung]) -> list[int]:
    """Drop what was recorded after the checkpoints, and what killed processes left half written.

    Args:
        folder: of the run.
        rungs: its lattices.

    Returns:
        The step of the checkpoint on each lattice; 0 without one.

    Raises:
        CheckpointError: if a checkpoint is damaged.
    """
    for one in {folder, *(rung.folder for rung in rungs)}:
        sweep(one)
    evaluations = read_lines(folder / "evaluations.jsonl")
    done, rows, kept = [], [], []
    for rung in rungs:
        step, columns = _recorded(rung)
        done.append(step)
        for row in zip(*columns.values(), strict=True):
            rows.append({"rung": rung.number, **dict(zip(columns, row, strict=True))})
        kept += [line for line in of_rung(evaluations, rung.number) if line["step"] <= step]
    rewrite_lines(folder / "metrics.jsonl", rows)
    rewrite_lines(folder / "evaluations.jsonl", kept)
    return done


def _recorded(rung: RunRung) -> tuple[int, dict[str, Any]]:
    """Step and history of the checkpoint on a lattice."""
    if not rung.latest.exists():
        return 0, {}
    try:
        state = load_safely(rung.latest, "training", map_location="cpu")
    except CheckpointError as error:
        earlier = sorted(rung.folder.glob("step-*.pt"))
        advice = f"Delete it to start over: rm {rung.latest}"
        if earlier:
            advice = f"Go on from an earlier one: cp {earlier[-1]} {rung.latest}"
        raise CheckpointError(f"{error} {advice}") from error
    return state["step"], state["history"]
