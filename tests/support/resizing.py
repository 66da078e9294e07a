"""Strategies and measures for the tests of resizing.

Pairs of lattices, fields and priors are drawn; each `*_violation` measures how much one law is broken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver
from equiflow.testing import randomise
from equiflow.theories.base.lattice import Lattice
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

#: longest side that is drawn, by the number of dimensions
LONGEST_SIDE = {1: 12, 2: 8, 3: 4}
#: groups that contain every x_mu -> -x_mu, so that even kernels reach as far to both sides on any lattice
REFLECTING = ("full", "reflections")
times = st.floats(0, 1)


@dataclass(frozen=True)
class Pair:
    """Two lattices, and the cell of fields that fit both lattices when they are repeated."""

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
    """Draw two lattices in one to three dimensions; the period is 1 where sides have no common divisor."""
    dim = draw(st.integers(1, 3))
    side = st.integers(1, LONGEST_SIDE[dim])
    cell = [draw(side)] * dim if cubic else [draw(side) for _ in range(dim)]
    source, target = (
        tuple(period * draw(st.integers(1, LONGEST_SIDE[dim] // period)) for period in cell) for _ in range(2)
    )
    return Pair(tuple(cell), Lattice(source), Lattice(target))


@st.composite
def growing_pairs(draw: st.DrawFn) -> Pair:
    """Draw a lattice, and another one that is at least as large along each axis."""
    source = draw(lattices(max_dim=3, max_volume=27))
    target = tuple(side + draw(st.integers(0, 4)) for side in source.shape)
    return Pair((1,) * source.dim, source, Lattice(target))


def exact_group(draw: st.DrawFn, pair: Pair) -> SymmetryGroup:
    """Draw a group of the source that is not larger on the target, so that nothing is averaged."""
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
    """Draw a field of the source whose kernel fits the target, with a group of both lattices."""
    group = exact_group(draw, pair)
    fits = [min(sides) for sides in zip(pair.source.shape, pair.target.shape, strict=True)]
    sizes = range(1, min(fits) + 1) if group.point in REFLECTING else range(1, min(fits) + 1, 2)
    kernel_size = draw(st.one_of(st.none(), st.sampled_from(sizes)))
    if group.point == "reflections" and draw(st.booleans()):
        kernel_size = tuple(draw(st.integers(1, most)) for most in fits)
    return field_on(group, draw(seeds), kernel_size=kernel_size)


def fields_and_pairs(where: st.SearchStrategy[Pair]) -> st.SearchStrategy[tuple[Pair, OrbitConvField]]:
    return where.flatmap(lambda pair: st.tuples(st.just(pair), fields_to_resize(pair)))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1.0))


def kernel_reach(field: OrbitConvField) -> tuple[int, ...]:
    """Return how far the kernel of a field reaches along each axis."""
    offsets = (field.group.offset_orbits(field.config()["kernel_size"]).index >= 0).nonzero()
    sides = torch.tensor(field.lattice.shape)
    return tuple(torch.minimum(offsets, sides - offsets).amax(0).tolist())


def tiling_violation(pair: Pair, field: VectorField, resized: VectorField, t: float, seed: int) -> float:
    """Measure how much the velocities of one periodic configuration differ on two lattices."""
    phi = pair.fields(seed)
    expected = pair.repeated(field.velocity(pair.repeated(phi, pair.source), t)[pair.in_cell], pair.target)
    return relative_difference(resized.velocity(pair.repeated(phi, pair.target), t), expected)


def localised(lattice: Lattice, seed: int, radius: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the same noise around the origin of any lattice, and the index of its sites."""
    box = Lattice(tuple(2 * r + 1 for r in radius))
    where = torch.meshgrid(
        *(torch.arange(-r, r + 1) % side for r, side in zip(radius, lattice.shape, strict=True)),
        indexing="ij",
    )
    phi = torch.zeros(2, *lattice.shape)
    phi[(slice(None), *where)] = configurations(box, 2, seed)
    return phi, (slice(None), *where)


def locality_violation(field: VectorField, resized: VectorField, t: float, seed: int) -> float:
    """Measure how much the velocity of a localised field changes near the field.

    Sites of the field are at most twice its radius apart, less than half a side.
    """
    radius = tuple((side - 1) // 4 for side in field.lattice.shape)
    inside = []
    for one in (field, resized):
        phi, where = localised(one.lattice, seed, radius)
        inside.append(one.velocity(phi, t)[where])
    return relative_difference(inside[1], inside[0])


def randomised_flow(shape: tuple[int, ...], seed: int = 0, **options: object) -> EquivariantCNF:
    flow = small_flow(shape, seed=seed, solver=Solver("rk4", steps=3), **options)
    randomise(flow.prior, seed=seed)
    return flow


def random_prior(
    group: SymmetryGroup, seed: int = 0, *, m2: float = 0.7, learnable: bool = True
) -> FreeField:
    prior = FreeField(group.lattice, m2=m2, group=group, learnable=learnable).double()
    randomise(prior, seed=seed)
    return prior


def spectrum(prior: FreeField) -> Tensor:
    """Return `log sigma_k` on all momenta, `(*lattice)`."""
    return prior.log_sigma.detach()[prior.group.momentum_orbits().index]


def log_ratio(prior: FreeField) -> Tensor:
    """Return the learned part of the spectrum: `log sigma_k` minus `log sigma_k` of the free field."""
    return spectrum(prior) + 0.5 * (2 * (prior.lattice.squared_momenta() + prior.m2)).log()


def common_momenta_violation(source: Lattice, old: Tensor, target: Lattice, new: Tensor) -> float:
    """Return the largest difference at the momenta `k / L = k' / L'` of both lattices."""
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


def reflection_violation(
    resize: Callable[[Tensor, Lattice, Lattice], Tensor], pair: Pair, seed: int
) -> float:
    """Measure the difference between reflecting a kernel before and after it changes its lattice."""
    kernel = configurations(pair.source, 2, seed)
    return max(
        float(
            (resize(g(kernel), pair.source, pair.target) - g(resize(kernel, pair.source, pair.target)))
            .abs()
            .max()
        )
        for g in SymmetryGroup(pair.source, "reflections").point_elements
    )


groups_and_kernel_sizes = lattices(max_dim=3).flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat)))


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
