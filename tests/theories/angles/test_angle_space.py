"""The space of angles, in which a full turn changes nothing, and its group."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import AngleGroup, Angles, Lattice
from tests.support.angles import SQUARE
from tests.support.strategies import configurations


@given(st.floats(-100, 100), st.floats(-10, 10))
def test_the_nearest_angle_is_the_same_angle_within_half_a_turn(theta, to):
    phi = torch.full((1, 3, 3), theta, dtype=torch.float64)
    wrapped, near = SQUARE.nearest(phi), SQUARE.nearest(phi, to)
    assert bool(((-math.pi - 1e-12 <= wrapped) & (wrapped < math.pi)).all())
    assert torch.equal(SQUARE.nearest(wrapped), wrapped)
    torch.testing.assert_close(wrapped.cos(), phi.cos(), rtol=0, atol=1e-12)
    torch.testing.assert_close(wrapped.sin(), phi.sin(), rtol=0, atol=1e-12)
    torch.testing.assert_close((near - phi).cos(), torch.ones_like(phi), rtol=0, atol=1e-12)
    assert float((near - to).abs().max()) <= math.pi + 1e-12


def test_angles_at_the_seam():
    seam = torch.tensor([[math.pi, -math.pi, math.nextafter(math.pi, 0), 3 * math.pi]], dtype=torch.float64)
    wrapped = Angles(Lattice((4,))).nearest(seam)
    expected = torch.tensor([[-math.pi, -math.pi, math.pi, -math.pi]], dtype=torch.float64)
    torch.testing.assert_close(wrapped, expected)


def test_other_spaces_have_no_windings():
    phi = configurations(Lattice((2, 2)))
    assert Lattice((2, 2)).nearest(phi) is phi
    assert not Lattice((2, 2)).windings()
    assert len(SQUARE.windings()) == 9


def test_a_smaller_group_of_angles_is_known_as_such():
    assert AngleGroup(SQUARE, "C4") <= AngleGroup(SQUARE)
    assert not AngleGroup(SQUARE) <= AngleGroup(SQUARE, "C4")
    assert str(AngleGroup(SQUARE, "C4")) == "translations x C4 x O(2)"
