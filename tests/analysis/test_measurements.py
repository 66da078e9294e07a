"""`measure`: free fields in closed form, several components, and observables of one's own."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import asdict, replace

import pytest
import torch

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
    measure,
)
from equiflow.analysis import Observable
from equiflow.oracles import free_two_point
from equiflow.theories.scalar import observables
from tests.support.free_field import as_chain, as_ensemble, free_correlator, free_expectations, free_truth
from tests.support.oracles import free_samples
from tests.support.strategies import configurations


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
    """Return weighted configurations with the free field's averages of polynomials of degree 2.

    There are two for each eigenvector of the action, of either sign and of the size of its variance. On four
    sites a rule of degree 5 (McNamee, Stenger 1967) has positive weights and takes their place.
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
    lattice = Lattice(shape)
    measured = measure(as_ensemble(configurations(lattice, n=100)), space=lattice)
    assert math.isnan(measured.pole_mass.mean)
    assert math.isnan(measured.mass_times_length.mean)
    for name, estimate in measured.scalars().items():
        if name not in ("pole_mass", "mass_times_length", "correlation_length"):
            assert math.isfinite(estimate.mean)
            assert estimate.error > 0


def test_a_side_of_one_has_no_correlation_length():
    lattice = Lattice((1, 4))
    measured = measure(as_ensemble(configurations(lattice, n=100)), space=lattice)
    assert math.isnan(measured.correlation_length.mean)


def test_products_of_several_components_are_scalar_products():
    multiplet = Multiplet(Lattice((3, 4)), 2)
    action = ONModel(multiplet, m2=1.0, lam=1.0)
    phi = 1 + torch.linspace(0.5, 1.5, 2)[:, None, None] * configurations(multiplet, 200)
    measured, by_space = measure(as_chain(phi), action=action), measure(as_chain(phi), space=multiplet)
    first, second = (measure(as_chain(phi[:, a]), space=multiplet.lattice) for a in range(2))
    for name in ("susceptibility", "phi_squared", "nearest_neighbour", "structure_factor"):
        total = getattr(first, name).mean + getattr(second, name).mean
        assert getattr(measured, name).mean == pytest.approx(total, rel=1e-12), name
        assert getattr(by_space, name) == getattr(measured, name)
    for total, *parts in zip(measured.correlator, first.correlator, second.correlator, strict=True):
        assert total.mean == pytest.approx(sum(part.mean for part in parts), rel=1e-12)
    assert measured.moments[0] == first.moments[0]
    assert measured.action_density.mean == pytest.approx(float(action(phi).mean()) / 12, rel=1e-12)
    # The counter-example: the same numbers as a scalar field in three dimensions.
    wrong = measure(as_chain(phi), space=Lattice((2, 3, 4)))
    assert wrong.nearest_neighbour.mean < 0.6 * measured.nearest_neighbour.mean


def test_turned_components_measure_the_same():
    multiplet = Multiplet(Lattice((4, 4)), 3)
    phi = 0.3 + configurations(multiplet, 100)
    turn = MultipletGroup(multiplet).generators()["O(N) rotation of axes 0 and 1"]
    one, other = (measure(as_ensemble(x), space=multiplet).scalars() for x in (phi, turn(phi)))
    for name, estimate in one.items():
        same = estimate.mean == pytest.approx(other[name].mean, rel=1e-10, nan_ok=True)
        assert same == (name != "magnetisation"), name  # of the first component


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


def digits(measured: object) -> str:
    """Return all standard results with all their digits, NaN included."""
    return repr({name: value for name, value in vars(measured).items() if name not in ("own", "read_as")})


def test_not_a_bit_of_the_others_depends_on_the_action_or_on_observables_of_one_s_own():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    own = Observable("kurtosis", observables.phi_fourth)
    for source in (as_ensemble, as_chain):
        samples = source(free_samples(action, 1000))
        plain = measure(samples)
        assert plain.action_density is None
        assert replace(measure(samples, action=action), action_density=None) == plain
        assert digits(measure(samples, observables=[own])) == digits(plain)


