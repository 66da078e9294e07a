"""Loops of any shape: their derivatives by automatic differentiation, and transport along open paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.group import GaugeGroup
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import add_loop_gradient, loop_rate, rectangle, shifted, transporter
from tests.support.gauge import rng

GROUPS = ("U(1)", "SU(2)", "SU(3)")
#: closed paths in three dimensions: a plaquette from each corner, rectangles, a chair, one that starts
#: backwards, one that runs along a link twice, one that turns back
LOOPS = {
    "plaquette": rectangle(0, 1),
    "second corner": ((1, 1), (0, -1), (1, -1), (0, 1)),
    "third corner": ((0, -1), (1, -1), (0, 1), (1, 1)),
    "rectangle": rectangle(2, 0, 2, 1),
    "chair": ((0, 1), (1, 1), (2, 1), (0, -1), (2, -1), (1, -1)),
    "backwards": ((2, -1), (1, -1), (2, -1), (1, 1), (2, 1), (2, 1)),
    "eight": (*rectangle(0, 1), *rectangle(1, 2)),
    "twice": rectangle(0, 1) * 2,
    "turning back": ((0, 1), (1, 1), (2, 1), (2, -1), (0, -1), (1, -1)),
    "around the lattice": ((1, 1), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", LOOPS)
def test_derivatives_of_loops_are_those_of_automatic_differentiation(group, name):
    links = Links(Lattice((2, 3, 2)), group)
    lie, path, u = links.lie, LOOPS[name], links.probes(2, rng())
    weight = torch.randn(2, 2, 3, 2, generator=rng(1), dtype=torch.float64)  # another one for every loop

    def total(v: Tensor) -> Tensor:
        return (weight * lie.trace(transporter(lie, links.planes(links.move(u, v)), path))).sum()

    still = torch.zeros(2, *links.tangent_shape, dtype=torch.float64)
    exact = torch.func.grad(total)(still)
    planes = links.planes(u)
    gradient: list = [torch.zeros_like(c) for c in links.vectors(still)]
    slope = -weight * lie.slope(transporter(lie, planes, path))
    add_loop_gradient(lie, planes, path, slope, gradient)
    torch.testing.assert_close(links.from_vectors(tuple(gradient)), exact, rtol=0, atol=1e-13)
    assert float(exact.abs().max()) > 0.1


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", LOOPS)
def test_the_rate_of_loops_is_that_of_small_moves(group, name):
    links = Links(Lattice((2, 3, 2)), group)
    lie, path, u = links.lie, LOOPS[name], links.probes(2, rng())
    v = torch.randn((2, *links.tangent_shape), generator=rng(1), dtype=torch.float64)
    rate = loop_rate(lie, links.planes(u), path, links.vectors(v))
    h = 1e-5
    ahead, behind = (transporter(lie, links.planes(links.move(u, s * v)), path) for s in (h, -h))
    loop = transporter(lie, links.planes(u), path)
    expected = (ahead - behind) / (2 * h)
    moved = lie.product(lie.exp(h * rate), loop) - lie.product(lie.exp(-h * rate), loop)
    torch.testing.assert_close(moved / (2 * h), expected, rtol=0, atol=1e-8)
    assert float(expected.abs().max()) > 0.1


@pytest.mark.parametrize("group", GROUPS)
def test_open_paths_transform_at_their_ends_only(group):
    links = Links(Lattice((3, 4)), group)
    lie, u = links.lie, links.probes(2, rng())
    path = ((0, 1), (1, -1), (0, 1), (1, -1))
    element = GaugeGroup(links, "trivial", conjugation=False).random_element(rng(3))
    shift = element.spatial.shift
    before = transporter(lie, links.planes(u), path).roll(shift, links.lattice.axes)
    after = transporter(lie, links.planes(element(u)), path)
    gauge = element._gauge_like(before)
    expected = lie.product(lie.product(gauge, before), lie.dagger(shifted(gauge, (2, -2))))
    nearest = links.lie.nearest
    torch.testing.assert_close(
        nearest(lie.elements(after)), nearest(lie.elements(expected)), rtol=0, atol=1e-13
    )


def test_values_are_shifted_towards_the_offset():
    values = torch.arange(12.0).reshape(3, 4)
    assert float(shifted(values, (1, 2))[0, 0]) == float(values[1, 2])
    assert shifted(values, (0, 0)) is values
