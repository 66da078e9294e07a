"""Files that survive crashes and run no code: `save_atomically` writes them, `load_safely` reads them.

`sweep` removes what writers that were killed have left behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from equiflow.runtime.devices import check_device, is_of_device, is_of_memory

#: hash of the name, hash of the machine, process and thread: short, so that every legal name can be written
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+)\.\d+\.tmp")
#: names of version 0.1, which do not tell the machine
_TEMPORARY_OF_0_1 = re.compile(r"\..+\.\d+\.\d+\.tmp")
#: age from which on an untouched temporary file of another machine counts as left behind
_SECONDS_UNTIL_LEFT = 24 * 3600.0
#: temporary files that this process is writing now
_being_written: set[Path] = set()
#: errors of the operating system that damaged content can cause
_OF_CONTENT = {None, errno.EINVAL, errno.EISDIR}


class CheckpointError(RuntimeError):
    """A file is truncated, damaged, or not of the expected kind."""


def real_path(path: str | Path) -> Path:
    """Return where a path leads through symbolic links; nothing need be there.

    `Path.exists` is False for a link that leads back to itself, as if nothing were there.

    Args:
        path: of a file or folder.

    Returns:
        The path without links.

    Raises:
        OSError: if a link leads back to itself.
    """
    found = Path(os.path.realpath(path))
    if any(part.is_symlink() for part in (found, *found.parents)):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return found


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` at the end of the `with` block.

    A crash or an exception inside the block leaves an old file at `path` intact. Missing folders are made.
    A symbolic link stays, and the file that it points to is replaced.

    Args:
        path: file to write.

    Raises:
        OSError: if the operating system refuses, or a symbolic link leads back to itself.
    """
    path = real_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_for(path)
    _being_written.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the folder may be gone
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None  # nobody knows the temporary name
        raise
    finally:
        _being_written.discard(temporary)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of `written_atomically` that no process is writing any more.

    Files of living processes stay. Whether a process of another machine lives is not known; its files stay
    until they have not been touched for a day.

    Args:
        folder: where to look.
        name: remove only leftovers of the file of this name.
    """
    for path in list(folder.glob(".*.tmp")):
        of_name = name is None or path.name.startswith((f".{_digest(name, 12)}.", f".{name}."))
        if of_name and _is_left_behind(path):
            path.unlink(missing_ok=True)


def _temporary_for(path: Path) -> Path:
    """Return a name beside `path` that no other writer has."""
    own = f"{_machine()}.{os.getpid()}.{threading.get_ident()}"
    return path.with_name(f".{_digest(path.name, 12)}.{own}.tmp")


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:length]


def _machine() -> str:
    """Return a hash of the name of this machine."""
    return _digest(platform.node(), 8)


def _is_left_behind(path: Path) -> bool:
    """Whether the writer of a temporary file is gone."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None and not _TEMPORARY_OF_0_1.fullmatch(path.name):
        return False
    # On Windows, asking a process for a sign of life would interrupt it.
    if match is not None and match["machine"] == _machine() and os.name != "nt":
        process = int(match["process"])
        return path not in _being_written if process == os.getpid() else not _lives(process)
    try:
        return path not in _being_written and time.time() - path.stat().st_mtime > _SECONDS_UNTIL_LEFT
    except FileNotFoundError:  # its writer has renamed it
        return False


def _lives(process: int) -> bool:
    """Whether a process of this machine lives."""
    with suppress(PermissionError):  # it lives, and belongs to somebody else
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """Write `content` to a file, so that a crash leaves an old file intact.

    Args:
        content: plain types and tensors, with a key `"kind"` for `load_safely`.
        path: file to write, see `written_atomically`.
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
        OSError: if the operating system refuses, for instance a FileNotFoundError or a PermissionError.
        ValueError: if the device is unknown, or this machine has none of its kind.
        CheckpointError: if the file is damaged or of another kind.
    """
    if map_location is not None:
        check_device(map_location)
    try:
        _check_sums(path)
        content = _content_of(path, map_location)
    except Exception as error:  # damaged bytes can make an unpickler raise anything
        if isinstance(error, _NotHereError) or is_of_system(error):
            raise
        raise CheckpointError(
            f"{path} cannot be read as an equiflow {kind}: the file is truncated, damaged, or holds "
            f"more than tensors and plain values ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is not an equiflow {kind}; it holds {found!r}.")
    return content


def is_of_system(error: BaseException) -> bool:
    """Return whether the system failed while a file was read, which says nothing about its content.

    Permission denied, too many open files, no more memory and a failure of the GPU are such errors.
    """
    if isinstance(error, OSError):
        return error.errno not in _OF_CONTENT
    return is_of_memory(error) or is_of_device(error)


class _NotHereError(ValueError):
    """A sound file was saved from a device that this machine lacks."""


def _content_of(path: str | Path, device: torch.device | str | None) -> Any:
    """Return what a file holds, on a device or by default on the one that it was saved from."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except RuntimeError as error:
        if device is not None:
            raise
        torch.load(path, map_location="cpu", weights_only=True)
        raise _NotHereError(
            f"{path} was saved from a device that this machine lacks; load it to another one, such as cpu."
        ) from error


def _check_sums(path: str | Path) -> None:
    """Raise a ValueError if a checksum of a zip archive is wrong; `torch.load` does not look at them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"bad checksum of {damaged}")
