"""Symmetries of links: local, of the lattice, and charge conjugation; the harness sees wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from equiflow.testing import check_action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.group import GaugeGroup, LinkTransformation
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.observables import plaquette, topological_charge, wilson_loop
from equiflow.theories.gauge.wilson import WilsonAction
from tests.support.gauge import GROUPS, every_links, rng, velocities

THREE = tuple(Links(Lattice((3, 3)), group) for group in GROUPS)
IDS = {"ids": GROUPS}


def elements(links: Links, n_random: int = 6) -> dict:
    group, generator = GaugeGroup(links), rng(1)
    return group.generators() | {f"random {n}": group.random_element(generator) for n in range(n_random)}


def invariants(links: Links):
    action = WilsonAction(links, beta=1.7, rectangle=-0.1)
    return [action, plaquette(links), wilson_loop(links, 2, 1), wilson_loop(links, 2, 2)]


@settings(max_examples=25)
@given(every_links(GROUPS[:3]))
def test_action_and_loops_are_invariant(links):
    u = links.probes(3, rng())
    for function in invariants(links):
        value = function(u)
        scale = float(value.abs().max()) + links.lattice.volume
        for name, element in elements(links, 3).items():
            assert float((function(element(u)) - value).abs().max()) < 1e-13 * scale, name


@settings(max_examples=15)
@given(every_links(GROUPS[:3]))
def test_velocities_are_transformed_as_the_links_that_they_move(links):
    u, v = links.probes(3, rng()), velocities(links)
    for element in elements(links, 3).values():
        there = element(links.move(u, v))
        torch.testing.assert_close(there, links.move(element(u), element.push(v, u)), rtol=0, atol=1e-13)


@settings(max_examples=10)
@given(every_links(GROUPS[:3]))
def test_the_force_is_transformed_as_a_velocity(links):
    action, u = WilsonAction(links, beta=1.7, rectangle=-0.1), links.probes(3, rng())
    force = action.grad(u)
    for element in elements(links, 3).values():
        found = action.grad(element(u))
        torch.testing.assert_close(found, element.push(force, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("links", THREE, **IDS)
def test_products_of_rotations_act_as_their_product(links):
    u, group = links.probes(2, rng()), GaugeGroup(links)
    for one in group.spatial.elements():
        for other in group.spatial.elements():
            both = replace(one, point=one.point @ other.point)
            first, second, product = (LinkTransformation(links, g) for g in (other, one, both))
            torch.testing.assert_close(second(first(u)), product(u), rtol=0, atol=0)


@pytest.mark.parametrize("links", THREE, **IDS)
def test_transformed_links_are_of_the_group(links):
    u = links.probes(2, rng())
    for element in elements(links).values():
        links.check_finite(element(u))


@dataclass(frozen=True, eq=False)
class ReflectedInPlace(LinkTransformation):
    """Leaves reversed links at the site that they come from: wrong by one site."""

    def _to_place(self, values: Tensor, mu: int) -> Tensor:
        return self.spatial(values)


@dataclass(frozen=True, eq=False)
class NotReversed(LinkTransformation):
    """Moves links, but does not invert those that turn against their direction."""

    def _moved(self, planes):
        point = self.spatial.point
        return [self._to_place(planes[k], mu) for mu, k in enumerate(point.permutation)]


@dataclass(frozen=True, eq=False)
class OneSided(LinkTransformation):
    """Transforms links at their beginning, not at their end."""

    def __call__(self, phi: Tensor) -> Tensor:
        lie, gauge = self.links.lie, self._gauge_like(self.links.planes(phi)[0])
        return self.links.from_planes(tuple(lie.product(gauge, u) for u in self.links.planes(phi)))


WRONG = {
    ReflectedInPlace: "reflection x -> (-x, y)",
    NotReversed: "reflection x -> (-x, y)",
    OneSided: "gauge transformation 0 at one site",
}


@dataclass(frozen=True)
class WrongGroup(GaugeGroup):
    """Has one wrong element, given by its class."""

    wrong: type = ReflectedInPlace

    def generators(self):
        right = super().generators()[WRONG[self.wrong]]
        return {f"wrong {self.wrong.__name__}": self.wrong(**vars(right))}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("links", THREE[:3], ids=GROUPS[:3])
def test_the_harness_sees_wrong_transformations(links, wrong):
    report = check_action(WilsonAction(links, beta=1.0), WrongGroup(links, wrong=wrong))
    assert any(check.case.startswith("wrong") for check in report.violations), str(report)
    assert check_action(WilsonAction(links, beta=1.0)).ok


class NotInvariant(WilsonAction):
    """Adds the trace of a single link: breaks the local symmetry."""

    def forward(self, phi: Tensor) -> Tensor:
        link = self.space.planes(phi)[0]
        return super().forward(phi) + self.space.lie.trace(link)[:, 0, 0]


@pytest.mark.parametrize("links", THREE[:3], ids=GROUPS[:3])
def test_the_harness_sees_an_action_without_the_local_symmetry(links):
    violations = check_action(NotInvariant(links, beta=1.0)).violations
    broken = {check.case.split()[0] for check in violations if check.law == "S invariant"}
    assert broken >= {"gauge", "translation", "random"}
    assert max(NotInvariant(links, beta=1.0).asymmetry(GaugeGroup(links)).values()) > 0.01
    assert max(WilsonAction(links, beta=1.0).asymmetry(GaugeGroup(links)).values()) < 1e-11


def test_the_charge_is_odd_under_reflections_and_conjugation_and_even_under_rotations():
    links = Links(Lattice((5, 5)), "U(1)")
    u, charge = links.probes(200, rng()), topological_charge(links)
    assert float(charge(u).abs().max()) >= 2
    for name, element in elements(links, 0).items():
        sign = -1 if name.startswith(("reflection", "conjugation")) else 1
        assert torch.equal(charge(element(u)), sign * charge(u)), name


def test_an_imaginary_theta_breaks_reflections_and_conjugation():
    links = Links(Lattice((4, 4)), "U(1)")
    action = WilsonAction(links, beta=1.0, imaginary_theta=0.7)
    broken = {check.case.split()[0] for check in check_action(action).violations}
    assert broken >= {"reflection", "conjugation"}
    assert not broken & {"gauge", "translation", "rotation"}
    assert check_action(action, GaugeGroup(links, "rotations", conjugation=False)).ok


def test_smaller_groups_are_known_as_such():
    links = THREE[1]
    group = GaugeGroup(links)
    assert GaugeGroup(links, "rotations") <= group
    assert GaugeGroup(links, conjugation=False) <= group
    assert not group <= GaugeGroup(links, conjugation=False)
    assert not group <= GaugeGroup(THREE[2])
    assert GaugeGroup(links, **group.config()) == group == group.on(links)
    assert group.subgroups()[0] == group
    assert all(smaller <= group for smaller in group.subgroups())
    assert str(group) == "local SU(2) x translations x D4 x C"
    with pytest.raises(TypeError, match="links must be of type Links"):
        GaugeGroup(Lattice((4, 4)))
    with pytest.raises(ValueError, match="does not have the point group"):
        GaugeGroup(Links(Lattice((4, 3)), "U(1)"), "D4")
