"""Trajectories of mechanical systems in files, such as those of molecular dynamics: `load_trajectories`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equiflow.interop.samples import load_chain
from equiflow.runtime.storage import CheckpointError


def load_trajectories(path: str | Path) -> Tensor:
    """Read positions and momenta from a file of NumPy, or from a chain. No code is run by loading.

    | file | content |
    |---|---|
    | `.npy` | states, `(..., 2, *lattice)` |
    | `.npz` | arrays `q` and `p`, each `(..., n)`; or one array of states |
    | `.npz`, `.h5` of `save_samples` | a `Chain` of states |

    The axes before are time, trajectories or both. `*lattice` is `(n,)` for n degrees of freedom.

    Args:
        path: the file.

    Returns:
        States `(..., 2, *lattice)`, in float64 or float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if positions and momenta have different shapes, or the file has other arrays.
        CheckpointError: if the file is damaged or holds something else.

    """
    path = Path(path)
    if path.suffix not in (".npy", ".npz"):
        return load_chain(path).samples
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {"states": content} if path.suffix == ".npy" else {k: content[k] for k in content.files}
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        raise CheckpointError(f"{path} cannot be read as an array of NumPy: {error}") from error
    if "header" in arrays:
        return load_chain(path).samples
    return _floats(_joined(arrays, path), path)


def _joined(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """Return the one array, or q and p as states."""
    if set(arrays) == {"q", "p"}:
        q, p = arrays["q"], arrays["p"]
        if q.shape != p.shape or q.ndim < 2:
            raise ValueError(
                f"{path} has positions q of shape {q.shape} and momenta p of shape {p.shape}; expected the "
                "same shape (..., n)."
            )
        return np.stack([q, p], -2)
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise ValueError(f"{path} has the arrays {', '.join(arrays)}; expected q and p, or one array of states.")


def _floats(array: np.ndarray, path: Path) -> Tensor:
    """Return an array as a tensor of float32 or float64."""
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{path} holds {array.dtype}; expected real numbers.")
    kind = np.float32 if array.dtype in (np.float16, np.float32) else np.float64
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
