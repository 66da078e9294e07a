"""Observables of links: against explicit products, bounds, symmetry of the centre, charges made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from equiflow import HMC, Chain, EquivariantCNF, Lattice, Links, WilsonAction, importance_sample
from equiflow.analysis import Observable, estimate_observables, measure, measure_standard
from equiflow.oracles import gauge_torus
from equiflow.theories.gauge.observables import (
    creutz_ratio,
    loops_of_creutz_ratio,
    plaquette,
    polyakov_loop,
    theta_factor,
    topological_charge,
    topological_susceptibility,
    wilson_loop,
)
from equiflow.theories.gauge.sectors import uniform_flux
from tests.support.gauge import GROUPS, every_links, rng

SHAPE = (3, 4)


def matrices(links: Links, u: torch.Tensor) -> torch.Tensor:
    """Return links as matrices `(batch, direction, *lattice, N, N)`, phases for U(1)."""
    return torch.exp(1j * u)[..., None, None] if links.is_flat else u


def by_hand(links: Links, u: torch.Tensor, r: int, t: int, mu: int = 0, nu: int = 1) -> torch.Tensor:
    """Return the mean over x of the loop with r links along mu and t along nu, link by link."""
    m, total = matrices(links, u), 0.0
    sides = links.lattice.shape
    n = m.shape[-1]
    for x in torch.cartesian_prod(*(torch.arange(side) for side in sides)).tolist():
        at, product = list(x), torch.eye(n, dtype=torch.complex128).expand(len(u), n, n)
        for axis, sign, steps in ((mu, 1, r), (nu, 1, t), (mu, -1, r), (nu, -1, t)):
            for _ in range(steps):
                if sign < 0:
                    at[axis] = (at[axis] - 1) % sides[axis]
                link = m[(slice(None), axis, *at)]
                product = product @ (link if sign > 0 else link.mH)
                if sign > 0:
                    at[axis] = (at[axis] + 1) % sides[axis]
        total = total + torch.einsum("bii->b", product).real / n
    return total / links.lattice.volume


@pytest.mark.parametrize("group", GROUPS)
def test_loops_are_products_of_links(group):
    links = Links(Lattice(SHAPE), group)
    u = links.probes(2, rng())
    torch.testing.assert_close(plaquette(links)(u), by_hand(links, u, 1, 1), rtol=0, atol=1e-13)
    both = (by_hand(links, u, 2, 1) + by_hand(links, u, 1, 2)) / 2
    torch.testing.assert_close(wilson_loop(links, 2, 1)(u), both, rtol=0, atol=1e-13)
    torch.testing.assert_close(wilson_loop(links, 1, 2)(u), both, rtol=0, atol=1e-13)
    assert float((by_hand(links, u, 2, 1) - by_hand(links, u, 1, 2)).abs().max()) > 1e-3


@pytest.mark.parametrize("group", GROUPS[:3])
def test_loops_are_averaged_over_all_planes(group):
    links = Links(Lattice((2, 3, 2)), group)
    u = links.probes(2, rng())
    planes = [by_hand(links, u, 1, 1, mu, nu) for mu, nu in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(plaquette(links)(u), sum(planes) / 3, rtol=0, atol=1e-13)


@settings(max_examples=20)
@given(every_links())
def test_loops_are_at_most_one(links):
    u = links.probes(3, rng())
    for loop in (plaquette(links), wilson_loop(links, 2, 3)):
        assert float(loop(u).abs().max()) <= 1 + 1e-12
        assert loop(u).shape == (3,)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("axis", [0, 1])
def test_polyakov_loops_are_products_around_the_lattice_and_see_the_centre(group, axis):
    links = Links(Lattice(SHAPE), group)
    u = links.probes(2, rng())
    m = matrices(links, u)[:, axis].movedim(axis + 1, 1)  # (batch, along, across, N, N)
    product = m[:, 0]
    for t in range(1, SHAPE[axis]):
        product = product @ m[:, t]
    trace = torch.einsum("bxii->bx", product).mean(1) / links.lie.n
    real, imaginary, squared = polyakov_loop(links, axis)(u).unbind(1)
    torch.testing.assert_close(real, trace.real, rtol=0, atol=1e-13)
    torch.testing.assert_close(imaginary, trace.imag, rtol=0, atol=1e-13)
    torch.testing.assert_close(squared, trace.abs().square(), rtol=0, atol=1e-13)
    # One layer of links times an element of the centre: loops turn, plaquettes stay.
    phase = 2 * math.pi / links.lie.n if links.lie.n > 1 else 1.0
    turned = u.clone()
    layer = (slice(None), axis, *(0 if a == axis else slice(None) for a in range(2)))
    turned[layer] = (
        u[layer] + phase if links.is_flat else u[layer] * complex(math.cos(phase), math.sin(phase))
    )
    again = polyakov_loop(links, axis)(turned)
    expected = trace * complex(math.cos(phase), math.sin(phase))
    torch.testing.assert_close(torch.complex(again[:, 0], again[:, 1]), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(plaquette(links)(turned), plaquette(links)(u), rtol=0, atol=1e-13)


@pytest.mark.parametrize("charge", [-3, 0, 2])
@pytest.mark.parametrize("shape", [(4, 5), (5, 5), (7, 3)])
def test_a_field_made_with_a_charge_has_it(charge, shape):
    links = Links(Lattice(shape), "U(1)")
    u = uniform_flux(links, torch.tensor([charge]))
    flux = 2 * math.pi * charge / links.lattice.volume
    assert float(topological_charge(links)(u)) == charge
    torch.testing.assert_close(plaquette(links)(u), torch.tensor([math.cos(flux)]))
    assert float(topological_susceptibility(links)(u)) == pytest.approx(charge**2 / math.prod(shape))
    assert float(theta_factor(links, 0.3)(u)) == pytest.approx(math.cos(0.3 * charge))


@pytest.mark.parametrize(
    ("links", "charge", "error"),
    [
        (Links(Lattice((4, 4)), "SU(2)"), torch.tensor([1]), "charge is defined for U"),
        (Links(Lattice((4, 4)), "U(1)"), torch.tensor([0.5]), "integers"),
        (Links(Lattice((4, 4)), "U(1)"), torch.tensor([8]), "below 8"),
        (Links(Lattice((4, 4)), "U(1)"), torch.tensor(1), "integers"),
    ],
)
def test_fields_of_impossible_charges_are_refused(links, charge, error):
    with pytest.raises(ValueError, match=error):
        uniform_flux(links, charge)


def test_the_charge_is_an_integer_and_ignores_full_turns():
    links = Links(Lattice((5, 6)), "U(1)")
    u = links.probes(500, rng())
    p = u[:, 0] + u[:, 1].roll(-1, 1) - u[:, 0].roll(-1, 2) - u[:, 1]
    raw = links.lie.nearest(p).sum((1, 2)) / (2 * math.pi)
    torch.testing.assert_close(raw, raw.round(), rtol=0, atol=1e-12)
    assert torch.equal(topological_charge(links)(u), raw.round())
    turns = 2 * math.pi * torch.randint(-2, 3, u.shape, generator=rng(1))
    assert torch.equal(topological_charge(links)(u + turns), raw.round())
    assert float(p.sum((1, 2)).abs().max()) < 1e-10  # without the folding nothing would be left


def test_creutz_ratios_are_the_string_tension_where_the_area_law_is_exact():
    links = Links(Lattice((6, 6)), "U(1)")
    action = WilsonAction(links, beta=1.5)
    chain = HMC(action).sample(150, n_chains=64, n_thermalisation=60, generator=rng(4))
    ratio = Observable("creutz", loops_of_creutz_ratio(links, 2, 2), creutz_ratio)
    first = Observable("first", loops_of_creutz_ratio(links, 1, 1), creutz_ratio)
    found = estimate_observables(chain, [ratio, first])
    exact = gauge_torus(action)
    loops = torch.tensor([exact.wilson_loop(n) for n in (4, 1, 2, 2)])
    assert abs(found["creutz"].sigmas_from(float(creutz_ratio(loops)))) < 3.5
    assert found["creutz"].error < 0.05
    assert abs(found["first"].sigmas_from(-math.log(exact.plaquette))) < 3.5
    assert float(creutz_ratio(loops)) == pytest.approx(-math.log(exact.plaquette), abs=1e-3)
    assert bool(creutz_ratio(torch.tensor([-0.1, 0.5, 0.4, 0.4])).isnan())


@pytest.mark.parametrize("group", GROUPS[:3])
def test_standard_observables_are_measured_on_chains(group):
    action = WilsonAction(Links(Lattice((4, 4)), group), beta=1.0)
    n_chains = 12 if group == "SU(3)" else 32
    chain = HMC(action, step_size=0.3).sample(30, n_chains=n_chains, generator=rng(5))
    found, exact = measure_standard(chain), gauge_torus(action)
    assert abs(found["plaquette"].sigmas_from(exact.plaquette)) < 4
    assert abs(found["wilson_loop_2x2"].sigmas_from(exact.wilson_loop(4))) < 4
    assert found["polyakov_loop_squared"].mean > 0
    assert ("topological_charge" in found) == (group == "U(1)")
    if group == "U(1)":
        chi = found["topological_susceptibility"]
        assert abs(chi.sigmas_from(exact.topological_susceptibility)) < 4


def test_links_are_measured_by_what_they_list():
    action = WilsonAction(Links(Lattice((3, 3)), "SU(2)"), beta=4.0)
    chain = HMC(action, step_size=0.3).sample(30, n_chains=16, n_thermalisation=20, generator=rng(5))
    found = measure_standard(chain)
    measured = measure(chain, action=action, observables=[Observable("own", plaquette(action.space))])
    assert {name: measured[name] for name in found} == found
    assert measured.own.mean == pytest.approx(measured.plaquette.mean, rel=1e-12)
    # There is a plaquette for each site.
    assert measured.action_density.mean == pytest.approx(-4.0 * measured.plaquette.mean, rel=1e-12)
    averages = [found[f"wilson_loop_{rt}"].mean for rt in ("2x2", "1x2")]
    ratio = -math.log(averages[0] * measured.plaquette.mean / averages[1] ** 2)
    assert measured.creutz_ratio_2x2.mean == pytest.approx(ratio, rel=1e-9)
    assert str(measured).startswith("plaquette ")
    with pytest.raises(AttributeError, match=r"no result 'binder'; known: plaquette"):
        _ = measured.binder
    with pytest.raises(TypeError, match="t_min is for the mass of real fields"):
        measure(chain, t_min=1)
    # Loops that vanish within noise have no ratio.
    hot = action.space.probes(100, rng(3))
    hot = hot[wilson_loop(action.space, 2, 2)(hot) < 0][:24].unflatten(0, (6, 4))
    hot = Chain(hot, torch.ones(6, 4), space=action.space)
    assert measure_standard(hot)["creutz_ratio_2x2"].note == "averages too noisy for it"


def test_ensembles_of_links_are_measured():
    links = Links(Lattice((3, 3)), "U(1)")
    action, flow = WilsonAction(links, beta=0.5), EquivariantCNF(links).double()
    ensemble = importance_sample(flow, action, 4096, certify=8, generator=rng(1))
    found, exact = measure(ensemble), gauge_torus(action)
    for name, expected in (
        ("plaquette", exact.plaquette),
        ("wilson_loop_1x2", exact.wilson_loop(2)),
        ("topological_charge", 0.0),
        ("topological_susceptibility", exact.topological_susceptibility),
    ):
        assert abs(found[name].sigmas_from(expected)) < 4
        assert 0 < found[name].error < 0.1
        assert "frozen" not in found[name].note
    # Without its weights the untrained flow has the average of the Haar measure.
    assert ensemble.mean(plaquette(links)).mean > 10 * found.plaquette.error


def test_a_frozen_charge_is_noted_on_every_result():
    links = Links(Lattice((8, 8)), "U(1)")
    # Each chain stays in a sector of its own.
    cold = uniform_flux(links, torch.tensor([0, 1, -1, 0])) + links.initial(4, rng(2))
    chain = HMC(WilsonAction(links, beta=9.0), step_size=0.1).sample(
        30, n_chains=4, initial=cold, generator=rng(2)
    )
    measured = measure(chain)
    assert all("topological charge changed 0 times" in one.note for one in measured.scalars().values())
    assert str(measured).endswith("frozen")
    moving = HMC(WilsonAction(links, beta=0.5), step_size=0.3).sample(30, n_chains=4, generator=rng(2))
    assert not any("frozen" in one.note for one in measure(moving).scalars().values())


def test_standard_observables_need_a_theory_that_lists_them():
    links = Links(Lattice((2, 2)), "U(1)")
    samples = links.probes(40, rng()).unflatten(0, (10, 4))
    chain = Chain(samples, torch.ones(10, 4))
    assert "wilson_loop_2x2" not in measure_standard(chain, space=links)
    with pytest.raises(ValueError, match="of which space"):
        measure_standard(chain)
    with pytest.raises(ValueError, match="expected those of"):
        measure_standard(chain, space=Links(Lattice((4, 4)), "U(1)"))
    with pytest.raises(TypeError, match="use measure for real fields"):
        measure_standard(Chain(torch.zeros(4, 2, 3, 3), torch.ones(4, 2)), space=Lattice((3, 3)))
    known = Chain(samples, torch.ones(10, 4), space=links)
    with pytest.raises(ValueError, match="the same space"):
        measure_standard(known, space=Links(Lattice((2, 2)), "SU(2)"))
    with pytest.raises(TypeError, match="source must be of type Samples"):
        measure_standard(samples)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda links: wilson_loop(links, 0, 1), ValueError, "r must be an integer >= 1"),
        (lambda links: wilson_loop(links, 1, 1.0), TypeError, "t must be an integer"),
        (lambda links: wilson_loop(Lattice((4, 4)), 1, 1), TypeError, "must be of type Links"),
        (lambda links: polyakov_loop(links, 2), ValueError, "axis must be smaller than the dimension 2"),
        (lambda links: polyakov_loop(links, -1), ValueError, "axis must be an integer >= 0"),
        (lambda links: theta_factor(links, math.nan), ValueError, "theta must be finite"),
        (lambda links: theta_factor(links, "1"), TypeError, "theta must be a number"),
        (lambda links: loops_of_creutz_ratio(links, 0, 2), ValueError, "r must be"),
        (
            lambda links: topological_susceptibility(Links(Lattice((3, 3)), "SU(2)")),
            ValueError,
            "defined for U",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(Links(Lattice((4, 4)), "U(1)"))
