"""Versions of what a result depends on, as `equiflow info` prints them and run folders record them."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import equiflow

#: packages that the numbers of a run depend on
PACKAGES = ("equiflow", "torch", "torchdiffeq", "numpy")


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is missing."""
    # Each knows itself best: the metadata of torch can lack the suffix of its build, such as +cu130,
    # and the distribution of equiflow has another name than its module.
    if package == "torch":
        return str(torch.__version__)
    if package == "equiflow":
        return equiflow.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return what a result may depend on: versions, platform and the command of this process."""
    return {
        **{name: installed_version(name) or "missing" for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
