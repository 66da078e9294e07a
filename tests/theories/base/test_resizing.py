"""What was learned on one lattice holds on another, for any pair of them."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow.flows import ConditionalFlow, EquivariantCNF
from equiflow.nn.kernels.orbits import MomentumKernel, OffsetKernel, OrbitKernel
from equiflow.ode.solver import Solver
from equiflow.testing import assert_vector_field, check_flow, dense_jacobian, randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.resizing import momenta_on, offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.vector_fields import OrbitConvField, VectorField
from tests.support.strategies import (
    POINT_GROUPS,
    configurations,
    groups,
    kernel_sizes,
    lattices,
    seeds,
    small_flow,
)

LONGEST = {1: 12, 2: 8, 3: 4}
#: groups that contain every x_mu -> -x_mu, so that even kernels reach as far to both sides on any lattice
REFLECTING = ("full", "reflections")
times = st.floats(0, 1)


@dataclass(frozen=True)
class Pair:
    """Two lattices, and the cell of the fields that fit both when repeated."""

    cell: tuple[int, ...]
    source: Lattice
    target: Lattice

    @property
    def in_cell(self) -> tuple[slice, ...]:
        return (slice(None), *(slice(period) for period in self.cell))

    def fields(self, seed: int) -> Tensor:
        return configurations(Lattice(self.cell), 2, seed)

    def repeated(self, phi: Tensor, lattice: Lattice) -> Tensor:
        return phi.repeat(1, *(side // period for side, period in zip(lattice.shape, self.cell, strict=True)))


@st.composite
def pairs(draw: st.DrawFn, *, cubic: bool = False) -> Pair:
    """Any two lattices of one to three dimensions; where their sides have no common divisor, period 1."""
    dim = draw(st.integers(1, 3))
    side = st.integers(1, LONGEST[dim])
    cell = [draw(side)] * dim if cubic else [draw(side) for _ in range(dim)]
    source, target = (
        tuple(period * draw(st.integers(1, LONGEST[dim] // period)) for period in cell) for _ in range(2)
    )
    return Pair(tuple(cell), Lattice(source), Lattice(target))


@st.composite
def growing(draw: st.DrawFn) -> Pair:
    """A lattice, and one that is as large or larger along each axis."""
    source = draw(lattices(max_dim=3, max_volume=27))
    target = tuple(side + draw(st.integers(0, 4)) for side in source.shape)
    return Pair((1,) * source.dim, source, Lattice(target))


def exact_group(draw: st.DrawFn, pair: Pair) -> SymmetryGroup:
    """A group of the source that is no larger on the target: nothing is averaged."""
    group = SymmetryGroup(pair.source, draw(st.sampled_from(POINT_GROUPS)), draw(st.booleans()))
    if set(group.on(pair.target).point_elements) <= set(group.point_elements):
        return group
    return SymmetryGroup(pair.source, "reflections", group.z2)


def field_on(
    group: SymmetryGroup, seed: int = 0, *, kernel_size: int | tuple[int, ...] | None = None
) -> OrbitConvField:
    field = OrbitConvField(
        group.lattice,
        group=group,
        kernel_size=kernel_size,
        n_frequencies=2,
        n_time_modes=2,
        max_frequency=2.0,
    ).double()
    randomise(field, seed=seed)
    return field


@st.composite
def fields_to_resize(draw: st.DrawFn, pair: Pair) -> OrbitConvField:
    """A random field of the source whose kernel fits the target, in a group that both have."""
    group = exact_group(draw, pair)
    fits = [min(sides) for sides in zip(pair.source.shape, pair.target.shape, strict=True)]
    sizes = range(1, min(fits) + 1) if group.point in REFLECTING else range(1, min(fits) + 1, 2)
    kernel_size = draw(st.one_of(st.none(), st.sampled_from(sizes)))
    if group.point == "reflections" and draw(st.booleans()):
        kernel_size = tuple(draw(st.integers(1, most)) for most in fits)
    return field_on(group, draw(seeds), kernel_size=kernel_size)


def drawn(where: st.SearchStrategy[Pair]) -> st.SearchStrategy[tuple[Pair, OrbitConvField]]:
    return where.flatmap(lambda pair: st.tuples(st.just(pair), fields_to_resize(pair)))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1.0))


def reach(field: OrbitConvField) -> tuple[int, ...]:
    """How far the kernel reaches along each axis."""
    offsets = (field.group.offset_orbits(field.config()["kernel_size"]).index >= 0).nonzero()
    sides = torch.tensor(field.lattice.shape)
    return tuple(torch.minimum(offsets, sides - offsets).amax(0).tolist())


def tiling_violation(pair: Pair, field: VectorField, resized: VectorField, t: float, seed: int) -> float:
    """How much the velocities of one periodic field differ on two lattices."""
    phi = pair.fields(seed)
    expected = pair.repeated(field.velocity(pair.repeated(phi, pair.source), t)[pair.in_cell], pair.target)
    return relative(resized.velocity(pair.repeated(phi, pair.target), t), expected)


@settings(max_examples=80)
@given(drawn(pairs()), times, seeds)
def test_velocity_of_a_field_that_fits_both_lattices_is_the_same(case, t, seed):
    pair, field = case
    assert tiling_violation(pair, field, field.resized(pair.target), t, seed) < 1e-12


@settings(max_examples=40)
@given(drawn(pairs()), times, seeds)
def test_divergence_per_site_is_the_same_unless_an_offset_comes_to_lie_on_the_origin(case, t, seed):
    pair, field = case
    resized, phi = field.resized(pair.target), pair.fields(seed)
    per_site = [
        f.velocity_and_divergence(pair.repeated(phi, f.lattice), t)[1] / f.lattice.volume
        for f in (field, resized)
    ]
    folded = offsets_on(field.kernel.values(), pair.source, pair.target)
    at_origin = (..., *(0,) * pair.source.dim)
    if all(far < side for far, side in zip(reach(field), pair.target.shape, strict=True)):
        assert relative(per_site[1], per_site[0]) < 1e-12
    else:
        assert relative(folded[at_origin], field.kernel.values()[at_origin]) > 1e-6


@settings(max_examples=15)
@given(drawn(pairs()).filter(lambda case: case[0].source.volume <= 36), times, seeds)
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
    assert relative(resized.velocity_and_divergence(phi, t)[1], trace) < 1e-12


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
    assert relative(velocity, pair.repeated(expected, pair.target)) < 1e-12


@settings(max_examples=40)
@given(drawn(growing()), times, seeds)
def test_growing_and_shrinking_again_is_the_identity(case, t, seed):
    pair, field = case
    back = field.resized(pair.target).resized(pair.source)
    phi = configurations(pair.source, seed=seed)
    expected, found = (f.velocity_and_divergence(phi, t) for f in (field, back))
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-12
    torch.testing.assert_close(back.kernel.values(), field.kernel.values(), rtol=1e-13, atol=1e-13)


def localised(lattice: Lattice, seed: int, radius: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same noise around the origin of any lattice, and where it lies."""
    box = Lattice(tuple(2 * r + 1 for r in radius))
    where = torch.meshgrid(
        *(torch.arange(-r, r + 1) % side for r, side in zip(radius, lattice.shape, strict=True)),
        indexing="ij",
    )
    phi = torch.zeros(2, *lattice.shape)
    phi[(slice(None), *where)] = configurations(box, 2, seed)
    return phi, (slice(None), *where)


