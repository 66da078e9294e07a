"""HDF5 files of named arrays; the one module that imports h5py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "HDF5 files need h5py: pip install '.[io]', or take a name that ends in .npz."
        ) from error
    return h5py


def write(path: Path, header: str, arrays: Mapping[str, np.ndarray]) -> None:
    """One dataset per array and the header as a string; `path` is overwritten."""
    with _h5py().File(path, "w") as file:
        file["header"] = header
        for name, array in arrays.items():
            file[name] = array


def read_header(path: Path) -> str:
    """The header alone."""
    with _h5py().File(path, "r") as file:
        return file["header"].asstr()[()]


def read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Header and arrays."""
    with _h5py().File(path, "r") as file:
        header = file["header"].asstr()[()]
        return header, {name: file[name][()] for name in file if name != "header"}
