from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from oracles import flat, free_samples
from strategies import configurations, lattices, seeds
from torch import Tensor

from equiflow import Chain, Ensemble, Estimate, FreeScalar, Lattice, SymmetryGroup, measure, observables
from equiflow.samplers.measurements import pole_mass, second_moment_length

EVEN = [
    observables.abs_magnetisation,
    observables.phi_squared,
    observables.phi_fourth,
    observables.susceptibility,
    observables.nearest_neighbour,
]
LATTICES = [(5,), (6,), (3, 4), (4, 4), (2, 3, 3)]


def momenta(lattice: Lattice) -> Tensor:
    """`2 pi n / side` on the full momentum grid, `(d, *lattice)`."""
    axes = [2 * math.pi * torch.arange(side) / side for side in lattice.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).double()


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


def free_expectations(action: FreeScalar) -> dict[Callable[[Tensor], Tensor], float]:
    lattice, variance = action.lattice, action.mode_variance()
    square = float(variance.mean())
    zero = float(variance.flatten()[0])
    cosine = momenta(lattice).cos().mean(0)
    smallest = (1,) + (0,) * (lattice.dim - 1)
    return {
        observables.magnetisation: 0.0,
        observables.abs_magnetisation: math.sqrt(2 * zero / (math.pi * lattice.volume)),
        observables.phi_squared: square,
        observables.phi_fourth: 3 * square**2,
        observables.susceptibility: zero,
        observables.nearest_neighbour: float((variance * cosine).mean()),
        observables.structure_factor: float(variance[smallest]),
    }


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


def free_correlator(side: int, m2: float) -> Tensor:
    return torch.fft.ifft(FreeScalar(Lattice((side,)), m2=m2).mode_variance()).real


@pytest.mark.parametrize("side", [4, 5, 6, 9, 16])
@pytest.mark.parametrize("m2", [0.1, 1.0, 3.0])
def test_masses_of_a_free_correlator_are_exact(side, m2):
    correlator = free_correlator(side, m2)
    assert float(pole_mass(correlator)) == pytest.approx(math.acosh(1 + m2 / 2), rel=1e-9)
    assert float(second_moment_length(correlator)) == pytest.approx(m2**-0.5, rel=1e-9)


@pytest.mark.parametrize("side", [4, 7, 12])
def test_pole_mass_of_a_cosh_is_exact_and_of_two_is_not(side):
    t = torch.arange(side) - side / 2
    assert float(pole_mass(torch.cosh(0.7 * t))) == pytest.approx(0.7, rel=1e-12)
    mixed = torch.cosh(0.7 * t) + 0.1 * torch.cosh(2 * t)
    assert float(pole_mass(mixed)) > 0.75


@pytest.mark.parametrize("side", [1, 2, 3])
def test_pole_mass_needs_four_slices(side):
    assert math.isnan(pole_mass(torch.ones(side)))


def as_ensemble(phi: Tensor, log_weight: Tensor | None = None) -> Ensemble:
    log_weight = torch.zeros(len(phi)) if log_weight is None else log_weight
    return Ensemble(phi, torch.zeros(len(phi)), log_weight)


def as_chain(phi: Tensor) -> Chain:
    return Chain(phi.unflatten(0, (-1, 50)), torch.ones(len(phi) // 50, 50))


@pytest.mark.parametrize("shape", [(6,), (4, 4), (4, 6), (6, 4), (4, 3, 4)])
@pytest.mark.parametrize("source", [as_ensemble, as_chain])
def test_measurements_of_the_free_field_are_the_closed_form(shape, source):
    action = FreeScalar(Lattice(shape), m2=0.8)
    measured = measure(source(free_samples(action, 20_000)))
    exact = free_expectations(action)
    mass = math.acosh(1 + 0.8 / 2)
    truth = {
        "abs_magnetisation": exact[observables.abs_magnetisation],
        "susceptibility": exact[observables.susceptibility],
        "phi_squared": exact[observables.phi_squared],
        "nearest_neighbour": exact[observables.nearest_neighbour],
        "binder": 0.0,
        "correlation_length": 0.8**-0.5,
        "pole_mass": mass,
        "mass_times_length": mass * shape[0],
    }
    assert measured.scalars().keys() == truth.keys()
    for name, estimate in measured.scalars().items():
        assert abs(estimate.sigmas_from(truth[name])) < 4, name
        assert 0 < estimate.error < 0.1 * (1 + abs(truth[name])), name
    correlator = free_correlator(shape[0], 0.8)
    assert len(measured.correlator) == shape[0]
    for estimate, exact_value in zip(measured.correlator, correlator.tolist(), strict=True):
        assert abs(estimate.sigmas_from(exact_value)) < 4


def test_reweighting_turns_one_free_field_into_another():
    light, heavy = (FreeScalar(Lattice((4, 4)), m2=m2) for m2 in (1.0, 1.2))
    phi = free_samples(light, 20_000)
    weighted = measure(as_ensemble(phi, light(phi) - heavy(phi)))
    plain = measure(as_ensemble(phi))
    truth = free_expectations(heavy)[observables.phi_squared]
    assert abs(weighted.phi_squared.sigmas_from(truth)) < 4
    assert abs(weighted.correlation_length.sigmas_from(1.2**-0.5)) < 4
    assert abs(plain.phi_squared.sigmas_from(truth)) > 10


def test_errors_of_measurements_are_their_scatter():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    runs = [measure(as_ensemble(free_samples(action, 400, seed=seed))) for seed in range(100)]
    for name in ("abs_magnetisation", "binder", "nearest_neighbour", "correlation_length"):
        values: list[Estimate] = [run.scalars()[name] for run in runs]
        scatter = torch.tensor([v.mean for v in values]).std()
        claimed = torch.tensor([v.error for v in values]).mean()
        # The scatter of 100 values is known to 7 %.
        assert float(claimed / scatter) == pytest.approx(1, abs=0.28), name


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 3), (1, 4), (2, 3), (2, 2, 2)])
def test_a_side_shorter_than_four_has_no_pole_mass_and_no_crash(shape):
    measured = measure(as_ensemble(configurations(Lattice(shape), n=100)))
    assert math.isnan(measured.pole_mass.mean)
    assert math.isnan(measured.mass_times_length.mean)
    for name, estimate in measured.scalars().items():
        if name not in ("pole_mass", "mass_times_length", "correlation_length"):
            assert math.isfinite(estimate.mean)
            assert estimate.error > 0


def test_a_side_of_one_has_no_correlation_length():
    measured = measure(as_ensemble(configurations(Lattice((1, 4)), n=100)))
    assert math.isnan(measured.correlation_length.mean)


def test_chain_and_ensemble_of_the_same_samples_agree():
    phi = free_samples(FreeScalar(Lattice((4, 4)), m2=1.0), 1000)
    one, other = measure(as_ensemble(phi)), measure(as_chain(phi))
    for name, estimate in one.scalars().items():
        assert estimate.mean == pytest.approx(other.scalars()[name].mean, rel=1e-10), name
