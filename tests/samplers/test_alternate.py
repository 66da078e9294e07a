"""Kernels in turn: which ones belong together, and what each of them says about tuning."""

from __future__ import annotations

import pytest

from equiflow import HMC, Alternate, IndependenceStep, LatentHMC, Lattice, Phi4, SwendsenWang, Wolff
from tests.support.updates import CHAIN, coarse_flow, generator


def test_stuck_hmc_is_seen_behind_a_kernel_that_moves():
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)
    kernel = Alternate(SwendsenWang(action), HMC(action, step_size=1.5))
    with pytest.raises(RuntimeError, match="accepted no trajectory"):
        kernel.sample(10, n_chains=8, generator=generator())


def test_kernels_of_different_actions_do_not_mix():
    with pytest.raises(ValueError, match="share one action"):
        Alternate(HMC(CHAIN), Wolff(Phi4(Lattice((3,)), m2=-1.0, lam=0.8)))
    with pytest.raises(ValueError, match="share one action"):
        Alternate()


def test_kernels_of_different_flows_do_not_mix():
    one, other = coarse_flow(CHAIN.lattice), coarse_flow(CHAIN.lattice)
    with pytest.raises(ValueError, match="share one flow object, got 2"):
        Alternate(HMC(CHAIN), LatentHMC(one, CHAIN), IndependenceStep(other, CHAIN))
    assert Alternate(HMC(CHAIN), LatentHMC(one, CHAIN), IndependenceStep(one, CHAIN)).flow is one
