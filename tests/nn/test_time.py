"""Bases of functions of flow time."""

from __future__ import annotations

import math

import torch

from equiflow.nn.time import ChebyshevBasis, CosineBasis


def test_time_basis_is_cosine():
    basis = CosineBasis(4).double()
    expected = torch.tensor([math.cos(math.pi * j * 0.3) for j in range(4)])
    torch.testing.assert_close(basis(0.3), expected)
    torch.testing.assert_close(basis(torch.tensor(0.3)), expected)


def test_chebyshev_polynomials_are_cosines_of_an_angle():
    for n_modes in (1, 2, 5):
        basis = ChebyshevBasis(n_modes).double()
        angle = math.acos(2 * 0.3 - 1)
        expected = torch.tensor([math.cos(j * angle) for j in range(n_modes)])
        torch.testing.assert_close(basis(0.3), expected)
        torch.testing.assert_close(basis(torch.tensor(0.3)), expected)
        assert bool((basis(1.0) == 1).all())