def test_observables_of_one_s_own_are_found_by_name_and_in_print():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    ratio = Observable(
        "ratio", (observables.phi_squared, observables.phi_fourth), lambda second, fourth: fourth / second**2
    )
    sites = Observable("first sites", lambda phi: phi.flatten(1)[:, :2])
    measured = measure(as_chain(free_samples(action, 2000)), action=action, observables=[ratio, sites])
    assert abs(measured["ratio"].sigmas_from(3.0)) < 4
    assert list(measured.scalars())[-1] == "ratio"
    assert measured["binder"] is measured.binder
    assert measured["first sites"] == measured.own["first sites"]
    rows = dict(line.split("  ", 1) for line in str(measured).splitlines())
    assert len(rows) == len(measured.scalars()) + 3  # two sites and the fit
    for name, shown in (
        ("susceptibility", measured.susceptibility),
        ("ratio", measured["ratio"]),
        ("first sites[1]", measured["first sites"][1]),
        ("mass_fit", measured.mass_fit),
    ):
        assert rows[name].strip() == str(shown)
    with pytest.raises(KeyError):
        measured["nothing"]
    with pytest.raises(KeyError):
        measure(as_chain(free_samples(action, 2000)))["action_density"]


def test_results_are_plain_values():
    own = Observable("own one", observables.phi_squared)
    measured = measure(as_ensemble(configurations(Lattice((4, 4)), 50)), observables=[own])
    again = pickle.loads(pickle.dumps(measured))
    assert (repr(again), again.own) == (repr(measured), measured.own)
    assert asdict(measured)["own"]["own one"] == asdict(measured["own one"])
    assert hash(measured) == hash(replace(measured, own={}))


@pytest.mark.parametrize("name", ["binder", "own", "mass_fit"])
def test_names_of_the_standard_results_are_taken(name):
    phi = configurations(Lattice((4, 4)), 8)
    with pytest.raises(ValueError, match=f"another observable called '{name}'"):
        measure(as_ensemble(phi), observables=[Observable(name, observables.phi_squared)])


def test_what_are_no_samples_is_refused():
    with pytest.raises(TypeError, match="Give an Ensemble or a Chain"):
        measure(configurations(Lattice((4, 4)), 8))


@pytest.mark.parametrize(
    "few", [as_ensemble(torch.ones(1, 4)), Chain(torch.ones(3, 1, 4), torch.ones(3, 1))], ids=["one", "three"]
)
def test_too_few_samples_for_an_error_are_refused(few):
    with pytest.raises(ValueError, match="An error needs"):
        measure(few)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("source", [as_ensemble, as_chain])
def test_configurations_that_are_no_numbers_are_refused(source, bad):
    phi = configurations(Lattice((4, 4)), 100)
    phi[3, 1, 2] = bad
    with pytest.raises(ValueError, match="configurations, or their action, have NaN or infinite values"):
        measure(source(phi))


def test_the_fit_of_the_mass_has_the_error_of_the_pole_mass_and_says_if_it_is_bad():
    lattice = Lattice((32,))
    light, heavy = (FreeScalar(lattice, m2=m2) for m2 in (0.1, 6.0))
    one_state = measure(as_chain(free_samples(light, 20_000)))
    two_states = measure(
        as_chain(free_samples(light, 20_000) + 1.5 * free_samples(heavy, 20_000, seed=1)), t_min=1
    )
    for measured, bad in ((one_state, False), (two_states, True)):
        assert measured.mass_fit.mass == measured.pole_mass
        assert (measured.mass_fit.p_value < 0.01) == bad
        for shown in (measured.pole_mass, measured.mass_times_length, measured.mass_fit):
            assert ("bad fit" in str(shown)) == bad
