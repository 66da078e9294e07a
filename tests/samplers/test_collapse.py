"""HMC whose step size collapses gives up soon and names the cause, and its remedy works."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from equiflow import HMC, Action, FreeScalar, Lattice, Phi4
from equiflow.samplers.collapse import largest_frequency
from equiflow.samplers.hmc import MAX_STEPS_PER_TRAJECTORY, OVERSHOOT
from equiflow.theories.base.action_gradients import gradient_error
from equiflow.theories.scalar.observables import phi_squared
from tests.support.strategies import configurations
from tests.support.updates import generator

SMALL = Lattice((4, 4))


class Factor(Phi4):
    """An action whose gradient has another factor, and that counts its gradients."""

    factor = 1.0
    n_gradients = 0

    def grad(self, phi: Tensor) -> Tensor:
        self.n_gradients += 1
        return self.factor * super().grad(phi)


class Wall(Action):
    def forward(self, phi: Tensor) -> Tensor:
        inside = (phi.abs() < 1).flatten(1).all(1)
        return torch.where(inside, phi.square().flatten(1).sum(1), math.inf)


def tune(action: Action) -> None:
    HMC(action).sample(20, n_chains=16, generator=generator())


@pytest.mark.parametrize(("factor", "percent"), [(0.5, 33), (0.0, 100), (-1.0, 100), (1.5, 20)])
def test_a_wrong_gradient_is_named_after_a_bounded_number_of_steps(factor, percent):
    action = Factor(SMALL, m2=1.0, lam=1.0)
    action.factor = factor
    with pytest.raises(RuntimeError, match=rf"collapsed.* differs from finite .* by {percent}%"):
        tune(action)
    # The steps shrink by a factor of about two per trajectory.
    assert action.n_gradients < 6 * OVERSHOOT * MAX_STEPS_PER_TRAJECTORY


def test_a_hard_wall_is_named():
    with pytest.raises(RuntimeError, match=r"collapsed.*hard wall.*shorter trajectory_length"):
        tune(Wall(SMALL))
    # A smaller step than the distance to the wall samples it: the truth is that of a truncated Gaussian.
    one_site = HMC(Wall(Lattice((1,))), step_size=0.05, trajectory_length=0.3)
    chain = one_site.sample(600, n_chains=64, generator=generator())
    line = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    weight = (-line.square()).exp()
    exact = float((weight * line.square()).sum() / weight.sum())
    assert abs(chain.mean(phi_squared).sigmas_from(exact)) < 4
    assert abs(chain.mean(phi_squared).sigmas_from(1.1 * exact)) > 4


@pytest.mark.parametrize("lam", [0.0, 1e8])
def test_a_stiff_action_is_named_and_sampled_as_the_message_says(lam):
    action = Phi4(SMALL, m2=1e9, lam=lam)
    with pytest.raises(RuntimeError, match="The action is stiff") as refusal:
        tune(action)
    length = float(re.search(r"Give trajectory_length=(\S+),", str(refusal.value))[1])
    chain = HMC(action, trajectory_length=length).sample(300, n_chains=64, generator=generator())
    # The quartic term is 1e-11 of the quadratic one where the density is not negligible.
    exact = float(FreeScalar(SMALL, m2=1e9).mode_variance().mean())
    assert chain.acceptance_rate.mean == pytest.approx(0.8, abs=0.1)
    assert abs(chain.mean(phi_squared).sigmas_from(exact)) < 4
    assert abs(chain.mean(phi_squared).sigmas_from(1.1 * exact)) > 6


@pytest.mark.parametrize("m2", [0.5, 1e9])
def test_the_largest_frequency_of_a_free_field_is_that_of_its_modes(m2):
    action = FreeScalar(Lattice((2, 3)), m2=m2)
    phi = 0.1 * configurations(action.lattice, 3)
    exact = 1 / math.sqrt(float(action.mode_variance().min()))
    assert largest_frequency(action, phi, configurations(action.lattice, 3, seed=1)) == pytest.approx(
        exact, rel=1e-2
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 10.0])
def test_the_error_of_a_gradient_is_its_relative_difference(scale):
    action, phi = Factor(SMALL, m2=-1.0, lam=0.7), scale * configurations(SMALL, 8)
    direction = configurations(SMALL, 8, seed=1)
    assert gradient_error(action, phi, direction) < 1e-6
    for factor in (1.01, 3.0):
        action.factor = factor
        expected = (factor - 1) / (factor + 1)
        assert gradient_error(action, phi, direction) == pytest.approx(expected, rel=0.1)
