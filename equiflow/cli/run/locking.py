"""A lock on a run folder, so that one process at a time trains the run, and others see whether one does."""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from equiflow.cli.run.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: numbers of the errors by which file systems without locks refuse one, such as Lustre mounted without flock
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
#: name of the file that is locked, in the run folder
LOCK_FILE = "run.lock"
#: how long a lock is tried for, in seconds: `is_locked` holds it for a moment
PATIENCE = 0.3


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes. The lock goes with the process, however that ends.

    Raises:
        RunError: if another process has locked it.
    """
    if fcntl is None:
        yield
        return
    with open(folder / LOCK_FILE, "a") as file:
        try:
            _lock(file)
        except BlockingIOError as error:
            raise RunError(f"Another process is training {folder}; wait for it, or stop it.") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): see to it yourself that no other "
                "process trains this run.",
                stacklevel=3,
            )
        yield


def _lock(file: IO[str]) -> None:
    """Take the lock, or raise a BlockingIOError if another process keeps it."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def is_locked(folder: Path) -> bool | None:
    """Return whether a process is training the run in a folder; None if this cannot be known here."""
    if fcntl is None:
        return None
    try:
        with open(folder / LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
