"""Ensembles and chains in files, with what they were sampled from and by."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from equiflow.flows import Certificate
from equiflow.flows.certificate import SolvedTwice
from equiflow.interop import containers
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import Chain, Ensemble
from equiflow.theories.base.action import Action

S = TypeVar("S", Ensemble, Chain)
#: what a file can hold; loading calls these constructors and nothing else
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Ensemble, Chain, Certificate, SolvedTwice)}
#: the update behind a chain is an object with a target and a flow, no data
_NOT_KEPT = {"kernel"}
_SHARD = re.compile(r"samples-(\d{6})\.(npz|h5|hdf5)")


def shard_path(folder: str | Path, index: int, suffix: str) -> Path:
    """Name of one of the files that a folder holds."""
    return Path(folder) / f"samples-{index:06d}{suffix}"


def shards_in(folder: str | Path) -> dict[Path, int]:
    """The files of samples in a folder, with their numbers."""
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
    """Write samples with everything that belongs to them: densities, weights, acceptances, certificate.

    The file says which action and lattice they belong to, its precision and the versions of the libraries.
    It is written under a temporary name and renamed, so that a crash leaves an old file intact.

    Args:
        samples: what to write.
        path: ends in `.npz`, or in `.h5` or `.hdf5`, which need h5py (`pip install '.[io]'`).
        action: what the samples are of; its name and couplings are kept.
        about: what else the file should say: plain values that JSON knows.

    Raises:
        ValueError: for another suffix, or arrays that do not fit each other, which could not be read again.
        TypeError: for other samples.
    """
    check_type(samples, (Ensemble, Chain), "samples")
    if action is not None:
        check_type(action, Action, "action")
    arrays: dict[str, np.ndarray] = {}
    recipe = _take_apart(samples, "", arrays)
    phi = samples.phi if isinstance(samples, Ensemble) else samples.samples.flatten(0, 1)
    _check(samples, tuple(phi.shape[1:]))
    header = {
        "kind": type(samples).__name__,
        "shape": list(phi.shape[1:]),
        "n_samples": len(phi),
        "dtype": str(phi.dtype).removeprefix("torch."),
        "action": None if action is None else _describe(action),
        "space": None if action is None else action.space.kind,
        "certificate": None if samples.certificate is None else str(samples.certificate),
        "versions": {
            **{name: version(name) for name in ("equiflow", "torch", "numpy")},
            "python": platform.python_version(),
        },
        "about": dict(about or {}),
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
    """Write samples to a folder as its next file; `load_ensemble` and `load_chain` join what it holds.

    Nothing that is there already is opened, so that ensembles may outgrow the memory while they are made
    and a crash costs the last part at most. One writer at a time.

    Args:
        samples: the next part.
        folder: made if it does not exist.
        suffix: kind of file, see `save_samples`.
        action: see `save_samples`.
        about: see `save_samples`.

    Returns:
        The file that was written.
    """
    path = shard_path(folder, max(shards_in(folder).values(), default=-1) + 1, suffix)
    save_samples(samples, path, action=action, about=about)
    return path


def load_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble, or join those of a folder. No code is run by loading.

    Args:
        path: file of `save_samples`, or folder of `append_samples` or `sample_shards`.

    Raises:
        FileNotFoundError: if there is nothing.
        CheckpointError: if a file is damaged or holds something else, or those of a folder are not of one
            action, lattice, precision and solver, or some of its shards are missing.
    """
    return _load(path, Ensemble)


def load_chain(path: str | Path) -> Chain:
    """Read a chain, or join the pieces of a folder one after the other, see `load_ensemble`."""
    return _load(path, Chain)


def describe_samples(path: str | Path) -> dict[str, Any]:
    """What a file of samples says about itself, as plain values; the samples are not read.

    Of a folder, what its first file says, with the number of samples of all.
    """
    path = Path(path)
    headers = [containers.read_header(file) for file in (_files(path) if path.is_dir() else [path])]
    header = headers[0] | {"n_samples": sum(header["n_samples"] for header in headers)}
    return {key: value for key, value in header.items() if key not in ("content", "crc32", "format")}


def _describe(action: Action) -> dict[str, Any]:
    couplings = {name: value for name, value in vars(action).items() if isinstance(value, float)}
    return {"name": type(action).__name__, "couplings": couplings, "text": repr(action)}


