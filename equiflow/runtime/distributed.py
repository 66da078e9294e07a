"""Several processes at one job, by torch.distributed. Alone, every function here does nothing.

    torchrun --nproc-per-node=4 -m -- equiflow train config.toml
    torchrun --nproc-per-node=4 script.py        # whose `with distributed.session():` holds a plain fit(...)

A batch is split over the processes, and gradients are summed. What training draws does not depend on how
many there are (`SharedGenerator`), so neither does the result, to rounding, which Adam amplifies: it divides
gradients that almost vanish by their own size. An adaptive solver takes its steps for the part of the batch
that it sees, and there the agreement is to its tolerance. On GPUs all must be of one kind, since their
generators differ.

Files are read and written by the first process alone, rank 0, which tells the others what it has read:
they need neither config, checkpoint nor run folder, only the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from equiflow.runtime.randomness import SharedGenerator

T = TypeVar("T")

#: How long processes wait for each other: one that draws or evaluates may keep the others waiting for longer
#: than the half hour of torch. Torchrun ends them all if one dies, and a batch system what hangs.
PATIENCE = timedelta(days=7)


class ElsewhereError(RuntimeError):
    """Another process has failed; that one says why."""


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def session() -> Iterator[None]:
    """Join the processes that torchrun has started, one device each; without torchrun nothing happens."""
    if not launched() or dist.is_initialized():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:  # "cuda" without a number is then that of this process
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    store, own_rank, size = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # Torchrun keeps one store through all restarts, in which processes would look for the addresses of
        # dead ones (pytorch/pytorch#135712). Only within one machine do all count restarts alike.
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if gpus and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that reads, writes and speaks."""
    return rank() == 0


def generator(device: torch.device | str) -> torch.Generator:
    """A generator for batches that all processes share."""
    if world_size() == 1:
        return torch.Generator(device)
    return SharedGenerator(device, rank=rank(), world_size=world_size())


def gather(value: T) -> list[T]:
    """The values of all processes, in their order, in each of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def all_or_none() -> Iterator[None]:
    """What fails in one process fails in all, instead of leaving them waiting.

    Raises:
        ElsewhereError: if the block failed in another process only.
    """
    try:
        yield
    except BaseException as error:
        with suppress(RuntimeError):  # the others may be gone, and then this is still what to say
            gather(f"{type(error).__name__}: {error}")
        raise
    failures = [f"process {r}: {failure}" for r, failure in enumerate(gather(None)) if failure is not None]
    if failures:
        raise ElsewhereError("; ".join(failures))


def by_first(make: Callable[[], T]) -> T | None:
    """Have the first process make something, which it keeps; the others wait and get None.

    Raises:
        ElsewhereError: in the others, if it failed.
    """
    with all_or_none():
        return make() if is_first() else None


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them; see `by_first`."""
    made: Any = by_first(make)
    return gather(made)[0]


def check_alike(settings: dict[str, Any]) -> None:
    """Raise a ValueError unless all processes were given the same settings."""
    own = {name: str(value) for name, value in settings.items()}
    for other, theirs in enumerate(gather(own)):
        for name, value in own.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"All processes need the same settings: {name} is {value} in process {rank()}, "
                    f"{theirs.get(name)} in process {other}."
                )


def check_share(batch_size: int, name: str) -> None:
    """Raise a ValueError unless a batch, which messages call `name`, has a sample for each process."""
    if batch_size < world_size():
        raise ValueError(
            f"{name} = {batch_size} cannot be shared by {world_size()} processes, which need a sample each. "
            f"Give at least {world_size()}, or start fewer processes."
        )


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors of one dtype by those of the first process."""
    if world_size() > 1:
        _as_one(list(tensors), lambda flat: dist.broadcast(flat, 0))


@torch.no_grad()
def sum_gradients(parameters: Iterable[Tensor], weight: float) -> None:
    """Replace each gradient by `sum_r weight_r g_r` over the processes r.

    DistributedDataParallel sums in hooks that it sets in `module.forward`. Flows are trained through
    other methods, and gradients of several solves meet in one parameter: one sum of the finished
    gradients, which are small, is simpler and always complete.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() > 1 and gradients:
        _as_one(gradients, lambda flat: dist.all_reduce(flat.mul_(weight)))


def all_rows(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The whole batch that the processes computed their `own_rows` of, drawn by `generator`."""
    if not isinstance(generator, SharedGenerator):
        return rows
    whole = rows.new_zeros(generator.batch_size, *rows.shape[1:])
    whole[generator.rows(generator.batch_size)] = rows
    dist.all_reduce(whole)
    return whole


def _as_one(tensors: list[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Apply a collective to many small tensors at once."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    collective(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