def locality_violation(field: VectorField, resized: VectorField, t: float, seed: int) -> float:
    """How much the velocity of a localised field changes around it, where no kernel can go round the lattice.

    Sites of the field are at most twice its radius apart, less than half a side.
    """
    radius = tuple((side - 1) // 4 for side in field.lattice.shape)
    inside = []
    for one in (field, resized):
        phi, where = localised(one.lattice, seed, radius)
        inside.append(one.velocity(phi, t)[where])
    return relative(inside[1], inside[0])


@settings(max_examples=40)
@given(drawn(growing()), times, seeds)
def test_a_localised_field_moves_the_same_on_a_larger_lattice(case, t, seed):
    pair, field = case
    assert locality_violation(field, field.resized(pair.target), t, seed) < 1e-12


@settings(max_examples=40)
@given(drawn(pairs()))
def test_a_kernel_of_small_support_keeps_its_values_offset_by_offset(case):
    pair, field = case
    fits = zip(reach(field), pair.source.shape, pair.target.shape, strict=True)
    if not all(2 * far < min(sides) for far, *sides in fits):
        return
    old, new = field.kernel.values(), field.resized(pair.target).kernel.values()
    seen = 0.0
    for offset in itertools.product(*(range(-far, far + 1) for far in reach(field))):
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
            # Nothing is lost of the larger lattice: what lies beyond the smaller is what went round it.
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


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((3,), (4,)),
        ((4,), (3,)),
        ((2, 3), (3, 2)),
        ((3, 3), (2, 4)),
        ((4, 2), (3, 3)),
        ((1, 3, 2), (2, 2, 2)),
    ],
)
def test_a_resized_flow_is_invariant_and_its_log_density_exact(shape, target):
    flow = small_flow(shape, solver=Solver(rtol=1e-8, atol=1e-8))
    randomise(flow.prior)
    flow = flow.resized(Lattice(target))
    report = check_flow(flow, tolerance=1e-6)
    assert report.ok, str(report)