def _take_apart(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A recipe in plain values for `_put_together`; tensors go to `arrays`."""
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().numpy()
        return {"array": name}
    if type(value).__name__ in _KINDS and dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.name not in _NOT_KEPT]
        parts = {field: getattr(value, field) for field in fields}
        prefix = f"{name}." if name else ""
        made = {part: _take_apart(inner, f"{prefix}{part}", arrays) for part, inner in parts.items()}
        return {"kind": type(value).__name__, "parts": made}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} of type {type(value).__name__} cannot be written; expected tensors and numbers.")


def _put_together(recipe: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(recipe, dict):
        return recipe
    if "array" in recipe:
        return torch.from_numpy(arrays[recipe["array"]])
    parts = {name: _put_together(part, arrays) for name, part in recipe["parts"].items()}
    return _KINDS[recipe["kind"]](**parts)


def _load(path: str | Path, kind: type[S]) -> S:
    path = Path(path)
    if not path.is_dir():
        return _load_file(path, kind)[1]
    files = _files(path)
    headers, parts = zip(*(_load_file(file, kind) for file in files), strict=True)
    missing = headers[0]["about"].get("shards", len(files)) - len(files)
    if missing > 0:
        raise CheckpointError(f"{path} lacks {missing} of its shards; what writes them has not finished.")
    for file, header in zip(files, headers, strict=True):
        for key in ("action", "shape", "dtype"):
            if header[key] != headers[0][key]:
                raise CheckpointError(f"{file} has the {key} {header[key]}, {files[0]} {headers[0][key]}.")
    try:
        return _join(parts)
    except ValueError as error:
        raise CheckpointError(f"The samples in {path} do not belong together: {error}") from error


def _files(folder: Path) -> list[Path]:
    files = list(shards_in(folder))
    if not files:
        raise FileNotFoundError(f"{folder} holds no samples; expected files such as samples-000000.npz.")
    return files


def _load_file(path: Path, kind: type[S]) -> tuple[dict[str, Any], S]:
    header, arrays = containers.read(path)
    if header.get("kind") != kind.__name__:
        raise CheckpointError(f"{path} holds no {kind.__name__}; it holds {header.get('kind')!r}.")
    try:
        samples = _put_together(header["content"], arrays)
        assert isinstance(samples, kind)
        _check(samples, tuple(header["shape"]))
    except Exception as error:  # whatever a recipe that fits nothing can make constructors raise
        raise CheckpointError(f"{path} does not describe {kind.__name__}: {error}") from error
    return header, samples


def _check(samples: Ensemble | Chain, shape: tuple[int, ...]) -> None:
    """Raise unless the arrays of a file fit each other."""
    if isinstance(samples, Ensemble):
        phi, lead = samples.phi, samples.log_q.shape
        fits = samples.log_weight.shape == lead and len(lead) == 1
    else:
        phi, lead = samples.samples, samples.samples.shape[:2]
        # Every start of a chain may lack one, and joined chains have several.
        accepted = samples.acceptance.shape
        fits = accepted[1:] == lead[1:] and accepted[0] <= lead[0]
    if not fits or phi.shape != (*lead, *shape) or phi.dtype not in FIELD_DTYPES:
        raise ValueError(
            f"The arrays of the {type(samples).__name__} do not fit each other or configurations {shape}: "
            "expected float32 or float64 and a log_q and log_weight, or at most one acceptance, per sample."
        )


def _join(parts: Sequence[S]) -> S:
    """One ensemble or chain from several, in order."""
    first = parts[0]
    joined: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(first)):
        values = [getattr(part, name) for part in parts]
        if name == "certificate":
            joined[name] = _join_certificates(values)
        elif name == "annealed":
            joined[name] = any(values)
        elif isinstance(values[0], Tensor):
            if any(value is None or value.shape[1:] != values[0].shape[1:] for value in values):
                raise ValueError(
                    f"{name} has the shapes {[v if v is None else tuple(v.shape) for v in values]}"
                )
            joined[name] = torch.cat(values)
        else:  # such as a step size, which parts of one chain may not share
            joined[name] = values[0] if all(value == values[0] for value in values) else None
    return dataclasses.replace(first, **joined)


def _join_certificates(parts: Sequence[Certificate | None]) -> Certificate | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    first = present[0]
    if len(present) < len(parts) or any(
        (p.solver, p.refined) != (first.solver, first.refined) for p in present
    ):
        raise ValueError("some have a certificate and some another one or none")
    names = [field.name for field in dataclasses.fields(SolvedTwice)]
    twice = SolvedTwice(**{name: torch.cat([getattr(p.samples, name) for p in present]) for name in names})
    current, finer = twice.log_weight.double(), twice.refined_log_weight.double()
    return dataclasses.replace(
        first,
        log_z_shift=float(finer.logsumexp(0) - current.logsumexp(0)) if len(current) else 0.0,
        max_log_q_error=max(p.max_log_q_error for p in present),
        round_trip_error=max(p.round_trip_error for p in present),
        nfe=max(p.nfe for p in present),
        n_samples=len(current),
        samples=twice,
    )
