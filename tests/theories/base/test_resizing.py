"""The two maps behind resizing, groups and orbits on another lattice, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import momenta_on, offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup
from tests.support.resizing import groups_and_kernel_sizes, pairs, reflection_violation
from tests.support.strategies import configurations, groups, lattices, seeds


def offsets_by_loop(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    result = torch.zeros(*kernel.shape[: -source.dim], *target.shape)
    for site in itertools.product(*map(range, source.shape)):
        images = [
            [x, x - side] if 2 * x == side else [x if 2 * x < side else x - side]
            for x, side in zip(site, source.shape, strict=True)
        ]
        signed = list(itertools.product(*images))
        for offset in signed:
            at = tuple(s % side for s, side in zip(offset, target.shape, strict=True))
            result[(..., *at)] += kernel[(..., *site)] / len(signed)
    return result


def momenta_by_loop(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
    def along(axis: int, array: np.ndarray) -> np.ndarray:
        old, new = source.shape[axis], target.shape[axis]
        grid, wanted = np.arange(old + 1) / old, np.arange(new) / new
        return np.apply_along_axis(lambda line: np.interp(wanted, grid, [*line, line[0]]), axis, array)

    array = values.numpy()
    for axis in source.axes:
        array = along(axis, array)
    return torch.from_numpy(array)


@settings(max_examples=40)
@given(pairs(), seeds)
def test_offsets_and_momenta_are_those_of_plain_loops(pair, seed):
    values = configurations(pair.source, 2, seed)
    for fast, plain in ((offsets_on, offsets_by_loop), (momenta_on, momenta_by_loop)):
        expected = plain(values, pair.source, pair.target)
        torch.testing.assert_close(fast(values, pair.source, pair.target), expected, rtol=0, atol=1e-13)


@settings(max_examples=40)
@given(pairs(), seeds)
def test_changing_the_lattice_commutes_with_reflections(pair, seed):
    assert reflection_violation(offsets_on, pair, seed) < 1e-14
    assert reflection_violation(momenta_on, pair, seed) < 1e-14


@given(pairs(), seeds)
def test_offsets_keep_their_sum_and_inputs_stay(pair, seed):
    kernel = configurations(pair.source, 2, seed)
    before = kernel.clone()
    carried = offsets_on(kernel, pair.source, pair.target)
    momenta_on(kernel, pair.source, pair.target)
    torch.testing.assert_close(carried.flatten(1).sum(1), kernel.flatten(1).sum(1), rtol=0, atol=1e-12)
    assert torch.equal(kernel, before)


@pytest.mark.parametrize("resize", [offsets_on, momenta_on])
def test_the_maps_refuse_another_dimension(resize):
    with pytest.raises(
        ValueError, match=r"1D lattice to a 2D one; expected a shape with 1 sides, got \(4, 4\)"
    ):
        resize(torch.zeros(4), Lattice((4,)), Lattice((4, 4)))


@settings(max_examples=40)
@given(groups_and_kernel_sizes, seeds)
def test_the_mean_over_orbits_is_that_of_a_loop(case, seed):
    group, kernel_size = case
    orbits = group.offset_orbits(kernel_size)
    values = configurations(Lattice((2, *group.lattice.shape)), 3, seed)
    mean = orbits.mean(values)
    expected = torch.stack([values[..., orbits.index == n].mean(-1) for n in range(len(orbits))], -1)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-14)
    outside = torch.where(orbits.index >= 0, values, math.nan)
    assert torch.equal(orbits.mean(outside), mean)
    assert orbits.mean(values.float()).dtype == torch.float32


@given(lattices(max_dim=3), st.booleans(), st.data())
def test_a_group_keeps_its_name_on_another_lattice(lattice, z2, data):
    group = data.draw(groups(lattice))
    other = data.draw(lattices(min_dim=lattice.dim, max_dim=lattice.dim))
    assert group.on(other) == SymmetryGroup(other, group.point, group.z2)
    assert group.on(lattice) == group


def test_the_full_group_is_as_large_as_each_lattice_allows():
    square = SymmetryGroup(Lattice((4, 4)), z2=False)
    assert str(square.on(Lattice((4, 6)))) == "translations x D2"
    assert str(square.on(Lattice((4, 6))).on(Lattice((5, 5)))) == "translations x D4"
