"""The Wilson action: values on known links, forces against differences, couplings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from equiflow import ActionFamily
from equiflow.testing import check_action
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.observables import plaquette, topological_charge, wilson_loop
from equiflow.theories.gauge.wilson import WilsonAction
from tests.support.gauge import GROUPS, every_links, rng, velocities

SQUARE = Lattice((3, 4))
ALL = [Links(SQUARE, group) for group in GROUPS]


def random_action(links: Links) -> WilsonAction:
    return WilsonAction(links, beta=1.3, rectangle=-0.2)


@settings(max_examples=25)
@given(every_links(GROUPS[:3]))
def test_the_force_is_the_derivative_along_moves(links):
    action, u = random_action(links), links.probes(2, rng())
    exact = Action.grad(action, u)  # by automatic differentiation
    torch.testing.assert_close(action.grad(u), exact, rtol=0, atol=1e-12)
    v, step = velocities(links, 2), 1e-4
    ahead, behind = (action(links.move(u, sign * step * v)) for sign in (1, -1))
    slope = (action.grad(u) * v).flatten(1).sum(1)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("links", ALL, ids=GROUPS)
def test_every_law_holds_and_a_wrong_staple_is_seen(links):
    report = check_action(random_action(links))
    assert report.ok, str(report)

    class LostStaple(WilsonAction):
        def loops(self):
            return super().loops()[:1]  # as if `grad` forgot the rectangles

        def forward(self, phi):
            return random_action(self.space)(phi)

    broken = {check.law for check in check_action(LostStaple(links, beta=1.3, rectangle=-0.2)).violations}
    assert "grad = finite differences" in broken


@pytest.mark.parametrize("links", ALL, ids=GROUPS)
def test_links_of_one_have_the_least_action(links):
    one = links.from_planes(tuple(links.lie.identity((2, 3, 4), torch.zeros(1).double()) for _ in range(2)))
    assert WilsonAction(links, beta=2.0)(one).tolist() == pytest.approx([-24.0] * 2, abs=1e-12)
    for named in (WilsonAction.symanzik, WilsonAction.iwasaki):
        action = named(links, beta=2.0)
        # c0 + 2 c1 per plaquette of unit links, with c0 = 1 - 8 c1
        per_site = 1 - 6 * action.rectangle
        assert action(one).tolist() == pytest.approx([-24.0 * per_site] * 2, abs=1e-11)
        assert action.rectangle == pytest.approx({"symanzik": -1 / 12, "iwasaki": -0.331}[named.__name__])
    assert not WilsonAction(links, beta=2.0).grad(one).any()
    assert float(WilsonAction(links, beta=2.0)(links.probes(3, rng())).min()) > -24


@pytest.mark.parametrize("links", ALL[1:], ids=GROUPS[1:])
def test_a_constant_field_of_commuting_links_has_known_plaquettes(links):
    # U_0(x) = exp(i alpha x_1 H), U_1 = 1: every plaquette is exp(-i alpha H), but for the boundary.
    h = torch.zeros(links.lie.n_generators, dtype=torch.float64)
    h[2] = 1.0
    alpha = 0.4
    along = links.lie.exp(alpha * h[:, None] * torch.arange(4.0, dtype=torch.float64))
    first = along.unsqueeze(-2).expand(*along.shape[:-1], 3, 4).unsqueeze(links.lie.n_plane_axes)
    u = links.from_planes((first, links.lie.identity((1, 3, 4), h)))
    turn = links.lie.trace(links.lie.exp(alpha * h[:, None]))
    back = links.lie.trace(links.lie.exp(-3 * alpha * h[:, None]))
    expected = 3 * (3 * turn + back)
    torch.testing.assert_close(WilsonAction(links, beta=1.0)(u), -expected)
    torch.testing.assert_close(plaquette(links)(u), expected / 12)


def test_angles_give_cosines_of_sums():
    links = Links(SQUARE, "U(1)")
    a, b = links.probes(2, rng()).unbind(1)
    p = a + b.roll(-1, 1) - a.roll(-1, 2) - b
    action = WilsonAction(links, beta=1.5)
    theta = torch.stack([a, b], 1)
    torch.testing.assert_close(action(theta), -1.5 * p.cos().sum((1, 2)))
    wide = a + a.roll(-1, 1) + b.roll(-2, 1) - a.roll((-1, -1), (1, 2)) - a.roll(-1, 2) - b
    tall = a + b.roll(-1, 1) + b.roll((-1, -1), (1, 2)) - a.roll(-2, 2) - b.roll(-1, 2) - b
    rectangles = wide.cos().sum((1, 2)) + tall.cos().sum((1, 2))
    improved = WilsonAction(links, beta=1.5, rectangle=-0.2)
    torch.testing.assert_close(improved(theta), -1.5 * (2.6 * p.cos().sum((1, 2)) - 0.2 * rectangles))
    torch.testing.assert_close(wilson_loop(links, 2, 1)(theta), rectangles / 24)


def test_the_number_of_plaquettes_counts_every_plane():
    links = Links(Lattice((2, 3, 2, 2)), "SU(2)")
    one = links.from_planes(tuple(links.lie.identity((1, 2, 3, 2, 2), torch.zeros(1)) for _ in range(4)))
    assert WilsonAction(links, beta=1.0)(one).tolist() == pytest.approx([-24.0 * 6])


@pytest.mark.parametrize("links", ALL, ids=GROUPS)
def test_the_derivative_by_beta_is_that_of_the_values(links):
    u = links.probes(3, rng())
    up, down = (WilsonAction(links, beta=1.3 + h, rectangle=-0.2)(u) for h in (1e-3, -1e-3))
    torch.testing.assert_close(random_action(links).coupling_grad(u, "beta"), (up - down) / 2e-3)
    with pytest.raises(ValueError, match="couplings beta and imaginary_theta, not 'lam'"):
        random_action(links).coupling_grad(u, "lam")


def test_an_imaginary_theta_weighs_the_charge():
    links = Links(Lattice((4, 4)), "U(1)")
    u = links.probes(50, rng())
    charge = topological_charge(links)(u)
    action, plain = (WilsonAction(links, beta=1.0, imaginary_theta=h) for h in (0.7, 0.0))
    torch.testing.assert_close(plain(u) - action(u), 0.7 * charge)
    assert torch.equal(action.coupling_grad(u, "imaginary_theta"), -charge)
    assert torch.equal(action.grad(u), plain.grad(u))
    family = ActionFamily(WilsonAction, links, beta=(1.0, 2.0), imaginary_theta=0.7)
    assert repr(family.at(beta=1.5)).endswith("beta=1.5, imaginary_theta=0.7)")


def test_float32_links_have_a_float32_action():
    for links in ALL:
        u = links.probes(2, rng())
        single = u.to(links.dtypes[0])
        assert random_action(links)(single).dtype == random_action(links).grad(single).dtype == torch.float32
        torch.testing.assert_close(
            random_action(links).grad(single).double(), random_action(links).grad(u), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WilsonAction(SQUARE, beta=1.0), TypeError, "links must be of type Links"),
        (lambda: WilsonAction(ALL[0], beta="1"), TypeError, "beta must be of type float"),
        (lambda: WilsonAction(ALL[0], beta=math.nan), ValueError, "beta must be finite"),
        (lambda: WilsonAction(ALL[0], beta=math.inf), ValueError, "beta must be finite"),
        (lambda: WilsonAction(ALL[0], beta=1.0, rectangle=math.nan), ValueError, "rectangle must be finite"),
        (lambda: WilsonAction(ALL[1], beta=1.0, imaginary_theta=1.0), ValueError, "defined for U"),
        (lambda: topological_charge(Links(Lattice((2, 2, 2)), "U(1)")), ValueError, "in two dimensions"),
    ],
)
def test_wrong_couplings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("group", GROUPS[1:])
def test_the_first_call_refuses_matrices_off_the_group(group):
    action = WilsonAction(Links(SQUARE, group), beta=1.0)
    u = action.space.probes(2, rng())
    with pytest.raises(ValueError, match="differ from matrices of SU"):
        action(1.01 * u)
    action(u)
