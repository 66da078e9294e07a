"""Results as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from equiflow.statistics import Estimate


def table(rows: Mapping[str, object]) -> str:
    """Return one line for each name and its value, with the values in one column.

    Notes that all estimates have are printed once, below.

    >>> print(table({"binder": 0.61, "M": 1.0}))
    binder  0.61
    M       1.0
    >>> print(table({"a": Estimate(1.0, 0.1, note="unadjusted"), "b": Estimate(2.0, 0.1, note="unadjusted")}))
    a  1.00 ± 0.10
    b  2.00 ± 0.10
    note: unadjusted
    """
    estimates = {name: value for name, value in rows.items() if isinstance(value, Estimate)}
    stripped, shared = without_shared_notes(estimates)
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {stripped.get(name, value)}" for name, value in rows.items()]
    return "\n".join([*lines, *([f"note: {shared}"] if shared else [])])


def without_shared_notes(estimates: Mapping[str, Estimate]) -> tuple[dict[str, Estimate], str]:
    """Return estimates without the notes that all of them have, and these notes.

    Args:
        estimates: by name; a single one keeps its notes.

    Returns:
        The estimates with what is left of their notes, and the common notes, separated by semicolons.
    """
    notes = [estimate.note.split("; ") for estimate in estimates.values()]
    if len(notes) < 2:
        return dict(estimates), ""
    shared = [note for note in notes[0] if note and all(note in others for others in notes)]
    left = {
        name: replace(estimate, note="; ".join(n for n in estimate.note.split("; ") if n not in shared))
        for name, estimate in estimates.items()
    }
    return left, "; ".join(shared)
