"""Files with a JSON header and named arrays, in the format of NumPy or HDF5.

`write` and `read` are the interface. Reading verifies checksums and runs no code.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from equiflow.interop import hdf5
from equiflow.runtime.storage import CheckpointError, is_of_system, written_atomically

T = TypeVar("T")

#: value of the entry "format" in the header
FORMAT = "equiflow samples"


class _ErrorsLater(io.FileIO):
    """A file that keeps the first error of writing, such as a full disk, and then lets all writes pass.

    An error inside of `zipfile` would be followed by others, printed when its objects are deleted.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write, or keep the error."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def _write_npz(path: Path, header: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed .npz file."""
    content: dict[str, Any] = {"header": np.array(header), **arrays}
    with _ErrorsLater(path, "wb") as raw, io.BufferedWriter(raw) as file:
        # Given a name instead of a file, np.savez would add a suffix.
        np.savez(file, **content)
        file.flush()
        if raw.error is not None:
            raise raw.error


def _read_npz_header(path: Path) -> str:
    """Return the text of the header alone."""
    # Opened here, because numpy does not close a damaged file that it opened itself.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
        return str(content["header"])


def _read_npz(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the text of the header and the arrays."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    return str(arrays.pop("header")), arrays


_NPZ = SimpleNamespace(write=_write_npz, read_header=_read_npz_header, read=_read_npz)
_BACKENDS: dict[str, SimpleNamespace | ModuleType] = {".npz": _NPZ, ".h5": hdf5, ".hdf5": hdf5}
#: suffixes of the files that can be written and read
SUFFIXES = tuple(_BACKENDS)


def backend_for(path: Path) -> Any:
    """Return the functions `write`, `read_header` and `read` for files with the suffix of `path`.

    Raises:
        ValueError: for an unknown suffix.
    """
    if path.suffix not in _BACKENDS:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}, which says what kind of file it is.")
    return _BACKENDS[path.suffix]


def check_can_be_written(path: str | Path) -> None:
    """Raise if files with this suffix cannot be written here, which is better known before hours of sampling.

    Raises:
        ValueError: for an unknown suffix.
        ImportError: if the format needs a package that is not installed.
    """
    if backend_for(Path(path)) is hdf5:
        hdf5.check_installed()


def write(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write header and arrays with their checksums; a crash leaves an old file intact.

    Args:
        path: file to write; its suffix chooses the format.
        header: plain values that JSON knows.
        arrays: arrays by name.

    Raises:
        ValueError: for an unknown suffix.
        ImportError: if the format needs a package that is not installed.
    """
    backend = backend_for(Path(path))
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT, **header, "crc32": sums}, indent=1)
    with written_atomically(path) as temporary:
        backend.write(temporary, f"{zlib.crc32(text.encode()):08x} {text}", arrays)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header that `write` was given.

    Raises:
        OSError: if the operating system refuses, for instance a FileNotFoundError or a PermissionError.
        CheckpointError: if the file is damaged or of another kind.
        ValueError: for an unknown suffix.
    """
    os.stat(path)  # what is not there is no matter of its suffix
    backend = backend_for(Path(path))
    return _guarded(path, lambda: _checked_header(backend.read_header(Path(path))))


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays that `write` was given; see `read_header` for errors."""
    os.stat(path)
    backend = backend_for(Path(path))

    def checked() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        text, arrays = backend.read(Path(path))
        header = _checked_header(text)
        for name, expected in header["crc32"].items():
            if zlib.crc32(np.ascontiguousarray(arrays[name]).data) != expected:
                raise ValueError(f"bad checksum of {name}")
        return header, {name: arrays[name] for name in header["crc32"]}

    return _guarded(path, checked)


def _checked_header(text: str) -> dict[str, Any]:
    """Return the header from its text, which begins with its checksum."""
    expected, _, body = text.partition(" ")
    if f"{zlib.crc32(body.encode()):08x}" != expected:
        raise ValueError("bad checksum of the header")
    header = json.loads(body)
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    return header


def _guarded(path: str | Path, action: Callable[[], T]) -> T:
    """Return the result of reading a file, or raise a CheckpointError if it is damaged."""
    try:
        with open(path, "rb"):  # raises what h5py would wrap
            pass
        return action()
    except ImportError:
        raise
    except Exception as error:  # numpy, zipfile and h5py raise many kinds of errors on damaged files
        if is_of_system(error):
            raise
        raise CheckpointError(
            f"{path} cannot be read as {FORMAT}: it is truncated, damaged, or something else "
            f"({type(error).__name__}: {error})."
        ) from error
