"""Orthogonal matrices drawn from the Haar measure."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow.theories.base.rotations import random_rotation
from tests.support.strategies import seeds


@given(st.integers(1, 4), seeds)
def test_random_rotations_are_orthogonal(n, seed):
    r = random_rotation(n, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(r @ r.mT, torch.eye(n, dtype=torch.float64))


def test_random_rotations_have_no_preferred_direction():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(3, generator) for _ in range(2000)])
    # Haar: every entry has mean 0 and variance 1/3, and both signs of the determinant are as likely.
    assert float(drawn.mean(0).abs().max()) < 5 / math.sqrt(3 * 2000)
    assert abs(float(torch.linalg.det(drawn).mean())) < 5 / math.sqrt(2000)
