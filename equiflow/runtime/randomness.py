"""Random numbers: `stream` gives a generator for each purpose, `SharedGenerator` shares noise of batches.

Several processes that share a batch draw all of it from equal `SharedGenerator`s and keep their rows with
`own_rows`. With any other generator, the functions here return whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.runtime.checks import check_seed
from equiflow.runtime.precision import FIELD_DTYPES

#: 2^64 over the golden ratio: an odd number whose multiples differ in their low bits and spread over all
_SEED_STRIDE = 0x9E3779B97F4A7C15


def stream(seed: int, purpose: str, step: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on these arguments only, not on what was drawn before.

    Args:
        seed: seed of the run.
        purpose: name of what is drawn; each name has independent random numbers.
        step: number of the step; each step has independent random numbers.
        device: where to draw.

    Returns:
        A new, seeded generator.

    Raises:
        TypeError: if the seed is no integer.
        ValueError: if it is not between 0 and 2^64 - 1.
    """
    words = np.random.SeedSequence([check_seed(seed), 0, *purpose.encode()]).generate_state(1, np.uint64)
    # Torch's CPU generator uses the low 32 bits of a seed only. Hashes of 10^5 steps would collide there;
    # multiples of an odd number do not.
    return torch.Generator(device).manual_seed(((int(words[0]) >> 1) + step * _SEED_STRIDE) % 2**63)


def seeded(seed: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator with this seed.

    Args:
        seed: from 0 to 2^64 - 1, of Python or numpy.
        device: where to draw.

    Returns:
        The generator.

    Raises:
        TypeError: if the seed is no integer.
        ValueError: if it is out of range.
    """
    return torch.Generator(device).manual_seed(check_seed(seed))


def check_draw(generator: object, dtype: object = None) -> None:
    """Raise unless random numbers can be drawn by a generator, in a dtype.

    Args:
        generator: expected to be a `torch.Generator`, or None for the global one.
        dtype: expected to be float32 or float64, or None where something else decides.

    Raises:
        TypeError: if either is anything else, such as a seed or the name of a dtype.
    """
    if not (generator is None or isinstance(generator, torch.Generator)):
        seed = generator if isinstance(generator, int) and not isinstance(generator, bool) else 0
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r}. Write "
            f"torch.Generator().manual_seed({seed})."
        )
    if not (dtype is None or dtype in FIELD_DTYPES):
        raise TypeError(
            f"dtype must be torch.float32 or torch.float64, got {dtype!r}. Write dtype=torch.float64."
        )


class SharedGenerator(torch.Generator):
    """A generator for batches that several processes share: each draws the whole batch and keeps its rows.

    All processes hold the same state, so a batch does not depend on their number. Drawing it is cheap
    compared with its use. Noise with one row per sample passes through `own_rows`.

    Args:
        device: where to draw.
        rank: number of this process, from 0.
        world_size: number of processes.

    >>> first, second = (SharedGenerator("cpu", rank=r, world_size=2).manual_seed(1) for r in (0, 1))
    >>> halves = [own_rows(torch.randn(5, generator=g), g) for g in (first, second)]
    >>> torch.equal(torch.cat(halves), torch.randn(5, generator=torch.Generator().manual_seed(1)))
    True
    """

    def __new__(cls, device: torch.device | str, **_: Any) -> SharedGenerator:
        """Pass the device on, which `torch.Generator` takes in `__new__`."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str, *, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.batch_size = 0

    def rows(self, batch_size: int) -> slice:
        """Return the rows of this process in a batch of `batch_size`, and remember the size.

        Raises:
            ValueError: if there is not at least one row for each process.
        """
        if batch_size < self.world_size:
            raise ValueError(
                f"A batch of {batch_size} cannot be shared by {self.world_size} processes, which need a "
                "sample each."
            )
        self.batch_size = batch_size
        ends = [batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        return slice(*ends)


@contextmanager
def whole(generator: torch.Generator | None) -> Iterator[None]:
    """Let every process keep all rows inside a `with` block, for computations that need them together."""
    if not isinstance(generator, SharedGenerator):
        yield
        return
    held = generator.rank, generator.world_size
    generator.rank, generator.world_size = 0, 1
    try:
        yield
    finally:
        generator.rank, generator.world_size = held


def own_rows(batch: Tensor, generator: torch.Generator | None, dim: int = 0) -> Tensor:
    """Return the rows of this process in a batch that every process has drawn.

    Args:
        batch: noise of the whole batch.
        generator: the generator that drew it.
        dim: axis of the samples.

    Returns:
        A view of the rows; the whole batch unless `generator` is a `SharedGenerator`.
    """
    if not isinstance(generator, SharedGenerator):
        return batch
    rows = generator.rows(batch.shape[dim])
    return batch.narrow(dim, rows.start, rows.stop - rows.start)


def batch_size_of(n_rows: int, generator: torch.Generator | None) -> int:
    """Return the size of the whole batch of which this process has kept `n_rows`.

    Args:
        n_rows: number of rows that this process has.
        generator: the generator that drew the batch, and nothing of another size since.

    Returns:
        The size of the whole batch; `n_rows` unless `generator` is a `SharedGenerator`.
    """
    if not isinstance(generator, SharedGenerator):
        return n_rows
    kept = generator.rows(generator.batch_size)
    assert n_rows == kept.stop - kept.start, "the batch is not the last one drawn"
    return generator.batch_size
