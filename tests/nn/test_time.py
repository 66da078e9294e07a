"""Bases of functions of flow time."""

from __future__ import annotations

import math

import torch

from equiflow.nn.time import CosineBasis


def test_time_basis_is_cosine():
    basis = CosineBasis(4).double()
    expected = torch.tensor([math.cos(math.pi * j * 0.3) for j in range(4)])
    torch.testing.assert_close(basis(0.3), expected)
    torch.testing.assert_close(basis(torch.tensor(0.3)), expected)
