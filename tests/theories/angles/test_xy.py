"""The XY model: energy, force, symmetry."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import AngleGroup, Angles, Lattice, XYModel
from equiflow.theories.angles.observables import energy
from tests.support.angles import SQUARE, spaces
from tests.support.strategies import configurations, seeds


@given(spaces, seeds, st.floats(-2, 2))
def test_force_is_the_gradient_and_the_model_is_symmetric_and_periodic(space, seed, beta):
    action, theta = XYModel(space, beta=beta), configurations(space, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(action(theta).sum(), theta)
    theta = theta.detach()
    torch.testing.assert_close(action.grad(theta), expected, rtol=1e-11, atol=1e-12)
    if abs(beta) > 0.1 and space.lattice.volume > 1:
        assert max(action.asymmetry(AngleGroup(space)).values()) < 1e-11
    for winding in space.windings().values():
        torch.testing.assert_close(action(winding(theta)), action(theta), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(action(theta), beta * space.lattice.volume * energy(theta))


def test_energy_by_hand():
    theta = torch.tensor([[0.0, math.pi / 2, math.pi]])
    action = XYModel(Angles(Lattice((3,))), beta=2.0)
    assert float(action(theta)) == pytest.approx(-2 * (0 + 0 - 1), abs=1e-6)
    assert float(action.coupling_grad(theta, "beta")) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("beta", [math.inf, math.nan])
def test_couplings_must_be_finite(beta):
    with pytest.raises(ValueError, match="finite"):
        XYModel(SQUARE, beta=beta)
    with pytest.raises(ValueError, match="coupling beta"):
        XYModel(SQUARE, beta=1.0).coupling_grad(torch.zeros(1, 3, 3), "lam")
