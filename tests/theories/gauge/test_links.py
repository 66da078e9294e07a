"""The space of links: shapes, moves, rounding, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from equiflow import Angles, ExternalField, Multiplet, Particles, StandardNormal, WilsonAction
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from tests.support.gauge import GROUPS, every_links, rng, velocities


@given(every_links())
def test_shapes_tell_the_space(links):
    u = links.probes(3, rng())
    assert u.shape == (3, *links.shape)
    assert Links.of_shape(links.shape) == links
    assert links.check_finite(u) is u
    assert math.prod(links.tangent_shape) == links.size == links.values_per_site * links.lattice.volume
    assert links.on(Lattice((3,) * links.lattice.dim)).group == links.group
    assert math.prod(links.shape[a] for a in links.component_axes) * links.lattice.volume == math.prod(
        links.shape
    )


@settings(max_examples=20)
@given(every_links())
def test_moves_stay_in_the_group_and_are_reversed(links):
    u, v = links.probes(3, rng()), velocities(links)
    moved = links.move(u, v)
    assert float(links.lie.defect(moved).max()) < 2e-14
    torch.testing.assert_close(links.nearest(links.move(moved, -v)), links.nearest(u), rtol=0, atol=2e-14)
    halfway = links.move(links.move(u, 0.5 * v), 0.5 * v)
    torch.testing.assert_close(links.nearest(halfway), links.nearest(moved), rtol=0, atol=2e-14)
    assert float((moved - u).abs().max()) > 0.1


@settings(max_examples=20)
@given(every_links())
def test_planes_and_vectors_hold_links_and_velocities(links):
    u, v = links.probes(3, rng()), velocities(links)
    assert torch.equal(links.from_planes(links.planes(u)), u)
    assert torch.equal(links.from_vectors(links.vectors(v)), v)
    one = torch.stack([links.lie.elements(links.lie.exp(c)) for c in links.vectors(v)], 1)
    unit = links.from_planes(links.planes(links.move(torch.zeros_like(u), 0 * v)))
    assert unit.shape == u.shape
    for_unit = links.from_planes(
        tuple(links.lie.identity((3, *links.lattice.shape), v) for _ in links.lattice.shape)
    )
    torch.testing.assert_close(links.move(for_unit, v), one, rtol=0, atol=1e-15)


@pytest.mark.parametrize("group", GROUPS)
def test_a_thousand_moves_leave_the_group_by_rounding_only(group):
    links = Links(Lattice((2, 2)), group)
    u = links.probes(2, rng())
    for n in range(1000):
        u = links.move(u, 0.2 * velocities(links, 2, n))
    assert float(links.lie.defect(u).max()) < 1e-12
    assert float(links.lie.defect(links.nearest(u)).max()) < 3e-15


def test_chains_start_without_charge_or_from_the_haar_measure():
    for group in GROUPS:
        links = Links(Lattice((3, 3)), group)
        u = links.initial(64, rng(), dtype=torch.float32)
        assert u.dtype == links.dtypes[0]
        assert float(links.lie.defect(u).max()) < 1e-5
        if links.is_flat:
            assert 0.01 < float(u.abs().max()) < 1
        else:
            # The mean of |tr U|^2 is one for the Haar measure, and nearly N^2 for links near one.
            square = links.lie.complex_trace(links.lie.planes(u)).abs().square() * links.lie.n**2
            assert abs(float(square.mean()) - 1) < 4 * float(square.std()) / square.numel() ** 0.5


def test_angles_are_windings_and_matrices_are_not():
    angles, matrices = Links(Lattice((2, 3)), "U(1)"), Links(Lattice((2, 3)), "SU(2)")
    assert len(angles.windings()) == 12
    assert angles.has_windings
    assert not matrices.has_windings
    theta = angles.probes(2, rng())
    for winding in angles.windings().values():
        torch.testing.assert_close(angles.nearest(winding(theta)), theta)
    assert float(angles.nearest(theta, to=theta - 3).sub(theta).abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Links((4, 4), "U(1)"), TypeError, "lattice must be of type Lattice"),
        (lambda: Links(Lattice((4, 4)), 3), TypeError, "group must be of type str"),
        (lambda: Links(Lattice((4, 4)), "SO(3)"), ValueError, "got 'SO\\(3\\)'"),
        (lambda: Links(Lattice((4,)), "U(1)"), ValueError, "two dimensions or more"),
        (lambda: Links.of_shape((2, 3, 3, 2, 3)), ValueError, "no shape of links"),
        (lambda: Links.of_shape((2, 3, 3, 3)), ValueError, "no shape of links"),
    ],
)
def test_what_are_no_links_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_matrices_off_the_group_are_refused():
    links = Links(Lattice((2, 2)), "SU(3)")
    u = links.probes(2, rng())
    for wrong in (1.001 * u, 1j * u, u + 1e-8):
        with pytest.raises(ValueError, match=r"differ from matrices of SU\(3\)"):
            links.check_finite(wrong)
        links.check_finite(links.nearest(wrong))
    with pytest.raises(ValueError, match=r"NaN or infinite"):
        links.check_finite(u * math.nan)
    with pytest.raises(TypeError, match=r"dtype torch\.float64; expected torch\.complex64"):
        links.check(u.real)
    with pytest.raises(TypeError, match=r"expected torch\.float32 or torch\.float64"):
        Links(Lattice((2, 2)), "U(1)").check(u[..., 0, 0])


@pytest.mark.parametrize(
    "space", [Lattice((2, 3)), Multiplet(Lattice((2, 3)), 2), Angles(Lattice((2, 3))), Particles(3, 2)]
)
def test_flat_spaces_move_by_addition(space):
    phi, v = space.probes(2, rng()), space.probes(2, rng(1))
    assert space.is_flat
    assert space.tangent_shape == space.shape
    assert torch.equal(space.move(phi, v), phi + v)
    assert space.is_real_field == isinstance(space, Lattice | Multiplet)


@pytest.mark.parametrize("group", GROUPS[:3])
def test_what_is_made_for_real_fields_refuses_links(group):
    links = Links(Lattice((2, 2)), group)
    assert links.is_flat == (group == "U(1)")
    assert not links.is_real_field
    with pytest.raises(TypeError, match="use HaarPrior"):
        StandardNormal(links)
    with pytest.raises(TypeError, match="an action of real fields"):
        ExternalField(WilsonAction(links, beta=1.0), h=0.1)
