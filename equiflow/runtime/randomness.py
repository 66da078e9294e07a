"""Random numbers: a stream for every purpose, and noise that several processes have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: 2^64 over the golden ratio: scatters what is counted over all bits
_ODD = 0x9E3779B97F4A7C15


def stream(seed: int, purpose: str, step: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Randomness of its own for every purpose and step of a run, whatever was drawn before."""
    words = np.random.SeedSequence([seed, 0, *purpose.encode()]).generate_state(1, np.uint64)
    # Torch's generator of a CPU takes the low 32 bits alone. Hashes of 10^5 steps meet there, multiples of an
    # odd number do not.
    return torch.Generator(device).manual_seed(((int(words[0]) >> 1) + step * _ODD) % 2**63)


class SharedGenerator(torch.Generator):
    """Noise of batches that several processes share: all draw the whole batch, each keeps its own rows.

    All hold the same state, so that a batch does not depend on how many they are, and drawing it costs
    nothing beside what is done with it. Whatever is drawn for each sample passes through `own_rows`.

    Args:
        device: where it draws.
        rank: of this process, from 0.
        world_size: number of processes.

    >>> first, second = (SharedGenerator("cpu", rank=r, world_size=2).manual_seed(1) for r in (0, 1))
    >>> halves = [own_rows(torch.randn(5, generator=g), g) for g in (first, second)]
    >>> torch.equal(torch.cat(halves), torch.randn(5, generator=torch.Generator().manual_seed(1)))
    True
    """

    def __new__(cls, device: torch.device | str, **_: Any) -> SharedGenerator:
        """A torch.Generator takes its device here."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str, *, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.batch_size = 0

    def rows(self, batch_size: int) -> slice:
        """Rows of this process in a batch.

        Raises:
            ValueError: if there is not one for each process.
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
    """Meanwhile every process keeps all rows, for what can only be done with all of them."""
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
    """The rows of this process, along `dim`, of a batch that every process draws; all of an ordinary one."""
    if not isinstance(generator, SharedGenerator):
        return batch
    rows = generator.rows(batch.shape[dim])
    return batch.narrow(dim, rows.start, rows.stop - rows.start)


def batch_size_of(n_rows: int, generator: torch.Generator | None) -> int:
    """The size of the batch, the last one drawn, of which this process has kept `n_rows`."""
    if not isinstance(generator, SharedGenerator):
        return n_rows
    kept = generator.rows(generator.batch_size)
    assert n_rows == kept.stop - kept.start, "the batch is not the last one drawn"
    return generator.batch_size
