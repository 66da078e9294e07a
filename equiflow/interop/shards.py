"""Ensembles larger than the memory: `sample_shards` draws them into several files.

Each file has its own stream of random numbers, so that several processes can share the work.
"""

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
from equiflow.flows.kernels import without_evaluator
from equiflow.interop.containers import check_can_be_written
from equiflow.interop.samples import describe_samples, load_ensemble, save_samples, shard_path, shards_in
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count, check_seed
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import CheckpointError, sweep
from equiflow.samplers import TwoLevels, importance_sample
from equiflow.samplers.levels import resolve_levels
from equiflow.theories.base.action import Action

#: Largest count of numbers in the configurations of a shard, 64 MiB in float64. A process holds one shard in
#: memory, and a crash loses one shard.
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
    levels: int | TwoLevels = 1,
    suffix: str = ".npz",
    about: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Tensor:
    """Draw an ensemble into a folder of files, which `load_ensemble(folder)` joins.

    Shard i of n draws from its own stream, derived from `(seed, i, n)`. The streams are independent, so the
    result does not depend on the number of processes. Missing shards are dealt to the processes in turn, and
    each process writes its own shards one at a time. So the folder should be visible to all processes. A
    shard appears when it is complete. A further call, for instance after a crash, keeps all sound shards and
    draws the others.

    Args:
        flow: any flow, the same in every process.
        action: the target.
        n_samples: number of samples in all.
        folder: made if it does not exist.
        n_shards: number of files. By default it is that of the folder if there are files already. Else the
            configurations of each file have at most 2^23 numbers, and there is one file for each process at
            least.
        seed: of the streams.
        batch_size: samples drawn at a time, see `importance_sample`.
        certify: samples for the certificate of each shard, see `importance_sample`.
        levels: see `importance_sample`; a pilot chooses once for all shards.
        suffix: kind of file, see `save_samples`.
        about: further entries of the headers, see `save_samples`; those of existing shards may differ.
        progress: whether to show a bar for each shard, see `fit`.

    Returns:
        Log weights of all samples, `(n_samples,)`, in the order of the shards, in every process. With two
        levels they are those of the coarse solver; estimates are of `load_ensemble(folder)`.

    Raises:
        ValueError: if there are more shards than samples, the folder holds something else, the suffix is
            unknown, or the seed is out of range.
        ImportError: if the files need a package that is not installed.
        TypeError: if a count or the seed is not an integer.
    """
    n_samples, seed = check_count(n_samples, "n_samples"), check_seed(seed)
    with distributed.all_or_none():
        check_can_be_written(f"samples{suffix}")
    if n_shards is None:
        n_values = n_samples * math.prod(flow.prior.event_shape)
        n_shards = distributed.from_first(lambda: _begun_with(folder)) or min(
            n_samples, max(distributed.world_size(), math.ceil(n_values / SHARD_VALUES))
        )
    n_shards = check_count(n_shards, "n_shards")
    if n_shards > n_samples:
        raise ValueError(f"{n_samples} samples do not fill {n_shards} shards; give fewer shards.")
    pilot = stream(seed, "levels", device=flow.device)
    levels = distributed.from_first(lambda: resolve_levels(flow, action, levels, pilot)) or 1
    known = {"seed": seed, "shards": n_shards, "samples": n_samples, "digest": digest(flow)}
    known["levels"] = str(levels)
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
                flow,
                action,
                size,
                batch_size=batch_size,
                certify=certify,
                levels=levels,
                generator=generator,
                progress=progress,
            )
            save_samples(ensemble, path, action=action, about={**(about or {}), **known, "shard": shard})
            found[shard] = ensemble.log_weight.cpu()
    everyone = {shard: rows for part in distributed.gather(found) for shard, rows in part.items()}
    return torch.cat([everyone[shard] for shard in range(n_shards)])


def _kept(path: Path) -> Tensor | None:
    """Return the log weights of a shard, or None if it is missing or damaged."""
    sweep(path.parent, path.name)
    try:
        return load_ensemble(path).log_weight
    except (FileNotFoundError, CheckpointError):
        return None


def _begun_with(folder: str | Path) -> int | None:
    """Return the number of shards that a folder will have in the end, or None if it has none yet."""
    for path in shards_in(folder):
        with suppress(CheckpointError):
            return describe_samples(path)["about"].get("shards")
    return None


def _refuse_others(folder: str | Path, known: Mapping[str, Any]) -> None:
    """Raise if a folder holds shards of another ensemble, which would be joined with this one."""
    for path, shard in shards_in(folder).items():
        try:
            header = describe_samples(path)
        except CheckpointError:  # a damaged shard is drawn again
            continue
        there = {"levels": "1", **header["about"]}  # files from before there were levels do not name them
        there |= {"action": (header["action"] or {}).get("text"), "suffix": path.suffix}
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
    """Return a checksum of the `repr` of a flow, which includes the solver, and of its weights."""
    sums = hashlib.sha256(without_evaluator(repr(flow)).encode())
    for name, value in flow.state_dict().items():
        sums.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sums.hexdigest()[:16]
