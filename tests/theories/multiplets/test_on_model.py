"""The O(N) model: its action, its symmetry, its partition function."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from equiflow import EquivariantCNF, FreeField, Lattice, Phi4, importance_sample
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.phi4 import FreeScalar
from tests.support.strategies import configurations, log_integral, seeds

PAIR = Multiplet(Lattice((3, 4)), 2)


@given(seeds)
def test_one_component_is_phi4(seed):
    lattice = Lattice((3, 4))
    vector, scalar = (
        kind(m2=-1.3, lam=0.7)
        for kind in (lambda **c: ONModel(Multiplet(lattice, 1), **c), lambda **c: Phi4(lattice, **c))
    )
    phi = configurations(Multiplet(lattice, 1), seed=seed)
    torch.testing.assert_close(vector(phi), scalar(phi[:, 0]))
    torch.testing.assert_close(vector.grad(phi)[:, 0], scalar.grad(phi[:, 0]))
    for name in ("m2", "lam"):
        torch.testing.assert_close(vector.coupling_grad(phi, name), scalar.coupling_grad(phi[:, 0], name))


@pytest.mark.parametrize("field", [None, (0.3, -0.2)])
def test_gradient_is_the_derivative(field):
    action = ONModel(PAIR, m2=-1.3, lam=0.7)
    action = action if field is None else ExternalField(action, h=field)
    phi = configurations(PAIR).requires_grad_()
    (expected,) = torch.autograd.grad(action(phi).sum(), phi)
    torch.testing.assert_close(action.grad(phi), expected)


def test_the_action_has_the_symmetry_that_flows_assume():
    action = ONModel(PAIR, m2=-1.3, lam=0.7)
    assert max(action.asymmetry(MultipletGroup(PAIR)).values()) < 1e-12
    tilted = ExternalField(action, h=(0.3, 0.0)).asymmetry(MultipletGroup(PAIR))
    assert {name.split()[0] for name, change in tilted.items() if change > 1e-3} == {"O(N)"}


def test_log_z_of_the_free_model_is_that_of_its_components():
    lattice = Lattice((3, 3))
    pair = Multiplet(lattice, 2)
    exact = 2 * FreeScalar(lattice, m2=1.0).log_z()
    flow = EquivariantCNF(pair, prior=FreeField(pair, m2=0.8)).double()
    action = ONModel(pair, m2=1.0, lam=0.0)
    ensemble = importance_sample(flow, action, 4000, certify=0, generator=torch.Generator().manual_seed(0))
    estimate = ensemble.log_z()
    assert estimate.error < 0.03
    assert abs(estimate.mean - exact) < 4 * estimate.error


def test_log_z_on_one_site_is_the_radial_integral():
    one = Multiplet(Lattice((1,)), 2)
    action = ONModel(one, m2=1.0, lam=1.0)
    # Z = int d^2 phi exp(-r^2 - r^4) = pi int_0^inf du exp(-u - u^2) with u = r^2
    exact = math.log(math.pi * math.exp(0.25) * math.sqrt(math.pi) / 2 * math.erfc(0.5))
    grid = log_integral(lambda phi: -action(phi.reshape(-1, 2, 1)), Lattice((2,)))
    assert abs(grid - exact) < 1e-10
    flow = EquivariantCNF(one, prior=FreeField(one, m2=1.0)).double()
    ensemble = importance_sample(flow, action, 20000, certify=0, generator=torch.Generator().manual_seed(0))
    estimate = ensemble.log_z()
    assert abs(estimate.mean - exact) < 4 * estimate.error < 0.05
