"""HDF5 files of a header and named arrays. No other module imports h5py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np


def _h5py() -> ModuleType:
    """Import h5py, or raise an ImportError that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "HDF5 files need h5py: pip install '.[io]', or take a name that ends in .npz."
        ) from error
    return h5py


def check_installed() -> None:
    """Raise unless h5py is installed.

    Raises:
        ImportError: it says how to install h5py.
    """
    _h5py()


def write(path: Path, header: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one dataset per array and the header as a string; an old file is overwritten.

    Args:
        path: file to write.
        header: text of the header.
        arrays: arrays by name.

    Raises:
        ImportError: if h5py is not installed.
        OSError: if the operating system refuses, for instance on a full disk.
    """
    # Through a file of Python: where HDF5 itself meets a full disk, it can end the process.
    with open(path, "wb+") as raw, _h5py().File(raw, "w") as file:
        file["header"] = header
        for name, array in arrays.items():
            file[name] = array


def read_header(path: Path) -> str:
    """Return the text of the header alone."""
    with _h5py().File(path, "r") as file:
        return file["header"].asstr()[()]


def read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the text of the header and the arrays."""
    with _h5py().File(path, "r") as file:
        header = file["header"].asstr()[()]
        return header, {name: file[name][()] for name in file if name != "header"}