def randomised_flow(shape: tuple[int, ...], seed: int = 0, **options: object) -> EquivariantCNF:
    flow = small_flow(shape, seed=seed, solver=Solver("rk4", steps=3), **options)
    randomise(flow.prior, seed=seed)
    return flow


@settings(max_examples=20)
@given(pairs(), seeds)
def test_a_flow_transforms_fields_that_fit_both_lattices_the_same(pair, seed):
    point = "reflections" if len(set(pair.target.shape)) < pair.target.dim else "full"
    group = SymmetryGroup(pair.source, point)
    flow = randomised_flow(pair.source.shape, seed, group=group)
    resized = flow.resized(pair.target)
    z = pair.fields(seed)
    expected = flow.transform_and_log_det(pair.repeated(z, pair.source))[0][pair.in_cell]
    found, log_det = resized.transform_and_log_det(pair.repeated(z, pair.target))
    assert relative(found, pair.repeated(expected, pair.target)) < 1e-11
    if all(side > old // 2 for side, old in zip(pair.target.shape, pair.source.shape, strict=True)):
        on_source = flow.transform_and_log_det(pair.repeated(z, pair.source))[1]
        assert relative(log_det / pair.target.volume, on_source / pair.source.volume) < 1e-11
    score = flow.prior.score(pair.repeated(z, pair.source))[pair.in_cell]
    assert (
        relative(resized.prior.score(pair.repeated(z, pair.target)), pair.repeated(score, pair.target))
        < 1e-11
    )


# --- the prior's spectrum --------------------------------------------------------------------------


def random_prior(
    group: SymmetryGroup, seed: int = 0, *, m2: float = 0.7, learnable: bool = True
) -> FreeField:
    prior = FreeField(group.lattice, m2=m2, group=group, learnable=learnable).double()
    randomise(prior, seed=seed)
    return prior


def spectrum(prior: FreeField) -> Tensor:
    """`log sigma_k` on all momenta, `(*lattice)`."""
    return prior.log_sigma.detach()[prior.group.momentum_orbits().index]


def log_ratio(prior: FreeField) -> Tensor:
    """What was learned: `log sigma_k` less that of the free field."""
    return spectrum(prior) + 0.5 * (2 * (prior.lattice.squared_momenta() + prior.m2)).log()


def common_momenta_violation(source: Lattice, old: Tensor, target: Lattice, new: Tensor) -> float:
    """Largest difference at the momenta `k / L = k' / L'` that both lattices have."""
    per_axis = [
        [(k, k * b // a) for k in range(a) if k * b % a == 0]
        for a, b in zip(source.shape, target.shape, strict=True)
    ]
    return max(
        float((new[tuple(k[1] for k in both)] - old[tuple(k[0] for k in both)]).abs())
        for both in itertools.product(*per_axis)
    )


@st.composite
def priors_to_resize(draw: st.DrawFn, pair: Pair) -> FreeField:
    return random_prior(exact_group(draw, pair), draw(seeds), m2=draw(st.floats(0.2, 3.0)))


pairs_of_priors = pairs().flatmap(lambda pair: st.tuples(st.just(pair), priors_to_resize(pair)))


@settings(max_examples=60)
@given(pairs_of_priors)
def test_spectra_agree_at_every_momentum_that_both_lattices_have(case):
    pair, prior = case
    resized = prior.resized(pair.target)
    violation = common_momenta_violation(pair.source, spectrum(prior), pair.target, spectrum(resized))
    assert violation < 1e-13
    assert (resized.m2, resized.group) == (prior.m2, prior.group.on(pair.target))


@settings(max_examples=60)
@given(pairs(), st.sampled_from(POINT_GROUPS), seeds)
def test_the_interpolated_ratio_stays_between_the_extremes_of_the_source(pair, point, seed):
    prior = random_prior(SymmetryGroup(pair.source, point), seed)
    old, new = log_ratio(prior), log_ratio(prior.resized(pair.target))
    assert float(old.min()) - 1e-13 <= float(new.min())
    assert float(new.max()) <= float(old.max()) + 1e-13


@settings(max_examples=40)
@given(lattices(max_dim=3, max_volume=27), st.lists(st.integers(1, 3), min_size=3, max_size=3), st.data())
def test_the_spectrum_comes_back_from_a_multiple_of_the_lattice(lattice, factors, data):
    multiple = Lattice(tuple(n * side for n, side in zip(factors, lattice.shape, strict=False)))
    pair = Pair((1,) * lattice.dim, lattice, multiple)
    prior = data.draw(priors_to_resize(pair))
    back = prior.resized(multiple).resized(lattice)
    torch.testing.assert_close(back.log_sigma, prior.log_sigma, rtol=0, atol=1e-13)


@given(pairs(), st.sampled_from(POINT_GROUPS), st.floats(0.2, 3.0))
def test_a_free_field_that_has_learned_nothing_is_the_free_field_of_its_new_lattice(pair, point, m2):
    group = SymmetryGroup(pair.source, point)
    resized = FreeField(pair.source, m2=m2, group=group).double().resized(pair.target)
    free = FreeField(pair.target, m2=m2, group=group.on(pair.target)).double()
    torch.testing.assert_close(resized.log_sigma, free.log_sigma, rtol=0, atol=1e-14)


@pytest.mark.parametrize("z2", [True, False])
def test_a_standard_normal_stays_one(z2):
    group = SymmetryGroup(Lattice((4, 4)), "rotations", z2)
    prior = StandardNormal(group.lattice, group=group).resized(Lattice((3, 5)))
    z = configurations(prior.lattice)
    assert prior.group == group.on(prior.lattice)
    torch.testing.assert_close(prior.log_prob(z), StandardNormal(prior.lattice).log_prob(z))


# --- the two maps, against loops --------------------------------------------------------------------


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


def reflection_violation(
    resize: Callable[[Tensor, Lattice, Lattice], Tensor], pair: Pair, seed: int
) -> float:
    """How much it matters whether a kernel is reflected before or after it changes its lattice."""
    kernel = configurations(pair.source, 2, seed)
    return max(
        float(
            (resize(g(kernel), pair.source, pair.target) - g(resize(kernel, pair.source, pair.target)))
            .abs()
            .max()
        )
        for g in SymmetryGroup(pair.source, "reflections").point_elements
    )


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


# --- mistakes that the laws see ---------------------------------------------------------------------


def unsplit(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """All of the offset L/2 on one side."""
    index = torch.arange(max(source.shape))
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old != new:
            signed = torch.where(index <= old // 2, index, index - old)[:old]
            carried = kernel.new_zeros(
                [new if a - kernel.dim() == axis else n for a, n in enumerate(kernel.shape)]
            )
            kernel = carried.index_add_(kernel.dim() + axis, signed % new, kernel)
    return kernel


def counted_twice(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """The offset L/2 on both sides in full."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old % 2 == 0 and old != new:
            kernel = kernel.clone()
            kernel.select(axis, old // 2).mul_(2)
    return offsets_on(kernel, source, target)


def unsigned(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Offsets by their index, so that -1 lands far away."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        carried = kernel.new_zeros(
            [new if a - kernel.dim() == axis else n for a, n in enumerate(kernel.shape)]
        )
        kernel = carried.index_add_(kernel.dim() + axis, torch.arange(old) % new, kernel)
    return kernel


def cropped(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Offsets that the smaller lattice does not have are dropped instead of summed."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if new < old:
            index = torch.arange(old)
            distance = torch.minimum(index, old - index)
            keep = (2 * distance <= new).to(kernel).reshape((-1,) + (1,) * (-axis - 1))
            kernel = kernel * keep
    return offsets_on(kernel, source, target)


def by_index(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Momenta by their index."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        values = values.index_select(axis, torch.arange(new) % old)
    return values


def plant(monkeypatch: pytest.MonkeyPatch, right: object, wrong: object) -> None:
    """Replace a function wherever the package has imported it."""
    places = [
        (module, name)
        for key, module in list(sys.modules.items())
        if key.split(".")[0] == "equiflow"
        for name, value in vars(module).items()
        if value is right
    ]
    assert len(places) > 1
    for module, name in places:
        monkeypatch.setattr(module, name, wrong)


def tiling(shape: tuple[int, ...], target: tuple[int, ...], cell: tuple[int, ...], point: str) -> float:
    pair = Pair(cell, Lattice(shape), Lattice(target))
    field = field_on(SymmetryGroup(pair.source, point))
    return tiling_violation(pair, field, field.resized(pair.target), 0.3, 0)


@pytest.mark.parametrize("point", POINT_GROUPS)
@pytest.mark.parametrize(
    ("wrong", "shape", "target"),
    [(counted_twice, (4, 4), (8, 8)), (cropped, (8, 8), (4, 4)), (cropped, (6, 6), (2, 2))],
)
def test_offsets_lost_or_counted_twice_are_seen_by_the_law_of_periodic_fields(
    monkeypatch, wrong, shape, target, point
):
    cell = tuple(map(min, shape, target))
    assert tiling(shape, target, cell, point) < 1e-12
    plant(monkeypatch, offsets_on, wrong)
    assert tiling(shape, target, cell, point) > 1e-3


@pytest.mark.parametrize(
    ("point", "kind", "shape", "target"),
    [
        ("full", MomentumKernel, (4, 4), (8, 8)),
        ("full", MomentumKernel, (8, 8), (4, 4)),
        ("full", MomentumKernel, (3,), (6,)),
        ("trivial", OffsetKernel, (4, 4), (8, 8)),
        ("trivial", OffsetKernel, (8, 8), (4, 4)),
    ],
)
def test_weights_copied_by_their_index_are_seen_by_the_law_of_periodic_fields(
    monkeypatch, point, kind, shape, target
):
    def by_orbit(self: OrbitKernel, other: OrbitKernel) -> None:
        n = min(self.weight.shape[-1], other.weight.shape[-1])
        with torch.no_grad():
            self.weight.zero_()[..., :n].copy_(other.weight[..., :n])

    cell = tuple(map(min, shape, target))
    assert isinstance(field_on(SymmetryGroup(Lattice(shape), point)).kernel, kind)
    assert tiling(shape, target, cell, point) < 1e-12
    monkeypatch.setattr(OrbitKernel, "resize_from", by_orbit)
    assert tiling(shape, target, cell, point) > 1e-3


@pytest.mark.parametrize("point", POINT_GROUPS)
@pytest.mark.parametrize("shape", [(5,), (5, 5), (6, 8)])
def test_offsets_without_sign_are_seen_by_the_law_of_localised_fields(monkeypatch, point, shape):
    target = Lattice(tuple(side + 3 for side in shape))
    field = field_on(SymmetryGroup(Lattice(shape), point))
    assert locality_violation(field, field.resized(target), 0.3, 0) < 1e-12
    plant(monkeypatch, offsets_on, unsigned)
    assert locality_violation(field, field.resized(target), 0.3, 0) > 1e-3


@pytest.mark.parametrize(("shape", "target"), [((4,), (7,)), ((4, 4), (6, 5)), ((2, 3, 2), (4, 4, 3))])
def test_an_unsplit_last_offset_is_seen_by_reflections_and_by_nothing_else(monkeypatch, shape, target):
    pair = Pair((1,) * len(shape), Lattice(shape), Lattice(target))
    assert reflection_violation(unsplit, pair, 0) > 1e-2
    symmetric, trivial = (field_on(SymmetryGroup(pair.source, point)) for point in ("full", "trivial"))
    trivial.kernel.set_values(symmetric.kernel.values())
    reflections = SymmetryGroup(pair.target, "reflections").point_elements

    def asymmetry() -> float:
        values = trivial.resized(pair.target).kernel.values()
        return max(float((g(values) - values).abs().max()) for g in reflections)

    assert asymmetry() < 1e-14
    expected = symmetric.resized(pair.target).kernel.values()
    plant(monkeypatch, offsets_on, unsplit)
    assert asymmetry() > 1e-3
    # The average over the orbits of a group with reflections splits it all the same.
    torch.testing.assert_close(symmetric.resized(pair.target).kernel.values(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "target"), [((4,), (8,)), ((4, 4), (8, 8)), ((6, 4), (3, 2)), ((4, 6), (6, 4))]
)
def test_a_spectrum_copied_by_index_is_seen_at_the_common_momenta(monkeypatch, shape, target):
    prior, target = random_prior(SymmetryGroup(Lattice(shape))), Lattice(target)

    def violation() -> float:
        return common_momenta_violation(
            prior.lattice, spectrum(prior), target, spectrum(prior.resized(target))
        )

    assert violation() < 1e-13
    plant(monkeypatch, momenta_on, by_index)
    assert violation() > 1e-2


def test_a_spectrum_that_shoots_over_is_seen_by_its_extremes(monkeypatch):
    def shooting_over(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
        return torch.fft.fftn(offsets_on(torch.fft.ifftn(values).real, source, target)).real

    prior = FreeField(Lattice((8,))).double()
    with torch.no_grad():
        prior.log_sigma[:3] += 1.0  # the first orbits are those of |k| <= 2: a step
    assert float(log_ratio(prior.resized(Lattice((24,)))).max()) == pytest.approx(1.0, abs=1e-13)
    plant(monkeypatch, momenta_on, shooting_over)
    assert float(log_ratio(prior.resized(Lattice((24,)))).max()) > 1.05


# --- kernels as functions of offset -----------------------------------------------------------------


cases = lattices(max_dim=3).flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat)))


@settings(max_examples=40)
@given(cases, times, seeds)
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
    assert relative(velocity, torch.fft.ifftn(modes.sum(1), dim=axes).real + drift) < 1e-12
    assert relative(divergence, slopes @ at_time.flatten(1)[:, 0]) < 1e-12
    values.zero_()
    assert torch.equal(field.velocity(phi, t), velocity)


@settings(max_examples=40)
@given(cases, seeds)
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


# --- orbits and groups ------------------------------------------------------------------------------


@settings(max_examples=40)
@given(cases, seeds)
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


@pytest.mark.parametrize(("shape", "name", "box"), [((4, 4), "D4", (4, 6)), ((3, 3, 3), "Oh", (3, 3, 4))])
def test_a_group_asked_for_by_its_name_must_exist_on_the_new_lattice(shape, name, box):
    group = SymmetryGroup(Lattice(shape), name)
    field, prior = OrbitConvField(group.lattice, group=group), FreeField(group.lattice, group=group)
    flow = EquivariantCNF(group.lattice, vector_field=field, prior=prior)
    larger = Lattice(tuple(side + 1 for side in shape))
    assert flow.resized(larger).group == SymmetryGroup(larger, name)
    for one in (field, prior, StandardNormal(group.lattice, group=group), flow):
        with pytest.raises(ValueError, match=rf"{box[0]}, .*does not have the point group {name}"):
            one.resized(Lattice(box))


# --- what carries over besides ----------------------------------------------------------------------


RESIZABLE = {
    "field": lambda: field_on(SymmetryGroup(Lattice((4, 3)), z2=False)),
    "field of a small kernel": lambda: field_on(SymmetryGroup(Lattice((4, 3))), kernel_size=3),
    "free field": lambda: random_prior(SymmetryGroup(Lattice((4, 3)))),
    "fixed free field": lambda: random_prior(SymmetryGroup(Lattice((4, 3))), learnable=False),
    "standard normal": lambda: StandardNormal(Lattice((4, 3))).double(),
    "flow": lambda: randomised_flow((4, 3)),
    "flow with a fixed prior": lambda: randomised_flow(
        (4, 3), prior=FreeField(Lattice((4, 3)), learnable=False)
    ),
}


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("target", [(4, 3), (5, 6), (3, 3)])
def test_nothing_is_shared_with_the_original(name, target):
    original = RESIZABLE[name]()
    resized = original.resized(Lattice(target))
    for changed, other in ((resized, original), (original, resized)):
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with torch.no_grad():
            for tensor in (*changed.parameters(), *changed.buffers()):
                tensor.zero_()
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    addresses = [{t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (original, resized)]
    assert not addresses[0] & addresses[1]


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_what_is_trained_are_kept(name, dtype, device):
    original = RESIZABLE[name]().to(device, dtype)
    resized = original.resized(Lattice((5, 6)))
    kinds = [
        {key: (p.dtype, p.device.type, p.requires_grad) for key, p in m.named_parameters()}
        for m in (original, resized)
    ]
    assert kinds[0] == kinds[1]
    for key, buffer in resized.named_buffers():
        assert buffer.dtype == dict(original.named_buffers())[key].dtype
        assert buffer.device.type == device.type


@pytest.mark.parametrize("name", RESIZABLE)
def test_on_its_own_lattice_it_is_an_identical_copy(name):
    original = RESIZABLE[name]()
    copy = original.resized(original.lattice)
    assert copy is not original
    assert repr(copy) == repr(original)
    for key, value in original.state_dict().items():
        torch.testing.assert_close(copy.state_dict()[key], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", RESIZABLE)
def test_the_default_dtype_at_the_time_changes_nothing(name):
    original = RESIZABLE[name]()
    expected = original.resized(Lattice((5, 6))).state_dict()
    torch.set_default_dtype(torch.float32)
    try:
        found = original.resized(Lattice((5, 6))).state_dict()
    finally:
        torch.set_default_dtype(torch.float64)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-14)


def test_a_flow_keeps_its_solver_and_what_else_it_was_built_with():
    solver = Solver("dopri8", rtol=1e-4, atol=1e-5, adjoint=True)
    flow = small_flow((3, 4), prior=StandardNormal(Lattice((3, 4))), solver=solver, kernel_size=3)
    resized = flow.resized(Lattice((5, 5)))
    assert resized.solver == solver
    assert isinstance(resized.prior, StandardNormal)
    assert resized.vector_field.config() == flow.vector_field.config()
    assert resized.lattice == resized.prior.lattice == resized.vector_field.lattice == Lattice((5, 5))


def test_a_resized_flow_is_saved_and_loaded(tmp_path):
    flow = randomised_flow((3, 4), kernel_size=3).resized(Lattice((4, 5)))
    flow.save(tmp_path / "flow.pt")
    phi = configurations(flow.lattice)
    assert torch.equal(EquivariantCNF.load(tmp_path / "flow.pt").log_prob(phi), flow.log_prob(phi))


def test_gradients_reach_the_weights_of_a_resized_flow():
    flow = randomised_flow((3, 3)).resized(Lattice((4, 4)))
    loss = flow.log_prob(configurations(flow.lattice)).sum()
    gradients = torch.autograd.grad(loss, list(flow.parameters()))
    assert all(bool((g != 0).all()) for g in gradients)


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("target", [(4,), (4, 4, 4)])
def test_another_dimension_is_refused(name, target):
    with pytest.raises(ValueError, match=rf"2D lattice to a {len(target)}D.*2 sides, got \({target[0]},"):
        RESIZABLE[name]().resized(Lattice(target))


@pytest.mark.parametrize("resize", [offsets_on, momenta_on])
def test_the_maps_refuse_another_dimension(resize):
    with pytest.raises(
        ValueError, match=r"1D lattice to a 2D one; expected a shape with 1 sides, got \(4, 4\)"
    ):
        resize(torch.zeros(4), Lattice((4,)), Lattice((4, 4)))


@pytest.mark.parametrize("target", [(5, 6), 5, None, SymmetryGroup(Lattice((5, 6))), Lattice])
def test_a_flow_is_resized_to_a_lattice_only(target):
    with pytest.raises(TypeError, match="lattice must be of type Lattice"):
        RESIZABLE["flow"]().resized(target)


@pytest.mark.parametrize("name", [name for name in RESIZABLE if "flow" not in name])
def test_fields_and_priors_are_resized_to_a_lattice_only(name):
    with pytest.raises(TypeError, match="must be of type Lattice"):
        RESIZABLE[name]().resized((5, 6))


class Still(VectorField):
    def velocity_and_divergence(self, phi, t):
        return torch.zeros_like(phi), phi.new_zeros(len(phi))


class Uniform(Prior):
    def colour(self, noise):
        return noise

    def log_prob(self, z):
        return z.new_zeros(len(z))

    def score(self, z):
        return torch.zeros_like(z)


def test_fields_and_priors_that_do_not_say_how_are_named():
    lattice, larger = Lattice((4, 4)), Lattice((6, 6))
    still, uniform = Still(SymmetryGroup(lattice)), Uniform(lattice)
    for one in (still, EquivariantCNF(lattice, vector_field=still)):
        with pytest.raises(TypeError, match=r"Still does not carry over.*override `resized`"):
            one.resized(larger)
    for one in (uniform, EquivariantCNF(lattice, prior=uniform)):
        with pytest.raises(TypeError, match=r"Uniform does not carry over.*override `resized`"):
            one.resized(larger)


def test_weights_that_are_not_trained_stay_so_on_another_lattice():
    flow = EquivariantCNF(Lattice((4, 4)), solver=Solver("rk4", steps=2))
    flow.prior.requires_grad_(False)
    larger = flow.resized(Lattice((6, 6)))
    frozen = {name for name, weight in larger.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in flow.named_parameters() if name.startswith("prior.")} != set()
    conditional = ConditionalFlow(flow, {"lam": (4.0, 6.0)}).resized(Lattice((6, 6)))
    assert not any(name.startswith("prior.") for name in conditional.modes())
