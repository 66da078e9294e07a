"""Results as short tables, in a terminal and in a notebook: `ShownAsTable`, `table` and `html_table`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import escape

from equiflow.statistics.estimate import Estimate


class ShownAsTable(ABC):
    """A result that shows itself as a short table: printed, at a prompt, and in a notebook.

    Subclasses fill in `_rows`. A dataclass says `@dataclass(repr=False)`, since it would write a `__repr__`
    with all its arrays otherwise.
    """

    @abstractmethod
    def _rows(self) -> Mapping[str, object]:
        """Return the rows of the table, by name; no arrays, and nothing that can fail."""

    def _below(self) -> str:
        """Return what stands below the table."""
        return ""

    def __str__(self) -> str:
        return "\n".join(part for part in (table(self._rows()), self._below()) if part).rstrip()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return html_table(type(self).__name__, self._rows(), self._below())


def attempted(make: Callable[[], object]) -> object:
    """Return `make()`, or a text that says why it is unknown, so that a table shows all other rows.

    >>> attempted(lambda: int("a"))
    "unknown: invalid literal for int() with base 10: 'a'"
    """
    try:
        return make()
    except ValueError as error:
        return f"unknown: {error}"


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
    cells, shared = _cells(rows)
    width = max(map(len, cells), default=0)
    lines = [f"{name:<{width}}  {text}" for name, text in cells.items()]
    return "\n".join([*lines, *([f"note: {shared}"] if shared else [])])


def html_table(title: str, rows: Mapping[str, object], below: str = "") -> str:
    """Return what `table` returns as an HTML table, for notebooks.

    Args:
        title: shown above the table.
        rows: values by name.
        below: text that stands below the table as it is.

    Returns:
        An element `<div>`.

    >>> html_table("Result", {"a < b": 1})
    '<div><b>Result</b><table><tr><th>a &lt; b</th><td>1</td></tr></table></div>'
    """
    cells, shared = _cells(rows)
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in cells.items()
    )
    notes = [f"note: {shared}"] if shared else []
    text = "\n".join([*notes, *([below.strip()] if below else [])])
    rest = f"<pre>{escape(text)}</pre>" if text else ""
    return f"<div><b>{escape(title)}</b><table>{lines}</table>{rest}</div>"


def _cells(rows: Mapping[str, object]) -> tuple[dict[str, str], str]:
    """Return the values as text, without the notes that all estimates share, and these notes."""
    estimates = {name: value for name, value in rows.items() if isinstance(value, Estimate)}
    stripped, shared = without_shared_notes(estimates)
    return {name: str(stripped.get(name, value)) for name, value in rows.items()}, shared


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
