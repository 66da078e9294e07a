"""The tables of `equiflow info`: what is installed, what it runs on, and how to get what is missing."""

from __future__ import annotations

import platform
import shutil

import torch

from equiflow import fused
from equiflow.cli.versions import PACKAGES, installed_version
from equiflow.report.terminal import print_table

#: extra -> its packages, and what it is for
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "report": (("matplotlib", "rich", "jinja2"), "plots, tables, HTML reports"),
    "cli": (("typer", "pydantic"), "this command line"),
    "fast": (("numba",), "flows and samplers in machine code, several times faster on CPUs"),
    "o3": (("e3nn",), "O3Field, in three dimensions"),
    "steerable": (("escnn",), "SteerableField, in two dimensions (gfortran builds one of its parts)"),
    "splines": (("zuko",), "SplineMap of CouplingFlow"),
    "tensorboard": (("tensorboard",), "run.tensorboard = true"),
    "io": (("h5py",), "files of samples in HDF5"),
    "arviz": (("arviz", "xarray"), "equiflow.interop.to_inference_data"),
    "dev": (("hypothesis", "pytest", "ruff", "mypy"), "tests and checks of the package itself"),
}


def print_info() -> None:
    """Print the tables of `equiflow info`."""
    print_table("installation", ("what", "value"), installation())
    print_table("extras", ("extra", "for", "installed"), extras())


def installation() -> list[tuple[str, str]]:
    """Return versions and devices as rows `what, value`."""
    rows = [(name, installed_version(name) or "missing") for name in PACKAGES]
    rows += [("python", platform.python_version()), ("platform", platform.platform())]
    rows += [("CPU threads", str(torch.get_num_threads()))]
    rows += [("GPU", ", ".join(_gpus()) or "none that this torch can use ")]
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    rows += [("fused kernels on CPUs", fused.state())]
    rows += [("C++ compiler, for compile = true", compiler or "none: torch.compile will not work")]
    return rows


def extras() -> list[tuple[str, str, str]]:
    """Return every extra with its purpose, and its installed versions or the command that installs it."""
    rows = []
    for extra, (packages, purpose) in EXTRAS.items():
        found = {package: installed_version(package) for package in packages}
        installed = ", ".join(f"{package} {number}" for package, number in found.items())
        missing = f"no: pip install '.[{extra}]'"
        rows.append((extra, purpose, installed if all(found.values()) else missing))
    return rows


def _gpus() -> list[str]:
    return [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
