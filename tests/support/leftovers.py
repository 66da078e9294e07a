"""Temporary files as other processes leave them behind, or are writing them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from equiflow.runtime import storage


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def half_written_by(process: int, path: Path) -> Path:
    """A temporary file that a process of this machine has begun to write for `path`."""
    with mock.patch.object(os, "getpid", return_value=process):
        temporary = storage._temporary_for(path)
    temporary.write_text("half")
    return temporary
