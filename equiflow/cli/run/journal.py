"""Files of JSON lines that survive a kill: a line that was cut off is skipped when the file is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from equiflow.runtime.storage import written_atomically


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines, rung by rung; none if there is no such file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # the line whose write was cut off
            break
    return sorted(found, key=_rung)


def _rung(line: dict[str, Any]) -> int:
    """Number of the rung that a line is about; a run without a ladder need not name its only one."""
    return line.get("rung", 1)


def of_rung(lines: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return the lines about one lattice of a ladder.

    Args:
        lines: as `read_lines` returns them.
        number: of the rung, from 1.

    Returns:
        The lines, in the same order.
    """
    return [line for line in lines if _rung(line) == number]


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Add one line to a file.

    Args:
        path: the file; made if it is missing.
        content: of the line.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def rewrite_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace all lines of a file at once.

    Args:
        path: the file; made if it is missing.
        lines: its new content.
    """
    with written_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
