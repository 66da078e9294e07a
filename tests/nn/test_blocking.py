"""The embedding of a coarse lattice: orthogonal, symmetric, smooth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import Lattice, SymmetryGroup
from equiflow.nn.blocking import Blocking
from tests.support.strategies import configurations, seeds

shapes = st.sampled_from([(2,), (4,), (6,), (10,), (2, 2), (4, 4), (4, 6), (8, 8), (2, 4, 6), (4, 4, 4)])


def embedding(blocking: Blocking) -> torch.Tensor:
    """E as a dense matrix, `(V, V / 2^d)`."""
    n = blocking.coarse.volume
    unit = torch.eye(n).reshape(n, *blocking.coarse.shape)
    return blocking.prolong(unit).flatten(1).mT


@given(shapes)
def test_the_embedding_is_orthogonal_and_restriction_its_transpose(shape):
    blocking = Blocking(Lattice(shape))
    dense = embedding(blocking)
    torch.testing.assert_close(dense.mT @ dense, torch.eye(dense.shape[1]), rtol=0, atol=1e-13)
    phi = configurations(blocking.fine)
    expected = (phi.flatten(1) @ dense).reshape(-1, *blocking.coarse.shape)
    torch.testing.assert_close(blocking.restrict(phi), expected)


@given(shapes, seeds)
def test_it_commutes_with_point_groups_and_with_even_translations_alone(shape, seed):
    blocking = Blocking(Lattice(shape))
    chi, axis = configurations(blocking.coarse, seed=seed), -1
    fine = blocking.prolong(chi)
    torch.testing.assert_close(blocking.prolong(chi.roll(1, axis)), fine.roll(2, axis))
    points = [SymmetryGroup(on).point_elements for on in (blocking.coarse, blocking.fine)]
    for one, other in zip(*points, strict=True):
        torch.testing.assert_close(blocking.prolong(one(chi)), other(fine))
    if shape[-1] > 2:  # the constant field is kept by all translations
        images = [blocking.prolong(chi.roll(step, axis)) for step in range(blocking.coarse.shape[axis])]
        assert min(float((fine.roll(1, axis) - image).abs().max()) for image in images) > 1e-3


@pytest.mark.parametrize("shape", [(8,), (4, 6)])
def test_a_uniform_field_stays_uniform_and_power_is_passed_as_said(shape):
    blocking = Blocking(Lattice(shape))
    uniform = torch.ones(1, *blocking.coarse.shape)
    expected = torch.full((1, *shape), 2 ** (-len(shape) / 2))
    torch.testing.assert_close(blocking.prolong(uniform), expected)
    # The mean power that white noise on the coarse lattice has at each momentum of the fine one.
    dense = embedding(blocking)
    waves = torch.fft.fftn(dense.mT.reshape(-1, *shape), dim=blocking.fine.axes)
    power = waves.abs().square().sum(0) / blocking.fine.volume
    torch.testing.assert_close(power, blocking.passed())
    assert float(blocking.passed().sum()) == pytest.approx(blocking.coarse.volume)


def test_blocks_are_local():
    blocking = Blocking(Lattice((64,)))
    chi = torch.zeros(1, 32)
    chi[0, 0] = 1.0
    bump = blocking.prolong(chi)[0].abs()
    # A sharp cutoff would fall off like 1 / x, to 1e-2.
    assert float(bump[24:41].max()) < 1e-3
    assert float(bump[0]) > 0.5


def test_constants_keep_their_digits_through_single_precision():
    blocking = Blocking(Lattice((6, 6)))
    blocking.restrict(torch.ones(1, 6, 6, dtype=torch.float32))
    phi = configurations(blocking.fine)
    once = blocking.restrict(phi)
    torch.testing.assert_close(blocking.restrict(blocking.prolong(once)), once, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(15, 16), (3,), (1, 2)])
def test_odd_sides_are_refused(shape):
    with pytest.raises(ValueError, match=r"needs even sides, got lattice \(.*multiples of 2"):
        Blocking(Lattice(shape))


def test_momenta_far_below_the_edge_pass_and_far_above_do_not():
    passed = Blocking(Lattice((24,))).passed()
    low, high = (passed[round(24 * k / (2 * math.pi))] for k in (math.pi / 4, 3 * math.pi / 4))
    assert (float(low), float(high)) == pytest.approx((1.0, 0.0), abs=1e-12)
