"""A vector field on another lattice: velocities, divergences and kernels carry over."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow.testing import assert_vector_field, dense_jacobian
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.resizing import offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup
from tests.support.resizing import (
    field_on,
    fields_and_pairs,
    groups_and_kernel_sizes,
    growing_pairs,
    kernel_reach,
    localised,
    locality_violation,
    pairs,
    relative_difference,
    tiling_violation,
    times,
)
from tests.support.strategies import POINT_GROUPS, configurations, seeds


@settings(max_examples=80)
@given(fields_and_pairs(pairs()), times, seeds)
def test_velocity_of_a_field_that_fits_both_lattices_is_the_same(case, t, seed):
    pair, field = case
    assert tiling_violation(pair, field, field.resized(pair.target), t, seed) < 1e-12


@settings(max_examples=40)
@given(fields_and_pairs(pairs()), times, seeds)
def test_divergence_per_site_is_the_same_unless_an_offset_comes_to_lie_on_the_origin(case, t, seed):
    pair, field = case
    resized, phi = field.resized(pair.target), pair.fields(seed)
    per_site = [
        f.velocity_and_divergence(pair.repeated(phi, f.lattice), t)[1] / f.lattice.volume
        for f in (field, resized)
    ]
    folded = offsets_on(field.kernel.values(), pair.source, pair.target)
    at_origin = (..., *(0,) * pair.source.dim)
    if all(far < side for far, side in zip(kernel_reach(field), pair.target.shape, strict=True)):
        assert relative_difference(per_site[1], per_site[0]) < 1e-12
    else:
        assert relative_difference(folded[at_origin], field.kernel.values()[at_origin]) > 1e-6


@settings(max_examples=15)
@given(fields_and_pairs(pairs()).filter(lambda case: case[0].source.volume <= 36), times, seeds)
def test_shrunk_to_the_cell_the_divergence_is_the_trace_over_periodic_fields(case, t, seed):
    pair, field = case
    try:
        resized = field.resized(Lattice(pair.cell))
    except ValueError:  # the kernel is larger than the cell
        assert field.config()["kernel_size"] is not None
        return
    if not set(resized.group.point_elements) <= set(field.group.point_elements):
        return
    phi = pair.fields(seed)

    def of_cell(x: Tensor) -> Tensor:
        return field.velocity(pair.repeated(x, pair.source), t)[pair.in_cell]

    trace = dense_jacobian(of_cell, phi).diagonal(dim1=1, dim2=2).sum(1)
    assert relative_difference(resized.velocity_and_divergence(phi, t)[1], trace) < 1e-12


@settings(max_examples=40)
@given(pairs(cubic=True), st.sampled_from(POINT_GROUPS), st.booleans(), times, seeds)
def test_a_group_that_grows_averages_the_field_over_its_elements(pair, point, z2, t, seed):
    field = field_on(SymmetryGroup(pair.source, point, z2), seed)
    resized = field.resized(pair.target)
    elements = resized.group.point_elements
    identity = PointElement(tuple(range(pair.source.dim)), (1,) * pair.source.dim)
    inverse = {g: next(h for h in elements if g @ h == identity) for g in elements}
    phi = pair.fields(seed)
    expected = torch.stack(
        [inverse[g](field.velocity(pair.repeated(g(phi), pair.source), t)[pair.in_cell]) for g in elements]
    ).mean(0)
    velocity = resized.velocity(pair.repeated(phi, pair.target), t)
    assert relative_difference(velocity, pair.repeated(expected, pair.target)) < 1e-12


@settings(max_examples=40)
@given(fields_and_pairs(growing_pairs()), times, seeds)
def test_growing_and_shrinking_again_is_the_identity(case, t, seed):
    pair, field = case
    back = field.resized(pair.target).resized(pair.source)
    phi = configurations(pair.source, seed=seed)
    expected, found = (f.velocity_and_divergence(phi, t) for f in (field, back))
    assert max(relative_difference(a, b) for a, b in zip(found, expected, strict=True)) < 1e-12
    torch.testing.assert_close(back.kernel.values(), field.kernel.values(), rtol=1e-13, atol=1e-13)


@settings(max_examples=40)
@given(fields_and_pairs(growing_pairs()), times, seeds)
def test_a_localised_field_moves_the_same_on_a_larger_lattice(case, t, seed):
    pair, field = case
    assert locality_violation(field, field.resized(pair.target), t, seed) < 1e-12


@settings(max_examples=40)
@given(fields_and_pairs(pairs()))
def test_a_kernel_of_small_support_keeps_its_values_offset_by_offset(case):
    pair, field = case
    fits = zip(kernel_reach(field), pair.source.shape, pair.target.shape, strict=True)
    if not all(2 * far < min(sides) for far, *sides in fits):
        return
    old, new = field.kernel.values(), field.resized(pair.target).kernel.values()
    seen = 0.0
    for offset in itertools.product(*(range(-far, far + 1) for far in kernel_reach(field))):
        torch.testing.assert_close(new[(..., *offset)], old[(..., *offset)], rtol=1e-13, atol=1e-14)
        seen += float(old[(..., *offset)].abs().sum())
    for values in (old, new):
        assert float(values.abs().sum()) == pytest.approx(seen, rel=1e-12)


@pytest.mark.parametrize("shape", [(16,), (15,), (10, 10), (9, 12)])
def test_kernels_that_decay_move_localised_fields_the_same_up_to_their_tail(shape):
    lattice, larger = Lattice(shape), Lattice(tuple(2 * side for side in shape))
    field = field_on(SymmetryGroup(lattice))
    distance = sum(
        torch.minimum(x, side - x).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        for axis, side in enumerate(shape)
        for x in [torch.arange(side)]
    )
    strength = configurations(Lattice((2, 3)), 1)[0].reshape(2, 3, *(1,) * len(shape))
    errors = []
    for decay in (1.0, 3.0):
        field.kernel.set_values(strength * torch.exp(-decay * distance))
        resized = field.resized(larger)
        velocities = [
            one.velocity(localised(one.lattice, 0, (1,) * len(shape))[0], 0.3) for one in (field, resized)
        ]
        folded = velocities[1]
        for axis, side in zip(lattice.axes, shape, strict=True):
            # Nothing is lost: sites beyond the smaller lattice are those that went round it.
            folded = torch.stack(folded.split(side, axis)).sum(0)
        torch.testing.assert_close(folded, velocities[0], rtol=1e-12, atol=1e-12)
        inside = [
            v[localised(one.lattice, 0, tuple((side - 1) // 2 for side in shape))[1]]
            for one, v in zip((field, resized), velocities, strict=True)
        ]
        errors.append(float((inside[1] - inside[0]).detach().abs().max()))
        assert errors[-1] < 20 * math.exp(-decay * (min(shape) // 2))
    assert errors[1] < 0.1 * errors[0]


@settings(max_examples=30)
@given(
    pairs().filter(lambda pair: pair.target.volume <= 27), st.sampled_from(POINT_GROUPS), st.booleans(), seeds
)
def test_a_resized_field_obeys_every_law_on_its_new_lattice(pair, point, z2, seed):
    field = field_on(SymmetryGroup(pair.source, point, z2), seed)
    resized = field.resized(pair.target)
    assert (resized.lattice, resized.group) == (pair.target, field.group.on(pair.target))
    assert_vector_field(resized, pair.target)


@settings(max_examples=40)
@given(groups_and_kernel_sizes, times, seeds)
def test_values_are_the_kernels_that_act(case, t, seed):
    group, kernel_size = case
    field, phi = field_on(group, seed, kernel_size=kernel_size), configurations(group.lattice, seed=seed)
    values = field.kernel.values()
    assert (values.dtype, values.requires_grad) == (torch.float64, False)
    at_time = torch.einsum("j,jf...->f...", torch.cos(math.pi * t * torch.arange(2)), values)
    features, axes = field.features(phi), group.lattice.axes
    sources = torch.cat([phi.unsqueeze(1), features.value], 1)
    modes = torch.fft.fftn(at_time, dim=axes) * torch.fft.fftn(sources, dim=axes)
    slopes = torch.cat([torch.ones_like(phi).unsqueeze(1), features.first], 1).flatten(2).sum(2)
    drift = 0.0 if group.z2 else field.drift @ torch.cos(math.pi * t * torch.arange(2))
    velocity, divergence = field.velocity_and_divergence(phi, t)
    assert relative_difference(velocity, torch.fft.ifftn(modes.sum(1), dim=axes).real + drift) < 1e-12
    assert relative_difference(divergence, slopes @ at_time.flatten(1)[:, 0]) < 1e-12
    values.zero_()
    assert torch.equal(field.velocity(phi, t), velocity)


@settings(max_examples=40)
@given(groups_and_kernel_sizes, seeds)
def test_set_values_is_the_average_over_the_group(case, seed):
    group, kernel_size = case
    kernel = field_on(group, seed, kernel_size=kernel_size).kernel
    inside = group.offset_orbits(kernel_size).index >= 0
    n_features = kernel.values().shape[1]
    taken = configurations(Lattice((n_features, *group.lattice.shape)), 2, seed) * inside
    kernel.set_values(taken)
    average = torch.stack([g(taken) for g in group.point_elements]).mean(0)
    torch.testing.assert_close(kernel.values(), average, rtol=0, atol=1e-13)
    weight = kernel.weight.detach().clone()
    kernel.set_values(kernel.values())
    torch.testing.assert_close(kernel.weight.detach(), weight, rtol=0, atol=1e-13)
    assert kernel.weight.requires_grad


@settings(max_examples=30)
@given(pairs(), st.sampled_from(POINT_GROUPS), seeds)
def test_kernels_from_another_lattice_are_averaged_over_the_orbits_of_the_new_one(pair, point, seed):
    old = field_on(SymmetryGroup(pair.source, point), seed).kernel
    new = field_on(SymmetryGroup(pair.target, point), seed + 1).kernel
    new.resize_from(old)
    carried = offsets_on(old.values(), pair.source, pair.target)
    average = torch.stack([g(carried) for g in new.group.point_elements]).mean(0)
    torch.testing.assert_close(new.values(), average, rtol=0, atol=1e-13)


def test_a_rectangle_s_kernel_is_averaged_on_a_square_and_a_square_s_kept_on_a_rectangle():
    rectangle, square = Lattice((4, 6)), Lattice((6, 6))
    narrow, wide = field_on(SymmetryGroup(rectangle)), field_on(SymmetryGroup(square))
    carried = offsets_on(narrow.kernel.values(), rectangle, square)
    average = 0.5 * (carried + carried.transpose(-1, -2))
    torch.testing.assert_close(narrow.resized(square).kernel.values(), average, rtol=0, atol=1e-13)
    assert float((average - carried).abs().max()) > 1e-2
    kept = wide.resized(rectangle).kernel.values()
    torch.testing.assert_close(kept, offsets_on(wide.kernel.values(), square, rectangle), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "target", "point", "kernel_size"),
    [
        ((4,), (6,), "trivial", 4),
        ((4, 4), (6, 6), "inversion", 4),
        ((4, 4), (4, 6), "rotations", 2),
        ((4, 4), (4, 6), "full", (1, 3)),
    ],
)
def test_a_kernel_that_the_new_lattice_cannot_hold_is_refused_not_cut(shape, target, point, kernel_size):
    field = field_on(SymmetryGroup(Lattice(shape), point), kernel_size=kernel_size)
    with pytest.raises(ValueError, match=r"does not hold the kernels.*kernel_size=None"):
        field.resized(Lattice(target))


def test_a_kernel_larger_than_the_new_lattice_is_refused():
    with pytest.raises(ValueError, match=r"kernel_size 5 does not fit the lattice \(4, 6\)"):
        field_on(SymmetryGroup(Lattice((6, 6))), kernel_size=5).resized(Lattice((4, 6)))
