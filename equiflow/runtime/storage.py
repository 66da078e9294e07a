"""Files: written to a temporary name and renamed, read without running anybody's code."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A file is truncated, damaged, or not what it should be."""


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` at the end: a crash leaves the old file intact."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """Write `content` (plain types and tensors) to `path`, so that a crash leaves the old file intact."""
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


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
        _check_sums(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever bytes can make an unpickler raise
        raise CheckpointError(
            f"{path} cannot be read as an equiflow {kind}: the file is truncated, damaged, or holds "
            f"more than tensors and plain values ({type(error).__name__})."
        ) from error
    found = content.get("kind") if isinstance(content, dict) else type(content).__name__
    if found != kind:
        raise CheckpointError(f"{path} is not an equiflow {kind}; it holds {found!r}.")
    return content


def _check_sums(path: str | Path) -> None:
    """Compare the checksums of a zip archive, which torch.load does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"bad checksum of {damaged}")
