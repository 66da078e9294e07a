"""Files that survive crashes and run no code: `save_atomically` writes them, `load_safely` reads them."""

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
    """A file is truncated, damaged, or not of the expected kind."""


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` at the end of the `with` block.

    A crash or an exception inside the block leaves an old file at `path` intact. Missing folders are made.
    """
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
    """Write `content` to a file, so that a crash leaves an old file intact.

    Args:
        content: plain types and tensors, with a key `"kind"` for `load_safely`.
        path: file to write.
    """
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def load_safely(
    path: str | Path, kind: str, *, map_location: torch.device | str | None = None
) -> dict[str, Any]:
    """Read a file that `save_atomically` wrote, with `weights_only=True`.

    Args:
        path: file to read.
        kind: value that its key `"kind"` must have.
        map_location: device for its tensors; by default the one they were saved from.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or of another kind.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes can make an unpickler raise anything
        raise CheckpointError(
            f"{path} cannot be read as an equiflow {kind}: the file is truncated, damaged, or holds "
            f"more than tensors and plain values ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is not an equiflow {kind}; it holds {found!r}.")
    return content


def _check_sums(path: str | Path) -> None:
    """Raise a ValueError if a checksum of a zip archive is wrong; `torch.load` does not look at them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"bad checksum of {damaged}")
