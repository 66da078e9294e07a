"""Observables of single configurations, by symmetry, by plain loops and in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import Ensemble, FreeScalar, Lattice, SymmetryGroup
from equiflow.theories.scalar import observables
from tests.support.free_field import free_expectations
from tests.support.oracles import flat, free_samples
from tests.support.strategies import configurations, lattices, seeds

EVEN = [
    observables.abs_magnetisation,
    observables.phi_squared,
    observables.phi_fourth,
    observables.susceptibility,
    observables.nearest_neighbour,
]
LATTICES = [(5,), (6,), (3, 4), (4, 4), (2, 3, 3)]


def violation(observable: Callable[[Tensor], Tensor], group: SymmetryGroup) -> float:
    phi = configurations(group.lattice)
    moved = [observable(g(phi)) - observable(phi) for g in group.generators().values()]
    return float(torch.stack(moved).abs().max())


@pytest.mark.parametrize("observable", EVEN)
@given(lattices())
def test_even_observables_are_invariant_under_the_whole_group(observable, lattice):
    assert violation(observable, SymmetryGroup(lattice)) < 1e-12


@given(lattices())
def test_magnetisation_is_invariant_and_odd(lattice):
    assert violation(observables.magnetisation, SymmetryGroup(lattice, z2=False)) < 1e-14
    phi = configurations(lattice)
    torch.testing.assert_close(observables.magnetisation(-phi), -observables.magnetisation(phi))


@pytest.mark.parametrize(
    "one_sided",
    [
        lambda phi: (phi * phi.roll(1, 1)).mean((1, 2)),  # one direction only
        lambda phi: (phi[:, :-1] * phi[:, 1:]).mean((1, 2)),  # not periodic
        observables.magnetisation,  # odd
    ],
)
def test_invariance_check_sees_broken_observables(one_sided):
    assert violation(one_sided, SymmetryGroup(Lattice((4, 4)))) > 1e-3


@given(lattices(max_volume=30), seeds)
def test_two_point_is_the_double_loop_over_sites(lattice, seed):
    phi = configurations(lattice, n=2, seed=seed)
    sites = list(itertools.product(*map(range, lattice.shape)))
    loop = torch.zeros_like(phi)
    for x, y in itertools.product(sites, sites):
        there = tuple((a + b) % side for a, b, side in zip(x, y, lattice.shape, strict=True))
        loop[(..., *x)] += phi[(..., *y)] * phi[(..., *there)] / lattice.volume
    torch.testing.assert_close(observables.two_point(phi), loop, rtol=1e-12, atol=1e-12)


@given(lattices(), seeds)
def test_susceptibility_is_the_sum_of_the_two_point_function(lattice, seed):
    phi = configurations(lattice, seed=seed)
    total = observables.two_point(phi).sum(lattice.axes)
    torch.testing.assert_close(observables.susceptibility(phi), total, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        observables.zero_momentum_correlator(phi).sum(1), total, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("shape", LATTICES)
def test_axis_two_point_is_the_two_point_function_on_an_axis(shape):
    phi = configurations(Lattice(shape))
    for axis, side in enumerate(shape):
        found = observables.axis_two_point(phi, axis)
        shifted = [(phi * phi.roll(-t, axis + 1)).flatten(1).mean(1) for t in range(side)]
        torch.testing.assert_close(found, torch.stack(shifted, 1), rtol=1e-12, atol=1e-13)


@given(lattices(), seeds)
def test_structure_factor_is_the_fft_power_at_the_smallest_momentum(lattice, seed):
    phi = configurations(lattice, seed=seed)
    power = torch.fft.fftn(phi, dim=lattice.axes).abs().square() / lattice.volume
    for axis, side in enumerate(lattice.shape):
        smallest = tuple(int(other == axis and side > 1) for other in range(lattice.dim))
        expected = power[(..., *smallest)]
        torch.testing.assert_close(observables.structure_factor(phi, axis), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("axis", [-1, 2])
def test_an_axis_off_the_lattice_is_refused(axis):
    with pytest.raises((ValueError, IndexError)):
        observables.zero_momentum_correlator(configurations(Lattice((4, 4))), axis)


@pytest.mark.parametrize("shape", LATTICES)
def test_constant_field_has_exact_values(shape):
    lattice = Lattice(shape)
    phi, c = flat(lattice, -1.5, 2), 1.5
    for observable, value in zip(EVEN, (c, c**2, c**4, lattice.volume * c**2, c**2), strict=True):
        torch.testing.assert_close(observable(phi), torch.full((2,), value))
    torch.testing.assert_close(observables.magnetisation(phi), torch.full((2,), -c))
    torch.testing.assert_close(observables.two_point(phi), flat(lattice, c**2, 2))
    assert float(observables.structure_factor(phi).abs().max()) < 1e-12


@pytest.mark.parametrize("shape", [(5,), (6,), (4, 3), (5, 4)])
def test_plane_wave_has_exact_values(shape):
    lattice = Lattice(shape)
    k = 2 * math.pi / shape[0]
    phi = torch.cos(k * torch.arange(shape[0])).reshape(1, -1, *[1] * (lattice.dim - 1)).expand(1, *shape)
    along_and_across = [math.cos(k), *[1.0] * (lattice.dim - 1)]
    expected = 0.5 * sum(along_and_across) / lattice.dim
    assert float(observables.magnetisation(phi)) == pytest.approx(0, abs=1e-15)
    assert float(observables.phi_squared(phi)) == pytest.approx(0.5)
    assert float(observables.nearest_neighbour(phi)) == pytest.approx(expected)
    assert float(observables.structure_factor(phi)) == pytest.approx(lattice.volume / 4)


def deviations(sample_of: FreeScalar, action: FreeScalar) -> list[float]:
    phi = free_samples(sample_of, 20_000)
    ensemble = Ensemble(phi, torch.zeros(len(phi)), torch.zeros(len(phi)))
    return [ensemble.mean(o).sigmas_from(truth) for o, truth in free_expectations(action).items()]


@pytest.mark.parametrize("shape", LATTICES)
def test_free_field_expectations_are_the_closed_form(shape):
    action = FreeScalar(Lattice(shape), m2=0.4)
    assert max(map(abs, deviations(action, action))) < 4
    lighter = FreeScalar(Lattice(shape), m2=0.34)
    assert sorted(map(abs, deviations(lighter, action)))[-3] > 4


@pytest.mark.parametrize("shape", LATTICES)
def test_free_two_point_function_is_the_transform_of_the_spectrum(shape):
    action = FreeScalar(Lattice(shape), m2=0.4)
    values = observables.two_point(free_samples(action, 20_000))
    exact = torch.fft.ifftn(action.mode_variance()).real
    error = values.std(0) / math.sqrt(len(values))
    assert float(((values.mean(0) - exact) / error).abs().max()) < 4.5
