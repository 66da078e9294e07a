"""Files of JSON lines that survive a kill: torn lines are skipped when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from equiflow.runtime.storage import written_atomically


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines, rung by rung; none if there is no such file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # the write that was cut off
            break
    return sorted(found, key=_rung)


def _rung(line: dict[str, Any]) -> int:
    """Of a ladder; a run without one has a single rung, which need not be named."""
    return line.get("rung", 1)


def of_rung(lines: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Those of one lattice of a ladder."""
    return [line for line in lines if _rung(line) == number]


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Add one line, handed to the system before this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def rewrite_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace the whole file."""
    with written_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
