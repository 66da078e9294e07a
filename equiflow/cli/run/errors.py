"""The error of run folders."""

from __future__ import annotations


class RunError(RuntimeError):
    """A folder that holds no run, or one that cannot be worked on now."""
