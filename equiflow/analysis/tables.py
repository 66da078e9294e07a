"""Results as text."""

from __future__ import annotations

from collections.abc import Mapping


def table(rows: Mapping[str, object]) -> str:
    """Return one line for each name and its value, with the values in one column.

    >>> print(table({"binder": 0.61, "M": 1.0}))
    binder  0.61
    M       1.0
    """
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
