"""How far long work is: a bar in a terminal or a notebook, a line every 30 seconds in a log.

`progress_bar` counts; `progress_as` lets the argument `progress` of a function decide for all bars inside.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from equiflow.runtime import distributed
from equiflow.runtime.checks import check_type

#: seconds between two lines in a log
SECONDS_PER_LINE = 30.0
#: seconds before a bar appears, so that short work shows none
SECONDS_TO_BAR = 1.0
#: what bars do that are not told otherwise: True, False, or None for what suits where the messages go
_shown: ContextVar[bool | None] = ContextVar("shown", default=None)


class Bar(Protocol):
    """What `progress_bar` gives: something that counts."""

    def update(self, n: int = 1) -> object:
        """Count n more."""

    def set_postfix(self, numbers: dict[str, str]) -> object:
        """Show numbers behind the count."""


class _Nothing:
    """A bar that nobody sees."""

    def update(self, n: int = 1) -> None:
        """See `Bar.update`."""

    def set_postfix(self, numbers: dict[str, str]) -> None:
        """See `Bar.set_postfix`."""


class _Lines:
    """A bar for logs and batch systems: a line to stderr every 30 seconds."""

    def __init__(self, total: int, what: str, unit: str, initial: int) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.count = self.initial = initial
        self.numbers = ""
        self.started = self.last = time.monotonic()

    def update(self, n: int = 1) -> None:
        """See `Bar.update`."""
        self.count += n
        now = time.monotonic()
        if now - self.last >= SECONDS_PER_LINE:
            self.last = now
            sys.stderr.write(self.line(now - self.started) + "\n")
            sys.stderr.flush()

    def set_postfix(self, numbers: dict[str, str]) -> None:
        """See `Bar.set_postfix`."""
        self.numbers = "".join(f", {name} {text}" for name, text in numbers.items())

    def line(self, seconds: float) -> str:
        """Return a line such as `training: 120 of 600 steps, 0:00:30, 0:02:00 left, loss -3.2`."""
        done = self.count - self.initial
        left = f", {clock(seconds / done * (self.total - self.count))} left" if done else ""
        count = f"{self.what}: {self.count} of {self.total} {self.unit}s"
        return f"{count}, {clock(seconds)}{left}{self.numbers}"


@contextmanager
def progress_bar(total: int, what: str, unit: str, *, initial: int = 0) -> Iterator[Bar]:
    """Show how far some work is, inside of a `with` block.

    Only the outermost bar is shown, and in several processes only that of the first one. Unless it was asked
    for, it appears after a second.

    Args:
        total: number of units in all.
        what: what is done, such as "sampling".
        unit: what is counted, in the singular.
        initial: number of units that were done before.

    Yields:
        The bar.
    """
    shown = _shown.get()
    bar: Bar = _Nothing()
    with progress_as(False):
        if shown is False or not distributed.is_first():
            yield bar
        elif shown or sees_bars():
            delay = 0.0 if shown else SECONDS_TO_BAR
            with _tqdm()(total=total, desc=what, unit=unit, initial=initial, delay=delay) as bar:
                yield bar
        else:
            yield _Lines(total, what, unit, initial)


@contextmanager
def progress_as(progress: bool | None) -> Iterator[None]:
    """Let the argument `progress` of a function decide for all bars in a `with` block.

    Args:
        progress: True shows a bar, False nothing; None leaves it to the caller, who may have decided, or else
            to where the messages go.

    Yields:
        Nothing.

    Raises:
        TypeError: if it is anything else.
    """
    if progress is not None:
        check_type(progress, bool, "progress", "Write True or False, or None for what suits.")
    # A caller that shows a bar, or wants none, has decided already.
    token = _shown.set(_shown.get() if progress is None or _shown.get() is False else progress)
    try:
        yield
    finally:
        _shown.reset(token)


def sees_bars() -> bool:
    """Return whether messages go to a terminal or a notebook, where a bar can move."""
    if _in_notebook():
        return True
    isatty = getattr(sys.stderr, "isatty", None)
    return bool(isatty and isatty())


def clock(seconds: float) -> str:
    """Return seconds as hours:minutes:seconds; "unknown" if they are not finite.

    >>> clock(3725.2)
    '1:02:05'
    """
    if not math.isfinite(seconds):
        return "unknown"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def _tqdm() -> Any:
    """Return the class of bars: widgets in a notebook that has them, else text."""
    if not _in_notebook():
        from tqdm import tqdm

        return tqdm
    from tqdm.auto import tqdm as auto

    return auto
