"""Samples as xarray and ArviZ see them, where these are installed."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch

from equiflow import IndependenceMetropolis
from equiflow.interop import to_arviz, to_xarray
from equiflow.statistics import LowEffectiveSampleSizeWarning
from equiflow.theories.scalar.observables import magnetisation, phi_squared
from tests.support.samples import a_chain, an_ensemble

needs_xarray = pytest.mark.skipif(
    importlib.util.find_spec("xarray") is None and "CI" not in os.environ, reason="needs xarray"
)
needs_arviz = pytest.mark.skipif(
    importlib.util.find_spec("arviz") is None and "CI" not in os.environ, reason="needs ArviZ"
)
# ArviZ 0.x announces its version 1 on every import.
announcement = pytest.mark.filterwarnings("ignore::FutureWarning:arviz", "ignore::DeprecationWarning")


@needs_xarray
def test_an_ensemble_with_its_weights():
    ensemble = an_ensemble()
    data = to_xarray(ensemble, observables={"phi2": phi_squared})
    assert data.phi.dims == ("draw", "x0", "x1")
    assert data.sizes == {"draw": 40, "x0": 4, "x1": 4}
    assert (data.log_q.values == ensemble.log_q.numpy()).all()
    weighted = data.phi2.weighted(np.exp(data.log_weight - data.log_weight.max())).mean()
    with pytest.warns(LowEffectiveSampleSizeWarning):  # these few samples are only compared
        expected = ensemble.mean(phi_squared).mean
    assert float(weighted) == pytest.approx(expected, rel=1e-12)
    assert float(data.phi2.mean()) != pytest.approx(float(weighted), rel=1e-6)
    assert "log Z moves by" in data.attrs["certificate"]


@needs_xarray
def test_a_chain_has_its_axes_the_other_way_round():
    chain = a_chain()
    data = to_xarray(chain, observables={"m": magnetisation})
    assert data.phi.dims == ("chain", "draw", "x0", "x1")
    assert data.sizes == {"chain": 3, "draw": 12, "x0": 4, "x1": 4}
    assert (data.phi.isel(chain=1, draw=5).values == chain.samples[5, 1].numpy()).all()
    assert (data.m.values == chain.series(magnetisation).T.numpy()).all()
    assert (data.acceptance_rate.values == chain.acceptance.T.numpy()).all()
    assert "phi" not in to_xarray(chain, fields=False)


@announcement
@needs_arviz
def test_arviz_takes_a_chain():
    import arviz

    chain = a_chain(60)
    data = to_arviz(chain, observables={"phi2": phi_squared}, fields=False)
    assert (data.posterior.phi2.values == chain.series(phi_squared).T.numpy()).all()
    assert data.sample_stats.acceptance_rate.shape == (3, 60)
    summary = arviz.summary(data, var_names=["phi2"], round_to="none")
    assert float(summary["mean"].iloc[0]) == pytest.approx(chain.mean(phi_squared).mean, rel=1e-6)


@announcement
@needs_arviz
def test_weights_have_to_become_a_chain_first():
    ensemble = an_ensemble()
    with pytest.raises(TypeError, match=r"IndependenceMetropolis\.from_ensemble"):
        to_arviz(ensemble)
    chain = IndependenceMetropolis.from_ensemble(ensemble, generator=torch.Generator().manual_seed(5))
    data = to_arviz(chain)
    assert data.posterior.phi.shape == (1, 40, 4, 4)


@pytest.mark.parametrize(("function", "missing"), [(to_xarray, "xarray"), (to_arviz, "arviz")])
def test_without_them_the_message_says_what_to_do(monkeypatch, function, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install '\.\[arviz\]'"):
        function(a_chain(4))
