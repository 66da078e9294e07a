"""Every update leaves `exp(-S)` invariant, and the tests see updates with planted mistakes that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    OMELYAN,
    Action,
    AdjustedMCLMC,
    Alternate,
    Flow,
    IndependenceStep,
    Kernel,
    LatentHMC,
    LocalMetropolis,
    Phi4,
    SwendsenWang,
    Wolff,
    fused,
)
from equiflow.samplers import Integrator, LatentAction, Outcome
from tests.support.invariance import balance_pvalue, exact_samples, invariance_pvalue
from tests.support.updates import CHAIN, SITE, bonds_of, flow_on, generator

Make = Callable[[Phi4], Kernel]


@cache
def shared_flow(action: Phi4) -> Flow:
    """Return one flow for all kernels of an action."""
    return flow_on(action.lattice)


def names(action: Phi4, kernels: dict[str, Make]) -> list[str]:
    """Return the kernels that can update fields of the action: a direction needs two numbers."""
    return [name for name in kernels if action is not SITE or name != "adjusted MCLMC"]


KERNELS: dict[str, Make] = {
    "HMC": lambda action: HMC(action, step_size=0.55, trajectory_length=1.1),
    "HMC, Omelyan": lambda action: HMC(action, step_size=0.8, trajectory_length=1.6, integrator=OMELYAN),
    "adjusted MCLMC": lambda action: AdjustedMCLMC(action, step_size=0.6, trajectory_length=1.3),
    "local": lambda action: LocalMetropolis(action, width=0.8),
    "Swendsen-Wang": SwendsenWang,
    "Wolff": Wolff,
    "independence": lambda action: IndependenceStep(shared_flow(action), action, n_proposals=2),
    "latent HMC": lambda action: LatentHMC(shared_flow(action), action, step_size=0.9, trajectory_length=1.8),
}
EVERY: dict[str, Make] = KERNELS | {
    "HMC and Wolff": lambda action: Alternate(HMC(action, step_size=0.5), Wolff(action)),
    "all in turn": lambda action: Alternate(*(KERNELS[name](action) for name in names(action, KERNELS))),
}
#: those that fused kernels can do, which are tested with and without them
FUSED = ["HMC", "HMC, Omelyan", "adjusted MCLMC", "local", "Swendsen-Wang", "Wolff"]
#: all updates in detailed balance; a sweep of all colours leaves the target invariant without it
REVERSIBLE = [name for name in KERNELS if name != "local"]


ACTIONS = {"1 site": SITE, "3 sites": CHAIN}


def ways(kernels: Iterable[str]) -> list[tuple[str, bool]]:
    """Return the ways to test each kernel: as it is, and without fused kernels."""
    return [
        (name, is_fused) for name in kernels for is_fused in ((True, False) if name in FUSED else (True,))
    ]


@pytest.mark.parametrize(
    ("site", "name", "is_fused"),
    [(site, *way) for site, action in ACTIONS.items() for way in ways(names(action, EVERY))],
)
def test_updates_leave_the_target_invariant(site, name, is_fused):
    with fused.switched(is_fused):
        assert invariance_pvalue(EVERY[name](ACTIONS[site]), 8_000) > 1e-3


@pytest.mark.parametrize(("name", "is_fused"), ways(REVERSIBLE))
def test_updates_balance_in_detail(name, is_fused):
    with fused.switched(is_fused):
        assert balance_pvalue(KERNELS[name](CHAIN), 10_000) > 1e-3


def test_a_sweep_of_one_site_balances_in_detail():
    assert balance_pvalue(LocalMetropolis(SITE, width=0.8)) > 1e-3


def test_an_update_leaves_its_argument_alone():
    phi = exact_samples(CHAIN, 50)
    before = phi.clone()
    for make in EVERY.values():
        make(CHAIN).update(phi, generator())
    assert torch.equal(phi, before)


# Planted mistakes.


class Always(Kernel):
    """A kernel that accepts every proposal."""

    def __init__(self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
        def accept(log_ratio: Tensor, proposal: Tensor, *_: object) -> tuple[Tensor, Outcome]:
            return proposal, Outcome(torch.ones(len(proposal)), torch.ones(len(proposal)))

        for module in ("hmc", "mclmc", "metropolis"):
            monkeypatch.setattr(f"equiflow.samplers.{module}.metropolis", accept)
        self.kernel, self.action = kernel, kernel.action

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        return self.kernel.update(phi, generator)


class WithoutJacobian(LatentAction):
    """The action in noise without the determinant of the flow."""

    def configurations(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        phi, log_weight = super().configurations(noise)
        _, log_det = self.flow.transform_and_log_det(self.flow.prior.colour(noise))
        return phi, log_weight - log_det


def without_jacobian(action: Action) -> LatentHMC:
    kernel = LatentHMC(flow_on(action.lattice), action, step_size=0.9, trajectory_length=1.8)
    kernel.hmc.action = WithoutJacobian(kernel.latent.flow, action)
    return kernel


@pytest.mark.parametrize("name", ["HMC", "HMC, Omelyan", "adjusted MCLMC", "independence", "latent HMC"])
def test_acceptance_without_the_ratio_is_seen(name, monkeypatch):
    with fused.switched(False):
        assert invariance_pvalue(Always(KERNELS[name](CHAIN), monkeypatch), 6_000) < 1e-4


def test_a_missing_jacobian_is_seen():
    assert invariance_pvalue(without_jacobian(CHAIN), 10_000) < 1e-4


@pytest.mark.parametrize(("kernel", "factor"), [(SwendsenWang, 2.0), (Wolff, 8.0)])
def test_a_wrong_bond_probability_is_seen(kernel, factor, monkeypatch):
    monkeypatch.setattr("equiflow.samplers.cluster.bonds", bonds_of(factor))
    with fused.switched(False):
        assert invariance_pvalue(kernel(CHAIN), 40_000) < 1e-4


def test_neighbours_moved_at_once_are_seen():
    kernel = LocalMetropolis(CHAIN, width=0.8)
    kernel._colours = torch.zeros(3, dtype=torch.int64)
    with fused.switched(False):
        assert invariance_pvalue(kernel, times=3) < 1e-4


def test_a_splitting_that_is_not_symmetric_is_seen():
    lopsided = Integrator("lopsided", (0.45, 0.5, 0.05), (0.5, 0.5))
    kernel = HMC(CHAIN, step_size=0.8, trajectory_length=1.6, integrator=lopsided)
    assert balance_pvalue(kernel) < 1e-4
