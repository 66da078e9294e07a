"""Integrators: reversible, of second order, and Omelyan's with the smallest error."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import HMC, OMELYAN, Action, Lattice, Phi4
from equiflow.samplers import LEAPFROG, Integrator
from tests.support.strategies import configurations, lattices, seeds


def endpoint(integrator: Integrator, action: Action, n: int) -> Tensor:
    phi, momentum = 0.5 * configurations(action.lattice, 16), configurations(action.lattice, 16, seed=1)
    return torch.cat(integrator(action, phi, momentum, 1.0 / n, n))


@given(lattices(max_volume=30), seeds)
def test_omelyan_is_reversible(lattice, seed):
    action, phi = Phi4(lattice, m2=-1.0, lam=0.5), 0.5 * configurations(lattice, seed=seed)
    momentum = configurations(lattice, len(phi), seed=7)

    def round_trip(integrator: Integrator) -> float:
        there, p = integrator(action, phi, momentum, 0.12, 9)
        back, q = integrator(action, there, -p, 0.12, 9)
        return max(float((back - phi).abs().max()), float((q + momentum).abs().max()))

    assert round_trip(OMELYAN) < 1e-12
    assert round_trip(Integrator("lopsided", (0.2, 0.5, 0.3), (0.5, 0.5))) > 1e-5


@pytest.mark.parametrize("integrator", [LEAPFROG, OMELYAN], ids=lambda i: i.name)
def test_integrators_are_of_the_second_order(integrator):
    action = Phi4(Lattice((3, 4)), m2=-1.0, lam=1.0)
    one, two, four = (endpoint(integrator, action, n) for n in (20, 40, 80))
    order = math.log2(float((one - two).norm() / (two - four).norm()))
    assert order == pytest.approx(2, abs=0.1)
    # The counter-example: kicks that do not add up to one solve other equations.
    short = Integrator("short", tuple(0.95 * kick for kick in integrator.kicks), integrator.drifts)
    assert float((endpoint(short, action, 80) - four).norm()) > 100 * float((two - four).norm())


def energy_error(integrator: Integrator, gradients: int) -> float:
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=1.0)
    phi, momentum = 0.5 * configurations(action.lattice, 64), configurations(action.lattice, 64, seed=1)
    n, hmc = gradients // len(integrator.drifts), HMC(action)
    change = hmc.energy(*integrator(action, phi, momentum, 1.0 / n, n)) - hmc.energy(phi, momentum)
    return float(change.square().mean().sqrt())


def test_omelyan_has_the_smaller_error_for_as_many_gradients():
    assert energy_error(OMELYAN, 20) < 0.5 * energy_error(LEAPFROG, 20)
    other = Integrator("not of minimum norm", (0.25, 0.5, 0.25), (0.5, 0.5))
    assert energy_error(OMELYAN, 20) < 0.5 * energy_error(other, 20)
