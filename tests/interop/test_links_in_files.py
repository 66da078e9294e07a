"""Chains of links are written to files and read as the same, with their group."""

from __future__ import annotations

import pytest
import torch

from equiflow import HMC, MCLMC, AdjustedMCLMC, Lattice, Links, WilsonAction
from equiflow.interop import load_chain, save_samples
from tests.support.gauge import rng
from tests.support.strategies import needs


@pytest.mark.parametrize("ending", ["npz", pytest.param("h5", marks=needs("h5py"))])
@pytest.mark.parametrize("group", ["U(1)", "SU(2)", "SU(3)"])
def test_a_chain_comes_back_with_its_group(tmp_path, group, ending):
    action = WilsonAction(Links(Lattice((2, 3)), group), beta=1.0)
    chain = HMC(action, step_size=0.3).sample(3, n_chains=2, n_thermalisation=1, generator=rng())
    path = tmp_path / f"chain.{ending}"
    save_samples(chain, path)
    loaded = load_chain(path)
    assert torch.equal(loaded.samples, chain.samples)
    assert loaded.samples.dtype == chain.samples.dtype
    assert loaded.space == action.space


@pytest.mark.parametrize("kernel", [MCLMC, AdjustedMCLMC])
def test_microcanonical_chains_refuse_curved_spaces(kernel):
    with pytest.raises(TypeError, match=r"straight lines.*Use HMC"):
        kernel(WilsonAction(Links(Lattice((2, 2)), "SU(2)"), beta=1.0))
    kernel(WilsonAction(Links(Lattice((2, 2)), "U(1)"), beta=1.0))
