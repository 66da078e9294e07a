"""Ridges have the derivatives that they claim."""

from __future__ import annotations

import pytest
import torch

from equiflow import Lattice
from equiflow.nn.pointwise.ridges import Ridges
from equiflow.testing import randomise
from tests.support.strategies import configurations


@pytest.mark.parametrize("even", [True, False])
def test_derivatives_of_ridges_are_those_of_autograd(even):
    ridges = Ridges(3, 4, max_frequency=2.0, even=even).double()
    randomise(ridges)
    u = configurations(Lattice((5,)), 3).requires_grad_()
    amplitude, overlap = configurations(Lattice((4,)), 1)[0], configurations(Lattice((3,)), 3, seed=1)
    theta = ridges.angles(u)
    value = ridges.value(theta.cos(), amplitude)
    (gradient,) = torch.autograd.grad(value.sum(), u)
    torch.testing.assert_close(ridges.gradient(theta.sin(), amplitude), gradient)
    slopes = ridges.gradient(ridges.angles(u).sin(), amplitude)
    hessian = torch.stack([torch.autograd.grad(row.sum(), u, retain_graph=True)[0] for row in slopes])
    trace = torch.einsum("cd,cdx->x", overlap, hessian)
    torch.testing.assert_close(ridges.curvature(overlap, amplitude) @ theta.cos(), trace)
