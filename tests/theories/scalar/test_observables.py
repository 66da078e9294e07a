from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import (
    Chain,
    Ensemble,
    Estimate,
    FreeScalar,
    Lattice,
    Multiplet,
    MultipletGroup,
    ONModel,
    Particles,
    SymmetryGroup,
    measure,
)
from equiflow.analysis.correlators import effective_mass, fit_cosh, second_moment_length
from equiflow.oracles import free_two_point
from equiflow.theories.scalar import observables
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
    correlator, mass = free_correlator(side, m2), math.acosh(1 + m2 / 2)
    assert torch.stack(effective_mass(correlator)).tolist() == pytest.approx([mass] * (side // 2), rel=1e-9)
    assert float(second_moment_length(correlator)) == pytest.approx(m2**-0.5, rel=1e-9)
    fit = fit_cosh(correlator, correlated_noise(side))
    assert fit.mass.mean == pytest.approx(mass, rel=1e-8)
    # C(t) = sum_n exp(-m |t + n side|) / (4 sinh m)
    assert fit.amplitude.mean == pytest.approx(
        1 / (4 * math.sinh(mass) * (1 - math.exp(-mass * side))), rel=1e-8
    )
    assert fit.chi2 < 1e-12
    assert fit.dof == side // 2 - max(1, side // 4) - 1


def correlated_noise(side: int, size: float = 1e-4) -> Tensor:
    """A covariance with neighbours as correlated as those of a correlator."""
    distance = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    return size**2 * (torch.exp(-distance.double() / 4) + 0.5)


@pytest.mark.parametrize("correlated", [True, False])
def test_chi2_and_error_of_the_mass_need_the_correlations(correlated):
    exact, covariance = free_correlator(24, 0.3), correlated_noise(24)
    noise = torch.randn(300, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise @ torch.linalg.cholesky(covariance).T
    assumed = covariance if correlated else covariance.diagonal().diag()
    fits = [fit_cosh(exact + one, assumed) for one in noise]
    chi2, dof = sum(fit.chi2 for fit in fits) / 300, fits[0].dof
    covered = sum(abs(fit.mass.sigmas_from(math.acosh(1.15))) < 1 for fit in fits) / 300
    sound = abs(chi2 / dof - 1) < 4 * math.sqrt(2 / dof / 300) and 0.60 < covered < 0.76
    assert sound == correlated


def test_two_states_are_no_single_one_and_a_later_window_is():
    t = torch.arange(32) - 16.0
    mixed = torch.cosh(0.3 * t) + 1e-6 * torch.cosh(1.2 * t)
    early, late = (fit_cosh(mixed, correlated_noise(32, 1e-3), t_min=t_min) for t_min in (1, 12))
    assert early.p_value < 1e-6
    assert late.p_value > 0.9
    assert late.mass.mean == pytest.approx(0.3, abs=0.01)
    assert effective_mass(mixed)[0] > 0.6


def test_the_slope_of_the_fit_is_its_derivative():
    correlator, covariance = free_correlator(12, 0.5), correlated_noise(12)
    step = 1e-6 * torch.eye(12, dtype=torch.float64)
    plus, minus = ([fit_cosh(correlator + s * e, covariance).mass.mean for e in step] for s in (1, -1))
    difference = (torch.tensor(plus) - torch.tensor(minus)).double() / 2e-6
    torch.testing.assert_close(difference, fit_cosh(correlator, covariance).slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("correlator", "covariance"),
    [
        (torch.ones(3), torch.eye(3)),  # one point
        (torch.ones(8), torch.eye(8)),  # no decay
        (-free_correlator(8, 1.0), torch.eye(8)),  # no state has it
        (free_correlator(8, 1.0), torch.ones(8, 8)),  # no inverse
        (free_correlator(8, 1.0), math.nan * torch.eye(8)),
    ],
)
def test_where_no_mass_fits_it_is_not_a_number(correlator, covariance):
    fit = fit_cosh(correlator, covariance)
    assert math.isnan(fit.mass.mean)
    assert math.isnan(fit.mass.error)
    assert math.isnan(fit.p_value)


@pytest.mark.parametrize("t_min", [-1, 5])
def test_a_window_off_the_correlator_is_refused(t_min):
    with pytest.raises(ValueError, match="t_min"):
        fit_cosh(free_correlator(8, 1.0), torch.eye(8), t_min=t_min)


def as_ensemble(phi: Tensor, log_weight: Tensor | None = None) -> Ensemble:
    log_weight = torch.zeros(len(phi)) if log_weight is None else log_weight
    return Ensemble(phi, torch.zeros(len(phi)), log_weight)


def as_chain(phi: Tensor) -> Chain:
    return Chain(phi.unflatten(0, (-1, 50)), torch.ones(len(phi) // 50, 50))


def free_truth(action: FreeScalar) -> dict[str, float]:
    """The scalars of `Measurements` in closed form."""
    exact, shape = free_expectations(action), action.lattice.shape
    mass = math.acosh(1 + action.m2 / 2)
    abs_m, chi = exact[observables.abs_magnetisation], exact[observables.susceptibility]
    return {
        "abs_magnetisation": abs_m,
        "susceptibility": chi,
        "connected_susceptibility": chi - action.lattice.volume * abs_m**2,
        "phi_squared": exact[observables.phi_squared],
        "phi_fourth": exact[observables.phi_fourth],
        "nearest_neighbour": exact[observables.nearest_neighbour],
        "action_density": 0.5,  # half per mode
        "binder": 0.0,
        "structure_factor": exact[observables.structure_factor],
        "correlation_length": action.m2**-0.5,
        "pole_mass": mass,
        "mass_times_length": mass * shape[0],
    }


@pytest.mark.parametrize("shape", [(6,), (4, 4), (4, 6), (6, 4), (4, 3, 4)])
@pytest.mark.parametrize("source", [as_ensemble, as_chain])
def test_measurements_of_the_free_field_are_the_closed_form(shape, source):
    action = FreeScalar(Lattice(shape), m2=0.8)
    measured = measure(source(free_samples(action, 20_000)), action=action)
    truth = free_truth(action)
    assert measured.scalars().keys() == truth.keys()
    for name, estimate in measured.scalars().items():
        assert abs(estimate.sigmas_from(truth[name])) < 4, name
        assert 0 < estimate.error < 0.1 * (1 + abs(truth[name])), name
    zero = truth["abs_magnetisation"] ** 2 * action.lattice.volume / shape[0]
    two_point = free_two_point(action)
    for found, exact in (
        (measured.correlator, free_correlator(shape[0], 0.8)),
        (measured.connected_correlator, free_correlator(shape[0], 0.8) - zero),
        (measured.two_point, two_point[(slice(None), *[0] * (len(shape) - 1))]),
        (measured.effective_mass, torch.full((shape[0] // 2,), truth["pole_mass"])),
        (measured.moments[::2], torch.zeros(2)),
    ):
        assert len(found) == len(exact)
        assert max(abs(e.sigmas_from(x)) for e, x in zip(found, exact.tolist(), strict=True)) < 4


def gaussian_cubature(action: FreeScalar) -> Ensemble:
    """Weighted configurations whose averages of polynomials of degree 2 are those of the free field.

    One for each eigenvector of the action, with the sign and size that its variance asks for. On four
    sites a rule of degree 5 (McNamee, Stenger 1967) has positive weights, and is taken.
    """
    volume = action.lattice.volume
    unit = torch.eye(volume, dtype=torch.float64)
    two_point, shape = free_two_point(action), action.lattice.shape
    axes = tuple(range(len(shape)))
    rows = [two_point.roll(x, axes).flatten() for x in itertools.product(*map(range, shape))]
    values, vectors = torch.linalg.eigh(torch.stack(rows))
    root = vectors * values.sqrt()
    if volume == 4:
        pairs = [
            s * unit[i] + r * unit[j]
            for i, j in itertools.combinations(range(4), 2)
            for s in (1, -1)
            for r in (1, -1)
        ]
        nodes = torch.cat([torch.zeros(1, 4), math.sqrt(3) * torch.stack(pairs)]).double()
        weight = torch.tensor([1 / 3, *[1 / 36] * 24]).double()
    else:
        nodes = math.sqrt(volume) * torch.cat([unit, -unit])
        weight = torch.full((2 * volume,), 0.5 / volume).double()
    phi = (nodes @ root.T).reshape(-1, *action.lattice.shape)
    return as_ensemble(phi, weight.log())


@pytest.mark.parametrize("shape", [(4,), (2, 2), (8,), (5, 3), (6, 6), (4, 3, 2)])
def test_exact_averages_give_exact_observables(shape):
    action = FreeScalar(Lattice(shape), m2=0.7)
    measured, truth = measure(gaussian_cubature(action), action=action), free_truth(action)
    if shape[0] < 4:
        truth |= dict.fromkeys(("pole_mass", "mass_times_length"), math.nan)
    beyond = {"abs_magnetisation", "connected_susceptibility"}  # no polynomials
    beyond |= set() if action.lattice.volume == 4 else {"phi_fourth", "binder"}
    for name, estimate in measured.scalars().items():
        same = estimate.mean == pytest.approx(truth[name], rel=1e-7, abs=1e-9, nan_ok=True)
        assert same == (name not in beyond), name
    correlator = [estimate.mean for estimate in measured.correlator]
    assert correlator == pytest.approx(free_correlator(shape[0], 0.7).tolist(), rel=1e-9)
    masses = [estimate.mean for estimate in measured.effective_mass]
    assert masses == pytest.approx([math.acosh(1.35)] * (shape[0] // 2), rel=1e-8)


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


def test_products_of_several_components_are_scalar_products():
    multiplet = Multiplet(Lattice((3, 4)), 2)
    action = ONModel(multiplet, m2=1.0, lam=1.0)
    phi = 1 + torch.linspace(0.5, 1.5, 2)[:, None, None] * configurations(multiplet, 200)
    measured, by_space = measure(as_chain(phi), action=action), measure(as_chain(phi), space=multiplet)
    first, second = (measure(as_chain(phi[:, a])) for a in range(2))
    for name in ("susceptibility", "phi_squared", "nearest_neighbour", "structure_factor"):
        total = getattr(first, name).mean + getattr(second, name).mean
        assert getattr(measured, name).mean == pytest.approx(total, rel=1e-12), name
        assert getattr(by_space, name) == getattr(measured, name)
    for total, *parts in zip(measured.correlator, first.correlator, second.correlator, strict=True):
        assert total.mean == pytest.approx(sum(part.mean for part in parts), rel=1e-12)
    assert measured.moments[0] == first.moments[0]
    assert measured.action_density.mean == pytest.approx(float(action(phi).mean()) / 12, rel=1e-12)
    # Taken for a scalar field in three dimensions the same numbers mean something else.
    assert measure(as_chain(phi)).nearest_neighbour.mean < 0.6 * measured.nearest_neighbour.mean


def test_turned_components_measure_the_same():
    multiplet = Multiplet(Lattice((4, 4)), 3)
    phi = 0.3 + configurations(multiplet, 100)
    turn = MultipletGroup(multiplet).generators()["O(N) rotation of axes 0 and 1"]
    one, other = (measure(as_ensemble(x), space=multiplet).scalars() for x in (phi, turn(phi)))
    for name, estimate in one.items():
        assert estimate.mean == pytest.approx(other[name].mean, rel=1e-10, nan_ok=True), name


def test_one_component_is_a_scalar_field():
    phi = configurations(Lattice((4, 4)), 100)
    one, other = (
        measure(as_ensemble(phi)),
        measure(as_ensemble(phi.unsqueeze(1)), space=Multiplet(Lattice((4, 4)), 1)),
    )
    assert [str(e) for e in one.scalars().values()] == [str(e) for e in other.scalars().values()]


def test_configurations_of_another_space_are_refused():
    phi = configurations(Lattice((4, 4)), 8)
    with pytest.raises(ValueError, match=r"shape \(4, 4\), expected those of Multiplet"):
        measure(as_ensemble(phi), space=Multiplet(Lattice((4, 4)), 2))
    with pytest.raises(TypeError, match="field on a lattice"):
        measure(as_ensemble(phi), space=Particles(4, 4))


def test_chain_and_ensemble_of_the_same_samples_agree():
    phi = free_samples(FreeScalar(Lattice((4, 4)), m2=1.0), 1000)
    one, other = measure(as_ensemble(phi)), measure(as_chain(phi))
    for name, estimate in one.scalars().items():
        assert estimate.mean == pytest.approx(other.scalars()[name].mean, rel=1e-10), name
