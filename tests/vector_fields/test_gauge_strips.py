"""Strips of plaquettes in the field of SU(N) links: what they are, their laws, and planted mistakes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from equiflow.testing import check_vector_field, equivariance_error, randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import rectangle, transporter
from equiflow.vector_fields import gauge_strips
from equiflow.vector_fields.gauge_functions import powers_up_to
from equiflow.vector_fields.gauge_strips import StripTerms
from equiflow.vector_fields.gauge_sun import SUNField
from tests.support.gauge import divergence_of_small_moves


def random_field(group: str, *shape: int, **options: object) -> SUNField:
    chosen = {"shapes": ("plaquette",), "degree": 2, "n_time_modes": 1} | options
    field = SUNField(Links(Lattice(shape), group), **chosen).double()
    randomise(field, seed=0)
    return field


def drawn(links: Links, n: int = 2) -> torch.Tensor:
    return links.probes(n, torch.Generator().manual_seed(0))


def strips_of(links: Links, u: torch.Tensor, rung: int, longest: int) -> StripTerms:
    powers = powers_up_to(3, with_imaginary=links.lie.n > 2)
    return StripTerms(links.lie, links.planes(u), rung, 1 - rung, longest, powers)


def test_a_field_with_strips_obeys_every_law():
    report = check_vector_field(random_field("SU(2)", 4, 3, strips=2, reach=1))
    assert report.ok, str(report)


@pytest.mark.parametrize(("group", "side", "degree"), [("SU(2)", 6, 2), ("SU(3)", 3, 3)])
def test_strips_are_equivariant_and_have_the_divergence_of_small_moves(group, side, degree):
    field = random_field(group, side, side, strips=side - 1, degree=degree)
    assert max(equivariance_error(field, n_random=1, times=(0.3,)).values()) < 1e-12
    u = drawn(field.space, 1)
    divergence = field.velocity_and_divergence(u, 0.3)[1]
    torch.testing.assert_close(divergence_of_small_moves(field, u, 0.3), divergence, rtol=0, atol=1e-5)
    assert divergence.abs() > 0.1


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
@pytest.mark.parametrize("rung", [0, 1])
def test_strips_are_rectangles(group, rung):
    links = Links(Lattice((5, 4)), group)
    u = drawn(links)
    seen = strips_of(links, u, rung, 3).seen
    for r, w in zip((2, 3), seen.w, strict=True):
        loop = transporter(links.lie, links.planes(u), rectangle(1 - rung, rung, r, 1))
        torch.testing.assert_close(w, links.lie.trace(loop))


def test_without_looks_rungs_follow_the_gradient_of_functions_of_strips():
    links = Links(Lattice((4, 4)), "SU(2)")
    weights = torch.zeros(3, 2, 3, dtype=torch.float64)
    weights[0] = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = drawn(links)
    omega = torch.zeros(2, *links.tangent_shape, dtype=torch.float64).requires_grad_()

    def potential(moved):
        w = strips_of(links, moved, 1, 3).seen.w
        powers = torch.stack([w, w**2, w**3], -1)
        return (powers * weights[0][:, None, None, None]).sum()

    (gradient,) = torch.autograd.grad(potential(links.move(u, omega)), omega)
    velocity, _ = strips_of(links, u, 1, 3).velocity(weights)
    expected = links.vectors(gradient)[1]
    torch.testing.assert_close(velocity, expected)
    assert expected.abs().max() > 0.1
    # Links along the ladder would move, too; they stand.
    assert links.vectors(gradient)[0].abs().max() > 0.1


def test_strips_keep_their_weights_on_another_lattice():
    field = random_field("SU(2)", 3, 3, strips=2)
    larger, smaller = field.resized(Lattice((6, 6))), field.resized(Lattice((2, 2)))
    assert (larger.strips, smaller.strips, smaller.strip) == (2, 0, None)
    assert torch.equal(larger.strip, field.strip)
    tiled = drawn(field.space).repeat(1, 1, 2, 2, 1, 1)
    again = larger.velocity(tiled, 0.3)
    torch.testing.assert_close(again[..., :3, :3], field.velocity(tiled[:, :, :3, :3], 0.3))
    longest = random_field("SU(2)", 5, 5, strips=4)
    shorter = longest.resized(Lattice((4, 4)))
    assert shorter.strips == 3
    assert torch.equal(shorter.strip, longest.strip[:, :, :2])


def test_the_harness_sees_that_rungs_forget_how_they_look_at_plaquettes(monkeypatch):
    looks = StripTerms._looks

    def blind(self, w, slope):
        return [
            replace(look, of_end=0 * look.of_end, of_beginning=0 * look.of_beginning)
            for look in looks(self, w, slope)
        ]

    monkeypatch.setattr(StripTerms, "_looks", blind)
    report = check_vector_field(random_field("SU(2)", 3, 3, degree=1, strips=2))
    assert [check.law for check in report.violations] == ["divergence = dense trace"]


def test_the_harness_sees_that_the_holonomy_is_forgotten(monkeypatch):
    frames = gauge_strips.frames_along

    def without_holonomy(lie, links, axis):
        frame, holonomy = frames(lie, links, axis)
        return frame, lie.identity(tuple(holonomy.shape[lie.n_plane_axes :]), holonomy)

    monkeypatch.setattr(gauge_strips, "frames_along", without_holonomy)
    errors = equivariance_error(random_field("SU(2)", 3, 3, degree=1, strips=2), n_random=1, times=(0.3,))
    assert max(errors.values()) > 1e-3


@pytest.mark.parametrize("strips", [1, 3])
def test_strips_of_one_plaquette_or_around_the_lattice_are_refused(strips):
    with pytest.raises(ValueError, match=f"strips must be 0 or from 2 to a side less one, 2, got {strips}"):
        SUNField(Links(Lattice((3, 4)), "SU(2)"), strips=strips)
