"""Numbers of a report as JSON: `write_json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from equiflow.runtime.storage import written_atomically


def write_json(content: Mapping[str, object], path: str | Path) -> None:
    """Write JSON to a file; a crash leaves an old file intact.

    Args:
        content: what to write; values that JSON does not know are written as text.
        path: name of the file.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str, allow_nan=False))


def finite(value: object) -> object:
    """Return a value, or None in place of NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
