"""What is known about a flow: `About`, a dictionary of plain values that shows itself as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equiflow.statistics import Estimate
from equiflow.statistics.tables import ShownAsTable

#: entries of a list that a table shows
SHOWN_ENTRIES = 6


class About(ShownAsTable, dict[str, Any]):
    """Plain values by name, which a file keeps with its flow; a `dict` otherwise.

    A value `x` and its `x_error` stand in one row.

    >>> About({"action": "Phi4", "reverse_ess": 0.9984, "reverse_ess_error": 0.0001, "steps": 300})
    action       Phi4
    reverse_ess  0.99840 ± 0.00010
    steps        300
    """

    def _rows(self) -> dict[str, object]:
        errors = {f"{name}_error" for name in self}
        rows = {name: self._shown(name, value) for name, value in self.items() if name not in errors}
        return rows or {"about": "nothing is on record"}

    def _shown(self, name: str, value: object) -> object:
        error = self.get(f"{name}_error")
        if isinstance(value, float) and isinstance(error, float):
            return Estimate(value, error)
        return _in_words(value)


def _in_words(value: object) -> str:
    """Return a plain value as a short text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_in_words(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = len(value) - SHOWN_ENTRIES
        shown = ", ".join(map(_in_words, value[:SHOWN_ENTRIES])) or "none"
        return f"{shown} and {more} more" if more > 0 else shown
    return str(value)
