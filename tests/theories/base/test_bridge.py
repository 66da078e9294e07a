"""Actions between a prior and a target: their values, gradients, ends and refusals."""

from __future__ import annotations

import pytest
import torch

from equiflow import Bridge, FreeField, Lattice, Phi4, StandardNormal, geometric_path
from equiflow.testing import check_action
from equiflow.theories.base.bridge import rising_schedule

LATTICE = Lattice((3, 2))
ACTION = Phi4(LATTICE, m2=-1.0, lam=0.8)


def prior() -> FreeField:
    return FreeField(LATTICE, m2=0.7).double()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_bridge_is_the_geometric_mean_of_its_ends(beta):
    bridge, phi = Bridge(prior(), ACTION, beta=beta), torch.randn(5, *LATTICE.shape)
    expected = beta * ACTION(phi) - (1 - beta) * prior().log_prob(phi)
    torch.testing.assert_close(bridge(phi), expected)
    assert check_action(bridge).ok


def test_where_the_target_has_no_density_the_prior_has_one():
    class Walled(Phi4):
        def forward(self, phi):
            return torch.where((phi > 1).flatten(1).any(1), torch.inf, super().forward(phi))

    walled = Walled(LATTICE, m2=-1.0, lam=0.8)
    beyond = torch.full((1, *LATTICE.shape), 1.5)
    assert bool(Bridge(prior(), walled, beta=0.0)(beyond).isfinite())
    assert bool(Bridge(prior(), walled, beta=0.5)(beyond).isposinf())


def test_a_path_ends_at_the_target_itself():
    path = geometric_path(prior(), ACTION, (0.0, 0.2, 1.0))
    assert [type(action).__name__ for action in path] == ["Bridge", "Phi4"]
    assert path[-1] is ACTION
    assert path[0].beta == 0.2
    assert repr(path[0]) == f"Bridge(FreeField, {ACTION!r}, beta=0.2)"
    assert [action.beta for action in geometric_path(prior(), ACTION, 4)[:-1]] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("betas", [(0.0, 1.1), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0,), 0])
def test_schedules_rise_from_zero_to_one(betas):
    with pytest.raises(ValueError, match=r"rise from 0 to 1|must be an integer"):
        rising_schedule(betas)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_bridge_outside_of_its_ends_is_refused(beta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Bridge(prior(), ACTION, beta=beta)


def test_ends_on_different_spaces_are_refused():
    with pytest.raises(ValueError, match="the prior on"):
        Bridge(StandardNormal(Lattice((4,))), ACTION, beta=0.5)
    with pytest.raises(TypeError, match="prior must be"):
        Bridge(ACTION, ACTION, beta=0.5)
