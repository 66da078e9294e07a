"""A lock on a run folder, so that one process at a time trains the run."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equiflow.cli.run.errors import RunError

#: numbers of the errors by which file systems without locks refuse one, such as Lustre mounted without flock
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes. The lock goes with the process, however that ends.

    Raises:
        RunError: if another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "run.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
