"""Files: written to a temporary name and renamed, read without running anybody's code."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A file is truncated, damaged, or not what it should be."""


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """Write `content` (plain types and tensors) to `path`, so that a crash leaves the old file intact."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_safely(
    path: str | Path, kind: str, *, map_location: torch.device | str | None = None
) -> dict[str, Any]:
    """Read a file that `save_atomically` wrote, with `weights_only=True`.

    Args:
        path: file to read.
        kind: value that its key `"kind"` must have.
        map_location: where tensors go.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or of another kind.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as an equiflow {kind}: the file is truncated, damaged, or holds "
            f"more than tensors and plain values ({type(error).__name__})."
        ) from error
    found = content.get("kind") if isinstance(content, dict) else type(content).__name__
    if found != kind:
        raise CheckpointError(f"{path} is not an equiflow {kind}; it holds {found!r}.")
    return content
