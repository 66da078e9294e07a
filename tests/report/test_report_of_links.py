"""Reports about flows of links: histograms, histories, a frozen reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equiflow import HMC, EquivariantCNF, Lattice, Links, Solver, WilsonAction, importance_sample
from equiflow.report import Report, plots
from equiflow.report.page import Page
from equiflow.theories.gauge.observables import plaquette, topological_charge, topological_susceptibility
from equiflow.training import History
from tests.support.gauge import rng

LINKS = Links(Lattice((3, 4)), "U(1)")
ACTION = WilsonAction(LINKS, beta=0.6)


@pytest.fixture(scope="module")
def report() -> Report:
    flow = EquivariantCNF(LINKS, solver=Solver("rk4", steps=2))
    ensemble = importance_sample(flow, ACTION, 800, certify=16, generator=rng(1))
    chain = HMC(ACTION, step_size=0.4).sample(30, n_chains=8, n_thermalisation=20, generator=rng(2))
    return Report(flow, ACTION, History(), ensemble, chain)


def test_its_numbers_are_those_of_the_samples(report):
    found, weight = report.results(), report.ensemble.log_weight.softmax(0)
    charge, mean = topological_charge(LINKS), plaquette(LINKS)
    assert found["flow_plaquette"] == pytest.approx(
        float(weight @ mean(report.ensemble.phi).double()), rel=1e-6
    )
    square = charge(report.chain.configurations).square().mean() / 12
    assert found["hmc_topological_susceptibility"] == pytest.approx(float(square), rel=1e-9)
    flow, reference = report.measurements
    assert abs(flow.plaquette.sigmas_from(reference.plaquette)) < 4
    taus = [report.metropolis.tau_int(f).mean for f in (mean, charge, topological_susceptibility(LINKS))]
    assert found["tau_int"] >= max(tau for tau in taus if tau < 1e9)
    assert report.warnings == ()


def test_every_charge_has_a_bin(report):
    figure = report.figures()["histograms"]
    titles = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert titles[0] == "plaquette"
    assert titles[-2:] == ["topological charge", "topological susceptibility"]
    axes = figure.axes[titles.index("topological charge")]
    charge = topological_charge(LINKS)
    model, hmc = (charge(phi).numpy() for phi in (report.ensemble.phi, report.chain.configurations))
    charges = np.arange(min(model.min(), hmc.min()), max(model.max(), hmc.max()) + 1)
    bars = axes.patches[: len(charges)]
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], charges)
    np.testing.assert_allclose([bar.get_height() for bar in bars], [(hmc == q).mean() for q in charges])
    reweighted = axes.patches[-1].get_xy()[1:-1:2, 1][: len(charges)]
    weight = report.ensemble.log_weight.softmax(0).numpy()
    np.testing.assert_allclose(reweighted, [weight[model == q].sum() for q in charges], rtol=1e-5)


def test_histories_are_those_of_the_chains(report):
    figure = plots.histories(report.observables, report.metropolis, report.chain)
    row = [axes for axes in figure.axes if axes.get_ylabel() == "topological charge"]
    place = figure.axes.index(row[0])
    for axes, chain in zip(figure.axes[place : place + 2], (report.chain, report.metropolis), strict=True):
        series = chain.series(topological_charge(LINKS)).numpy()
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), series[:, 0])
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), series[:, 1])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["HMC", "flow with Metropolis"]
    assert len(plots.histories(report.observables, report.metropolis).axes) == len(report.observables)


def test_a_frozen_reference_is_warned_of(report):
    cold = LINKS.initial(8, rng(3), dtype=torch.float64)
    stiff = HMC(WilsonAction(LINKS, beta=30.0), step_size=0.05)
    chain = stiff.sample(30, n_chains=8, n_thermalisation=0, initial=cold, generator=rng(3))
    frozen = replace(report, chain=chain)
    assert any("topological charge changed 0 times per chain of 30" in text for text in frozen.warnings)
    assert "topological charge changed 0 times" in Page(frozen, "x").html()


def test_the_page_has_no_section_of_fields(report):
    html = Page(report, "links").html()
    assert 'id="two-point"' not in html
    assert 'href="#configurations"' not in html
    assert "Observables along two chains" in html
    assert "polyakov loop squared" in html
