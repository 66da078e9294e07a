"""Several processes that train or sample together, by torch.distributed; `session` joins them.

    torchrun --nproc-per-node=4 -m -- equiflow train config.toml
    torchrun --nproc-per-node=4 script.py        # with a plain fit(...) inside `with distributed.session():`

In a single process, every function here does nothing. A batch is split over the processes, and their
gradients are summed. Random numbers do not depend on the number of processes (`SharedGenerator`), so results
agree to rounding. Adam amplifies rounding, because it divides gradients by their own size. An adaptive solver
chooses its steps for the rows of its process, so results agree to its tolerance. All GPUs must be of one
kind, because generators differ between kinds.

Only the first process, rank 0, reads and writes files, and it sends what it has read to the others. They need
the installed package, but neither config, checkpoint nor run folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from equiflow.runtime.randomness import SharedGenerator

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

#: How long a process waits for the others. One that samples or evaluates alone may take longer than torch's
#: default of half an hour. Processes that hang are ended by torchrun, if one dies, or by the batch system.
MAX_WAIT = timedelta(days=7)


class ElsewhereError(RuntimeError):
    """Another process has failed; its own error says why."""


def launched() -> bool:
    """Return whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def session() -> Iterator[None]:
    """Join the processes that torchrun has started, inside a `with` block.

    Each process gets one GPU, if there are any. Without torchrun nothing happens.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:  # "cuda" without a number then means the GPU of this process
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    store, own_rank, size = _rendezvous()
    backend = "cpu:gloo,cuda:nccl" if gpus and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=MAX_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _rendezvous() -> tuple[Store, int, int]:
    """Return the store where processes find each other, the rank of this process, and their number."""
    # Imported here: a torch that was built without torch.distributed lacks both.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, own_rank, size = next(iter(rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # Torchrun keeps one store through all restarts, where processes would find the addresses of dead ones
        # (pytorch/pytorch#135712). All processes count restarts alike only within one machine.
        store = PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return store, own_rank, size


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is the process that reads and writes files and reports."""
    return rank() == 0


def generator(device: torch.device | str) -> torch.Generator:
    """Return a generator on `device` for batches that all processes share."""
    if world_size() == 1:
        return torch.Generator(device)
    return SharedGenerator(device, rank=rank(), world_size=world_size())


def gather(value: T) -> list[T]:
    """Return the values of all processes, in order of their rank, in each process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def all_or_none() -> Iterator[None]:
    """Raise in all processes if the `with` block raises in one, so that none waits for a dead one.

    Raises:
        ElsewhereError: if the block failed in another process only.
    """
    try:
        yield
    except BaseException as error:
        with suppress(RuntimeError):  # the others may be gone; this error is still the one to report
            gather(f"{type(error).__name__}: {error}")
        raise
    failures = [f"process {r}: {failure}" for r, failure in enumerate(gather(None)) if failure is not None]
    if failures:
        raise ElsewhereError("; ".join(failures))


def by_first(make: Callable[[], T]) -> T | None:
    """Return `make()` in the first process and None in the others, which wait for it.

    Raises:
        ElsewhereError: in the other processes, if `make` failed.
    """
    with all_or_none():
        return make() if is_first() else None


def from_first(make: Callable[[], T]) -> T:
    """Call `make` in the first process and return its result in all processes.

    Raises:
        ElsewhereError: in the other processes, if `make` failed.
    """
    made: Any = by_first(make)
    result: T = gather(made)[0]
    return result


def check_alike(settings: dict[str, Any]) -> None:
    """Raise a ValueError unless all processes were given the same settings, compared as strings."""
    own = {name: str(value) for name, value in settings.items()}
    for other, theirs in enumerate(gather(own)):
        for name, value in own.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"All processes need the same settings: {name} is {value} in process {rank()}, "
                    f"{theirs.get(name)} in process {other}."
                )


def check_share(batch_size: int, name: str) -> None:
    """Raise a ValueError unless a batch has at least one sample for each process.

    Args:
        batch_size: number of samples in the whole batch.
        name: name of that number in the message.

    Raises:
        ValueError: if there are more processes than samples.
    """
    if batch_size < world_size():
        raise ValueError(
            f"{name} = {batch_size} cannot be shared by {world_size()} processes, which need a sample each. "
            f"Give at least {world_size()}, or start fewer processes."
        )


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite `tensors`, all of one dtype, by their values in the first process."""
    if world_size() > 1:
        _as_one(list(tensors), lambda flat: dist.broadcast(flat, 0))


@torch.no_grad()
def sum_gradients(parameters: Iterable[Tensor], weight: float) -> None:
    """Replace each gradient `g` by the sum `sum_r weight_r g_r` over the processes r.

    DistributedDataParallel is of no use here: it sums in hooks of `module.forward`, but flows are trained
    through other methods, and gradients of several solves meet in one parameter. The finished gradients are
    small, so one sum of all of them is cheap and always complete.

    Args:
        parameters: parameters of the model; those without a gradient are left out.
        weight: weight of this process, such as its share of the batch.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() > 1 and gradients:
        _as_one(gradients, lambda flat: dist.all_reduce(flat.mul_(weight)))


def all_rows(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return the whole batch in every process, from the rows that each one has computed.

    Args:
        rows: result for the rows of this process, `(n_rows, ...)`.
        generator: the generator that drew the batch, and nothing of another size since.

    Returns:
        The results for all rows, `(batch, ...)`.
    """
    if not isinstance(generator, SharedGenerator):
        return rows
    whole = rows.new_zeros(generator.batch_size, *rows.shape[1:])
    whole[generator.rows(generator.batch_size)] = rows
    dist.all_reduce(whole)
    return whole


def _as_one(tensors: list[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Apply a collective operation in place to many small tensors at once."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    collective(flat)
    parts = flat.split_with_sizes([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
