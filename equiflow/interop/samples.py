"""Ensembles and chains in files, with a header that says what they were sampled from.

`save_samples` writes one file, `append_samples` adds a file to a folder, and `load_ensemble` and `load_chain`
read either. `describe_samples` reads the header alone.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from equiflow.flows import Certificate
from equiflow.flows.certificate import SolvedTwice
from equiflow.interop import containers
from equiflow.interop.joining import join
from equiflow.runtime.checks import check_type, plain
from equiflow.runtime.precision import COMPLEX_DTYPES, FIELD_DTYPES
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import Chain, Correction, Ensemble
from equiflow.theories.base.action import Action
from equiflow.theories.base.kind import kinds
from equiflow.theories.base.space import Space

S = TypeVar("S", Ensemble, Chain)
#: classes that a file can hold; loading calls their constructors and nothing else
_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Ensemble, Chain, Correction, Certificate, SolvedTwice)
}
#: fields that are not written: the kernel of a chain is an object with a target and perhaps a flow, and the
#: space is in the header
_NOT_KEPT = {"kernel", "space"}
#: names of the files in a folder of samples
_SHARD = re.compile(r"samples-(\d{6})\.(npz|h5|hdf5)")


def shard_path(folder: str | Path, index: int, suffix: str) -> Path:
    """Return the name of a file in a folder of samples.

    Args:
        folder: the folder.
        index: number of the file, from 0.
        suffix: kind of file, such as `.npz`.

    Returns:
        A path such as `folder/samples-000000.npz`.
    """
    return Path(folder) / f"samples-{index:06d}{suffix}"


def shards_in(folder: str | Path) -> dict[Path, int]:
    """Return the files of samples in a folder, in order, with their numbers."""
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return {folder / match[0]: int(match[1]) for match in map(_SHARD.fullmatch, names) if match}


def save_samples(
    samples: Ensemble | Chain,
    path: str | Path,
    *,
    action: Action | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write samples with their densities, weights, acceptances and certificate.

    The header names the action, the lattice, the precision and the versions of the libraries. A crash leaves
    an old file intact, because the file is written under a temporary name and renamed.

    Args:
        samples: what to write.
        path: a name that ends in `.npz`, or in `.h5` or `.hdf5`, which need h5py (`pip install '.[io]'`).
        action: target of the samples; its name and couplings go into the header. Samples that do not know
            their space learn it from the action.
        about: further entries of the header, plain values that JSON knows.

    Raises:
        ValueError: for another suffix, arrays that do not fit each other, or an action on another space.
        TypeError: for other samples.
        ImportError: if h5py is needed and not installed.
    """
    check_type(samples, (Ensemble, Chain), "samples")
    if action is not None:
        check_type(action, Action, "action")
    arrays: dict[str, np.ndarray] = {}
    recipe = _take_apart(samples, "", arrays)
    about = {key: plain(value) for key, value in (about or {}).items()}
    phi = samples.phi if isinstance(samples, Ensemble) else samples.samples.flatten(0, 1)
    _check(samples, tuple(phi.shape[1:]))
    space = samples.space if action is None else action.space
    if samples.space not in (None, space):
        raise ValueError(f"The samples live on {samples.space}, the action on {space}; expected one space.")
    header = {
        "kind": type(samples).__name__,
        "shape": list(phi.shape[1:]),
        "n_samples": len(phi),
        "dtype": str(phi.dtype).removeprefix("torch."),
        "action": None if action is None else _describe(action),
        "space": None if space is None else space.kind,
        "certificate": None if samples.certificate is None else str(samples.certificate),
        "levels": str(getattr(samples, "correction", None) or "one"),
        "versions": {
            # The distribution has another name than the package.
            "equiflow": version("equiflow-lattice"),
            "torch": version("torch"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "about": about,
        "content": recipe,
    }
    containers.write(path, header, arrays)


def append_samples(
    samples: Ensemble | Chain,
    folder: str | Path,
    *,
    suffix: str = ".npz",
    action: Action | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write samples to a folder as its next file; `load_ensemble` and `load_chain` join all files.

    Existing files are not opened. So an ensemble may be larger than the memory while it is made, and a crash
    loses the last part at most. Only one process may write at a time.

    Args:
        samples: the next part.
        folder: made if it does not exist.
        suffix: kind of file, see `save_samples`.
        action: target of the samples, see `save_samples`.
        about: further entries of the header, see `save_samples`.

    Returns:
        The file that was written.

    Raises:
        ValueError: for an unknown suffix, or arrays that do not fit each other.
        TypeError: for other samples.
    """
    path = shard_path(folder, max(shards_in(folder).values(), default=-1) + 1, suffix)
    save_samples(samples, path, action=action, about=about)
    return path


def load_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble from a file, or join those of a folder. No code is run by loading.

    Args:
        path: file of `save_samples`, or folder of `append_samples` or `sample_shards`.

    Returns:
        The ensemble, with `phi` of shape `(n_samples, *lattice)`.

    Raises:
        FileNotFoundError: if there is no such file, or no samples in the folder.
        CheckpointError: if a file is damaged or holds something else, if shards are missing, or if the files
            of a folder differ in action, lattice, precision or solver.
    """
    return _load(path, Ensemble)


def load_chain(path: str | Path) -> Chain:
    """Read a chain from a file, or join those of a folder one after the other.

    Args:
        path: file of `save_samples`, or folder of `append_samples`.

    Returns:
        The chain, with samples of shape `(n_samples, n_chains, *lattice)`.

    Raises:
        FileNotFoundError: if there is no such file, or no samples in the folder.
        CheckpointError: see `load_ensemble`.
    """
    return _load(path, Chain)


def describe_samples(path: str | Path) -> dict[str, Any]:
    """Return the header of a file of samples as plain values, without reading the samples.

    For a folder, it is the header of the first file with the number of samples in all files.

    Args:
        path: file or folder, see `load_ensemble`.

    Raises:
        FileNotFoundError: if there is no such file, or no samples in the folder.
        CheckpointError: if a file is damaged or holds something else.
    """
    path = Path(path)
    headers = [containers.read_header(file) for file in (_files(path) if path.is_dir() else [path])]
    header = headers[0] | {"n_samples": sum(header["n_samples"] for header in headers)}
    return {key: value for key, value in header.items() if key not in ("content", "crc32", "format")}


def _describe(action: Action) -> dict[str, Any]:
    """Return name, couplings and text of an action."""
    couplings = {name: value for name, value in vars(action).items() if isinstance(value, float)}
    return {"name": type(action).__name__, "couplings": couplings, "text": repr(action)}


def _take_apart(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as a recipe of plain values for `_put_together`, and add its tensors to `arrays`."""
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().numpy()
        return {"array": name}
    if type(value).__name__ in _KINDS and dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.name not in _NOT_KEPT]
        parts = {field: getattr(value, field) for field in fields}
        prefix = f"{name}." if name else ""
        made = {part: _take_apart(inner, f"{prefix}{part}", arrays) for part, inner in parts.items()}
        return {"kind": type(value).__name__, "parts": made}
    value = plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} of type {type(value).__name__} cannot be written; expected tensors and numbers.")


def _put_together(recipe: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value that `_take_apart` was given."""
    if not isinstance(recipe, dict):
        return recipe
    if "array" in recipe:
        return torch.from_numpy(arrays[recipe["array"]])
    parts = {name: _put_together(part, arrays) for name, part in recipe["parts"].items()}
    return _KINDS[recipe["kind"]](**parts)


def _load(path: str | Path, kind: type[S]) -> S:
    """Return the samples in a file, or in all files of a folder."""
    path = Path(path)
    if not path.is_dir():
        return _load_file(path, kind)[1]
    files = _files(path)
    headers, parts = zip(*(_load_file(file, kind) for file in files), strict=True)
    missing = headers[0]["about"].get("shards", len(files)) - len(files)
    if missing > 0:
        raise CheckpointError(f"{path} lacks {missing} of its shards; sample_shards has not finished.")
    for file, header in zip(files, headers, strict=True):
        for key in ("action", "shape", "dtype"):
            if header[key] != headers[0][key]:
                raise CheckpointError(f"{file} has the {key} {header[key]}, {files[0]} {headers[0][key]}.")
    try:
        return join(parts)
    except ValueError as error:
        raise CheckpointError(f"The samples in {path} do not belong together: {error}") from error


def _files(folder: Path) -> list[Path]:
    """Return the files of samples in a folder, at least one."""
    files = list(shards_in(folder))
    if not files:
        raise FileNotFoundError(f"{folder} holds no samples; expected files such as samples-000000.npz.")
    return files


def _load_file(path: Path, kind: type[S]) -> tuple[dict[str, Any], S]:
    """Return header and samples of one file."""
    header, arrays = containers.read(path)
    if header.get("kind") != kind.__name__:
        raise CheckpointError(f"{path} holds no {kind.__name__}; it holds {header.get('kind')!r}.")
    try:
        samples = _put_together(header["content"], arrays)
        if not isinstance(samples, kind):
            raise TypeError(f"its content is a {type(samples).__name__}")
        _check(samples, tuple(header["shape"]))
        samples = dataclasses.replace(samples, space=_space_of(header))
    except Exception as error:  # constructors raise many kinds of errors on a wrong recipe
        raise CheckpointError(f"{path} does not describe {kind.__name__}: {error}") from error
    return header, samples


def _space_of(header: Mapping[str, Any]) -> Space | None:
    """Return the space of the configurations in a file; None if the file or this program does not know it."""
    known = {kind.name: kind for kind in kinds()}
    if header.get("space") not in known:
        return None
    return known[header["space"]].space.of_shape(tuple(header["shape"]))


def _check(samples: Ensemble | Chain, shape: tuple[int, ...]) -> None:
    """Raise unless the arrays of a file fit each other."""
    if isinstance(samples, Ensemble):
        phi, lead = samples.phi, samples.log_q.shape
        fits = samples.log_weight.shape == lead and len(lead) == 1 and _corrects(samples)
    else:
        phi, lead = samples.samples, samples.samples.shape[:2]
        # The first sample of a chain may have no acceptance, and joined chains have several first samples.
        accepted = samples.acceptance.shape
        fits = accepted[1:] == lead[1:] and accepted[0] <= lead[0]
    dtypes = FIELD_DTYPES + COMPLEX_DTYPES
    if not fits or phi.shape != (*lead, *shape) or phi.dtype not in dtypes:
        raise ValueError(
            f"The arrays of the {type(samples).__name__} do not fit each other or configurations {shape}: "
            "expected floating point and a log_q and log_weight, or at most one acceptance, per sample."
        )


def _corrects(ensemble: Ensemble) -> bool:
    """Return whether the arrays of a correction fit each other and the samples, or there is none."""
    fine = ensemble.correction
    if fine is None:
        return True
    rows = fine.rows
    inside = rows.dim() == 1 and bool(((rows >= 0) & (rows < len(ensemble.phi))).all())
    lengths = fine.log_q.shape == fine.log_weight.shape == rows.shape
    return inside and lengths and fine.phi.shape == (*rows.shape, *ensemble.configuration_shape)
