"""Ensembles as files of plain arrays (`.npz`), which numpy reads without equiflow."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equiflow.flows import Certificate
from equiflow.flows.certificate import SolvedTwice
from equiflow.samplers import Chain, Ensemble
from equiflow.storage import CheckpointError, written_atomically

_NUMBERS = [f.name for f in fields(Certificate) if f.name != "samples"]
_ARRAYS = [f.name for f in fields(SolvedTwice)]


def save_ensemble(ensemble: Ensemble, path: str | Path, about: Mapping[str, Any]) -> None:
    """Write `phi`, `log_q`, `log_weight`, the certificate and what the file should say about itself."""
    arrays = {name: getattr(ensemble, name).cpu().numpy() for name in ("phi", "log_q", "log_weight")}
    numbers = None
    if ensemble.certificate is not None:
        numbers = {name: getattr(ensemble.certificate, name) for name in _NUMBERS}
        twice = ensemble.certificate.samples
        arrays |= {f"certificate_{name}": getattr(twice, name).cpu().numpy() for name in _ARRAYS}
    _write({"kind": "ensemble", **about, "certificate": numbers}, arrays, path)


def save_chain(chain: Chain, path: str | Path, about: Mapping[str, Any]) -> None:
    """Write the samples of a Markov chain, `(n_samples, n_chains, *lattice)`, and their acceptances."""
    arrays = {name: getattr(chain, name).cpu().numpy() for name in ("samples", "acceptance")}
    _write({"kind": "chain", **about, "step_size": chain.step_size}, arrays, path)


def load_samples(path: str | Path) -> tuple[Ensemble | Chain, dict[str, Any]]:
    """What `save_ensemble` or `save_chain` wrote, and what it says about itself.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or something else.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "about"}
        return _samples(about, arrays), about
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} holds no ensemble of equiflow: it is damaged or something else ({error}). "
            "`equiflow sample RUN -o FILE` writes one."
        ) from error


def _samples(about: dict[str, Any], arrays: dict[str, torch.Tensor]) -> Ensemble | Chain:
    if about["kind"] == "chain":
        return Chain(arrays["samples"], arrays["acceptance"], about["step_size"])
    certificate = None
    if about["certificate"] is not None:
        twice = SolvedTwice(**{name: arrays[f"certificate_{name}"] for name in _ARRAYS})
        certificate = Certificate(**about["certificate"], samples=twice)
    return Ensemble(arrays["phi"], arrays["log_q"], arrays["log_weight"], certificate)


def _write(about: Mapping[str, Any], arrays: dict[str, np.ndarray], path: str | Path) -> None:
    text = np.array(json.dumps(about))
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{"about": text, **arrays})  # type: ignore[arg-type]
