"""Ctrl-C ends a command of `equiflow` with status 130, at any moment and without a traceback.

The package imports this module first, because importing torch takes seconds. An interruption in those seconds
would print a traceback, or get lost in an import that catches every error. Scripts that import equiflow keep
Python's own behaviour.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

#: exit status of an interrupted command, 128 and the number of SIGINT, as shells count it
STATUS = 130
#: seconds after which an interruption is tried again that came where it could get lost
_AGAIN = 0.02
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def is_command(arguments: Sequence[str], original: Sequence[str]) -> bool:
    """Return whether this process runs the command `equiflow`, and no script that imports the package.

    Args:
        arguments: `sys.argv`; while `python -m` looks for its module, its first entry is `-m`.
        original: `sys.orig_argv`, the whole command line.

    Returns:
        True for the command, also as `python -m equiflow`.
    """
    name = os.path.basename(arguments[0]) if arguments else ""
    if name == "-m":
        return "equiflow" in original[1:] and original[original.index("equiflow") - 1] == "-m"
    return name in ("equiflow", "equiflow.exe", "equiflow-script.py")


def end_at_once() -> None:
    """Let Ctrl-C end this process at once, unless somebody has chosen otherwise, as `nohup` does."""
    with suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end)


@contextmanager
def raised() -> Iterator[None]:
    """Let Ctrl-C raise a KeyboardInterrupt inside a `with` block, for a command that has things to tidy up.

    Nothing changes unless `end_at_once` was called before.
    """
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, raise_interrupt)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise a KeyboardInterrupt, as a handler of signals; where it would be lost, raise it soon afterwards.

    An import may catch it, and Python drops what a finaliser raises.

    Args:
        number: of the signal.
        frame: where the process was interrupted.

    Raises:
        KeyboardInterrupt: now, or after the import or the finaliser.
    """
    can_wait = hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is raise_interrupt
    if not (can_wait and _is_lost(frame)):
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _is_lost(frame: FrameType | None) -> bool:
    """Whether an error that is raised in a frame may never arrive at the command."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End the process; what was printed so far is kept."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the interruption may have come in the middle of a write
            stream.flush()
    if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun has started, one says so
        with suppress(OSError):
            os.write(2, b"Stopped.\n")
    os._exit(STATUS)


if is_command(sys.argv, sys.orig_argv):
    end_at_once()
