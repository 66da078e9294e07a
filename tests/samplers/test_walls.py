"""Where the density is zero no chain goes, and none starts; another precision is named as such."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from equiflow import HMC, MCLMC, Action, AdjustedMCLMC, EquivariantCNF, Lattice, Solver, fit
from tests.support.updates import generator

LATTICE = Lattice((2, 2))


class Half(Action):
    """Independent half-normal numbers."""

    def __init__(self, *, starts_inside: bool = True) -> None:
        super().__init__(LATTICE)
        self.starts_inside = starts_inside

    def forward(self, phi):
        inside = (phi > 0).flatten(1).all(1)
        return torch.where(inside, 0.5 * phi.square().sum((1, 2)), math.inf)

    def initial(self, n, generator=None, *, device="cpu", dtype=torch.float64):
        start = torch.rand((n, 2, 2), generator=generator, device=device, dtype=dtype) + 0.5
        return start if self.starts_inside else -start


def test_unadjusted_chains_stay_where_the_density_is():
    kernel = MCLMC(Half(), step_size=0.1, decoherence_length=1.0)
    chain = kernel.sample(60, n_chains=64, n_thermalisation=20, generator=generator())
    assert float(chain.samples.min()) > 0
    assert 0.1 < chain.acceptance_rate.mean < 0.6  # as many ends lie beyond a wall
    estimate = chain.mean(lambda phi: phi.mean((1, 2)))
    # The counter-example: a chain that passed the walls would have the mean 0.
    assert estimate.mean == pytest.approx(math.sqrt(2 / math.pi), abs=0.08)


@pytest.mark.filterwarnings("ignore:.* chains accepted no trajectory")  # one that sits in a corner
def test_a_step_is_tuned_by_the_trajectories_that_meet_no_wall():
    chain = MCLMC(Half()).sample(40, n_chains=16, n_thermalisation=40, generator=generator())
    assert chain.step_size > 0.1
    assert float(chain.samples.min()) > 0


@pytest.mark.parametrize("kernel", [MCLMC, AdjustedMCLMC])
def test_chains_that_all_start_where_the_density_is_zero_are_refused_at_once(kernel):
    with pytest.raises(RuntimeError, match=r"infinite at every field\. Give another initial field"):
        kernel(Half(starts_inside=False)).sample(4, n_chains=8, generator=generator())


class Network(Action):
    """An action with parameters in single precision."""

    def __init__(self) -> None:
        super().__init__(LATTICE)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, phi):
        return phi.square().sum((1, 2)) + (self.network(phi) + self.network(-phi))[:, 0].square()


@pytest.mark.parametrize("kernel", [HMC, MCLMC])
def test_parameters_of_another_precision_are_named_with_the_remedy(kernel):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        action = Network().float()
    with pytest.raises(TypeError, match=r"Network has parameters .* torch.float64: .* action by .double\(\)"):
        kernel(action).sample(2, n_chains=4, n_thermalisation=2, generator=generator())
    kernel(action.double()).sample(2, n_chains=4, n_thermalisation=2, generator=generator())


@pytest.mark.filterwarnings("ignore:The flow is symmetric")
def test_fit_takes_an_action_with_parameters_in_single_precision():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        action = Network().float()
    flow = EquivariantCNF(LATTICE, solver=Solver("euler", steps=1)).float()
    fit(flow, action, steps=1, batch_size=4, progress=False)

    class Detached(Network):
        def forward(self, phi):
            return super().forward(phi) + (phi - phi.roll(1, 1).detach()).square().sum((1, 2))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detached = Detached().float()
    with pytest.raises(ValueError, match="part of S detached"):
        fit(flow, detached, steps=1, batch_size=4, progress=False)
