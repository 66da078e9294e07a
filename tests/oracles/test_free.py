"""The free field in closed form is the dense Gaussian, and its samples have these averages."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow.oracles import free_field, free_two_point
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar import observables
from equiflow.theories.scalar.phi4 import FreeScalar
from tests.support.strategies import lattices

masses = st.floats(0.5, 4)


@given(lattices(max_volume=30), masses)
def test_free_field_is_the_dense_gaussian(lattice, m2):
    action = FreeScalar(lattice, m2=m2)
    hessian = action.grad(torch.eye(lattice.volume).reshape(-1, *lattice.shape)).flatten(1)
    covariance = torch.linalg.inv(hessian)
    torch.testing.assert_close(free_two_point(action).flatten(), covariance[0])
    exact = free_field(action)
    sites = torch.arange(lattice.volume).reshape(lattice.shape)
    for axis, value in zip(lattice.axes, exact.nearest_neighbour, strict=True):
        neighbour = covariance[sites.flatten(), sites.roll(-1, axis).flatten()]
        assert value == pytest.approx(float(neighbour.mean()), abs=1e-12)
    assert exact.susceptibility == pytest.approx(float(covariance.sum()) / lattice.volume)
    assert exact.phi_squared == pytest.approx(float(covariance.diag().mean()))


@given(lattices(max_volume=48), masses)
def test_free_field_has_textbook_lengths(lattice, m2):
    exact = free_field(FreeScalar(lattice, m2=m2))
    assert exact.susceptibility == pytest.approx(1 / (2 * m2))
    if max(lattice.shape) > 1:
        assert exact.correlation_length == pytest.approx(1 / math.sqrt(m2))
    else:
        assert math.isnan(exact.correlation_length)


def test_free_field_agrees_with_the_observables():
    action = FreeScalar(Lattice((3, 4)), m2=0.7)
    exact = free_field(action)
    modes = action.mode_variance().sqrt() * torch.fft.fftn(
        torch.randn(200_000, 3, 4, generator=torch.Generator().manual_seed(0)), dim=(-2, -1)
    )
    phi = torch.fft.ifftn(modes, dim=(-2, -1)).real
    assert float(observables.phi_squared(phi).mean()) == pytest.approx(exact.phi_squared, rel=0.01)
    assert float(observables.phi_fourth(phi).mean()) == pytest.approx(exact.phi_fourth, rel=0.02)
    correlator = observables.zero_momentum_correlator(phi, axis=1).mean(0)
    assert correlator.tolist() == pytest.approx(exact.correlator, rel=0.03)
