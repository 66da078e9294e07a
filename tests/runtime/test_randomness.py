"""Streams are independent and reproducible, and processes that share a batch draw the batch of one."""

from __future__ import annotations

import pytest
import torch

from equiflow.runtime.randomness import SharedGenerator, batch_size_of, own_rows, stream, whole


def first_numbers(*arguments: object) -> tuple[float, ...]:
    return tuple(torch.rand(3, generator=stream(*arguments)).tolist())


def test_a_stream_depends_on_its_arguments_only():
    torch.rand(5)
    assert first_numbers(1, "prior", 7) == first_numbers(1, "prior", 7)
    streams = [(1, "prior", 7), (2, "prior", 7), (1, "priors", 7), (1, "prior", 8), (1, "prior", 0)]
    assert len({first_numbers(*arguments) for arguments in streams}) == len(streams)


def test_streams_of_many_steps_have_different_seeds_in_the_bits_that_torch_uses():
    seeds = {stream(0, "prior", step).initial_seed() % 2**32 for step in range(20_000)}
    assert len(seeds) == 20_000


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_batch_without_a_row_for_each_process_is_refused(world_size):
    generator = SharedGenerator("cpu", rank=0, world_size=world_size)
    assert generator.rows(world_size) == slice(0, 1)
    with pytest.raises(ValueError, match=f"A batch of {world_size - 1} cannot be shared by {world_size}"):
        generator.rows(world_size - 1)


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_an_ordinary_generator_keeps_all_rows(generator):
    batch = torch.zeros(5, 2)
    assert own_rows(batch, generator) is batch
    assert batch_size_of(5, generator) == 5
    with whole(generator):
        assert own_rows(batch, generator) is batch


def test_shares_are_the_batch():
    for n in (3, 5, 8):
        seeded = [SharedGenerator("cpu", rank=r, world_size=3).manual_seed(0) for r in range(3)]
        rows = [own_rows(torch.randn(n, 2, generator=g), g) for g in seeded]
        assert torch.equal(torch.cat(rows), torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
        assert [batch_size_of(len(part), g) for part, g in zip(rows, seeded, strict=True)] == [n] * 3
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
    with whole(seeded[1]):
        assert len(own_rows(torch.zeros(8), seeded[1])) == 8
    assert len(own_rows(torch.zeros(8), seeded[1])) < 8
