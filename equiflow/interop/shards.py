"""Ensembles larger than a process: written in shards, each with random numbers of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.interop.samples import describe_samples, load_ensemble, save_samples, shard_path, shards_in
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import importance_sample
from equiflow.theories.base.action import Action

#: numbers in the configurations of a shard, 64 MiB in doubles: what a process holds, and what a crash loses
SHARD_VALUES = 2**23


def sample_shards(
    flow: Flow,
    action: Action,
    n_samples: int,
    folder: str | Path,
    *,
    n_shards: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    certify: int = 256,
    suffix: str = ".npz",
    about: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw an ensemble into a folder of files, which `load_ensemble(folder)` joins.

    Shard i of n draws from a stream of its own, derived from `(seed, i, n)`: the streams are independent,
    and it does not matter how many processes there are. The shards that are not there yet are dealt to the
    processes in turn. Each writes its own, one at a time, so the folder should be one that all
    processes see. A shard appears once it is complete. Called again, for instance after a crash, this
    keeps the shards that are there and sound, and draws the others.

    Args:
        flow: any flow, the same in every process.
        action: the target.
        n_samples: in all.
        folder: made if it does not exist.
        n_shards: number of files; by default that of the folder if it was begun, else as many as keep
            the configurations of each below 2^23 numbers, and one for each process at least.
        seed: of the streams.
        batch_size: see `importance_sample`.
        certify: see `importance_sample`; for each shard.
        suffix: kind of file, see `save_samples`.
        about: see `save_samples`; shards that are there may say something else.

    Returns:
        Log weights of all samples, `(n_samples,)`, in the order of the shards, in every process.

    Raises:
        ValueError: if there are more shards than samples, or the folder holds something else.
    """
    check_count(n_samples, "n_samples")
    if n_shards is None:
        n_values = n_samples * math.prod(flow.prior.event_shape)
        n_shards = distributed.from_first(lambda: _begun_with(folder)) or min(
            n_samples, max(distributed.world_size(), math.ceil(n_values / SHARD_VALUES))
        )
    check_count(n_shards, "n_shards")
    if n_shards > n_samples:
        raise ValueError(f"{n_samples} samples do not fill {n_shards} shards; give fewer shards.")
    known = {"seed": seed, "shards": n_shards, "samples": n_samples, "digest": digest(flow)}
    distributed.by_first(lambda: _refuse_others(folder, known | {"action": repr(action), "suffix": suffix}))
    own = slice(distributed.rank(), None, distributed.world_size())
    with distributed.all_or_none():
        kept = {shard: _kept(shard_path(folder, shard, suffix)) for shard in range(n_shards)[own]}
    found = {shard: log_weight for shard, log_weight in kept.items() if log_weight is not None}
    missing = set(range(n_shards)).difference(*distributed.gather(list(found)))
    with distributed.all_or_none():
        for shard in sorted(missing)[own]:
            path = shard_path(folder, shard, suffix)
            size = n_samples * (shard + 1) // n_shards - n_samples * shard // n_shards
            generator = stream(seed, f"one of {n_shards} shards", shard, device=flow.device)
            ensemble = importance_sample(
                flow, action, size, batch_size=batch_size, certify=certify, generator=generator
            )
            save_samples(ensemble, path, action=action, about={**(about or {}), **known, "shard": shard})
            found[shard] = ensemble.log_weight.cpu()
    everyone = {shard: rows for part in distributed.gather(found) for shard, rows in part.items()}
    return torch.cat([everyone[shard] for shard in range(n_shards)])


def _kept(path: Path) -> Tensor | None:
    """Log weights of a shard that is there and sound."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
    try:
        return load_ensemble(path).log_weight
    except (FileNotFoundError, CheckpointError):
        return None


def _begun_with(folder: str | Path) -> int | None:
    """The number of shards that a folder is to hold, if it holds some."""
    for path in shards_in(folder):
        with suppress(CheckpointError):
            return describe_samples(path)["about"].get("shards")
    return None


def _refuse_others(folder: str | Path, known: Mapping[str, Any]) -> None:
    """Raise if the folder holds shards of another ensemble: they would be joined with this one."""
    for path, shard in shards_in(folder).items():
        try:
            header = describe_samples(path)
        except CheckpointError:  # drawn again
            continue
        there = {**header["about"], "action": (header["action"] or {}).get("text"), "suffix": path.suffix}
        ours = {**known, "shard": shard}
        other = [
            f"{name} {there.get(name)}, here {ours[name]}" for name in ours if there.get(name) != ours[name]
        ]
        if other:
            raise ValueError(
                f"{path} belongs to another ensemble: {'; '.join(other)}. Go on with that one by its own "
                "settings (of `equiflow sample`: --shards, --samples, --seed, --out), or give another folder."
            )


def digest(flow: Flow) -> str:
    """A checksum of what a flow is, solver included, and of its weights."""
    sums = hashlib.sha256(repr(flow).encode())
    for name, value in flow.state_dict().items():
        sums.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sums.hexdigest()[:16]
