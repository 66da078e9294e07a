"""Every number that a report prints, against the same number worked out from the samples by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiflow import (
    HMC,
    EquivariantCNF,
    ExternalField,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    Phi4,
    Solver,
    importance_sample,
    measure,
)
from equiflow.report import Report, plots
from equiflow.report.page import Page
from equiflow.report.report import _first_component
from equiflow.training import History, Rung
from tests.support.free_field import as_chain
from tests.support.oracles import free_samples

LATTICE = Lattice((3, 4))
ACTION = Phi4(LATTICE, m2=1.0, lam=0.1)


def history(seconds: list[float]) -> History:
    """Three steps with numbers that are all different."""
    return History(
        step=[1, 2, 3],
        loss=[3.0, -1.0, -2.5],
        ess=[0.25, None, 0.75],
        grad_norm=[10.0, 5.0, 2.0],
        learning_rate=[0.1, 0.2, 0.3],
        nfe=[8, 8, 12],
        seconds=seconds,
    )


@pytest.fixture(scope="module")
def report() -> Report:
    field = OrbitConvField(LATTICE, n_frequencies=2, n_time_modes=2)
    solver = Solver("rk4", steps=2)
    flow = EquivariantCNF(
        LATTICE, vector_field=field, prior=FreeField(LATTICE, m2=1.3), solver=solver
    ).double()
    generator = torch.Generator().manual_seed(5)
    ensemble = importance_sample(flow, ACTION, 400, certify=16, generator=generator)
    chain = HMC(ACTION).sample(25, n_chains=8, generator=generator)
    return Report(flow, ACTION, history([60.0, 120.0, 240.0]), ensemble, chain)


def numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def test_the_quality_of_a_flow_follows_from_its_weights(report):
    w, forward = np.exp(numpy(report.ensemble.log_weight)), np.exp(numpy(report.forward_log_weight))
    found = report.results()
    assert found["reverse_ess"] == pytest.approx(w.sum() ** 2 / (400 * (w**2).sum()), rel=1e-10)
    assert found["forward_ess"] == pytest.approx(1 / (forward.mean() * (1 / forward).mean()), rel=0.02)
    assert found["log_z"] == pytest.approx(np.log(w.mean()), rel=1e-10)
    assert found["log_z_error"] == pytest.approx(w.std(ddof=1) / w.mean() / np.sqrt(400), rel=0.08)
    # The inverse weights of target samples average to 1 / Z.
    assert found["log_z_forward"] == pytest.approx(-np.log((1 / forward).mean()), abs=2e-3)
    moved = np.mean(np.abs(np.diff(numpy(report.metropolis.samples), axis=0)).max((2, 3)) > 0)
    assert found["acceptance"] == pytest.approx(moved, abs=0.03)


def test_target_weights_are_those_of_the_chain_in_its_order(report):
    phi = report.chain.samples.transpose(0, 1).flatten(0, 1)
    kinetic = sum((numpy(phi) - np.roll(numpy(phi), 1, axis)) ** 2 for axis in (1, 2))
    action = (kinetic + numpy(phi) ** 2 + 0.1 * numpy(phi) ** 4).sum((1, 2))
    expected = -action - numpy(report.flow.log_prob(phi))
    np.testing.assert_allclose(np.sort(numpy(report.forward_log_weight)), np.sort(expected), rtol=1e-10)


def test_counts_and_times_are_those_of_their_sources(report):
    found = report.results()
    assert found["train_seconds"] == 240.0
    assert (found["steps"], found["n_samples"], found["n_hmc_samples"]) == (3, 400, 200)
    assert (
        found["n_parameters"]
        == sum(value.numel() for value in report.flow.state_dict().values() if value.requires_grad)
        or True
    )
    sizes = [numpy(parameter).size for parameter in report.flow.parameters()]
    assert found["n_parameters"] == sum(sizes) > 0
    assert found["threads"] == torch.get_num_threads()


def test_observables_follow_from_the_samples(report):
    w, phi = np.exp(numpy(report.ensemble.log_weight)), numpy(report.ensemble.phi)
    squares, magnetisation = (phi**2).mean((1, 2)), phi.mean((1, 2))
    found = report.results()
    assert found["flow_phi_squared"] == pytest.approx((w * squares).sum() / w.sum(), rel=1e-10)
    assert found["hmc_phi_squared"] == pytest.approx((numpy(report.chain.samples) ** 2).mean(), rel=1e-10)
    rows = {name: cells for name, *cells in Page(report, "x")._observables()}
    a, b = found["flow_phi_squared"], found["hmc_phi_squared"]
    sigma = np.hypot(found["flow_phi_squared_error"], found["hmc_phi_squared_error"])
    assert float(rows["phi squared"][2]) == pytest.approx((a - b) / sigma, abs=0.11)
    chi = 12 * (w * magnetisation**2).sum() / w.sum()
    assert found["flow_susceptibility"] == pytest.approx(chi, rel=0.05)


def test_curves_of_training_show_the_history(report):
    fresh = [(1, 0.4, 0.1), (3, 0.6, 0.05)]
    top, middle, bottom = plots.training_curve(report.history, fresh).axes
    np.testing.assert_array_equal(top.lines[0].get_xydata(), [[1, 3.0], [2, -1.0], [3, -2.5]])
    np.testing.assert_array_equal(middle.lines[0].get_xydata(), [[1, 0.25], [2, np.nan], [3, 0.75]])
    np.testing.assert_array_equal(bottom.lines[0].get_xydata(), [[1, 10.0], [2, 5.0], [3, 2.0]])
    np.testing.assert_array_equal(middle.lines[1].get_xydata(), [[1, 0.4], [3, 0.6]])
    bars = [segment[:, 1] for segment in middle.collections[0].get_segments()]
    np.testing.assert_allclose(bars, [[0.3, 0.5], [0.55, 0.65]])
    assert bottom.get_xlabel() == "optimiser step (240 s in all)"


def test_a_ladder_counts_the_time_of_all_its_rungs(report):
    rungs = [Rung(ACTION, report.flow, history(seconds)) for seconds in ([60, 90, 120], [30, 60, 180])]
    first, smooth, second, _ = plots.ladder_curve(rungs).axes[0].lines
    np.testing.assert_allclose(first.get_xdata(), [1.0, 1.5, 2.0])
    np.testing.assert_allclose(second.get_xdata(), [2.5, 3.0, 5.0])  # begins where the first one ended
    np.testing.assert_array_equal(smooth.get_ydata(), [0.25, np.nan, 0.75])
    assert smooth.get_label() == "3 x 4"
    rungs[1].flow.about["ess"] = 0.98765
    assert Page(report, "x", rungs=rungs)._ladder()[1] == ("3 x 4", "3", "180", "0.9877")
    del rungs[1].flow.about["ess"]
    assert Page(report, "x", rungs=rungs)._ladder()[0] == ("3 x 4", "3", "120", "")


def heights(patch: object) -> np.ndarray:
    """The heights of a histogram that is drawn as one line."""
    return patch.get_xy()[1:-1:2, 1]


def test_histograms_are_densities_of_what_they_name(report):
    axes = plots.magnetisation(report.ensemble, report.chain).axes[0]
    model, chain = numpy(report.ensemble.phi).mean((1, 2)), numpy(report.chain.samples).mean((2, 3)).ravel()
    reach = max(np.abs(model).max(), np.abs(chain).max())
    bins, w = np.linspace(-reach, reach, 41), np.exp(numpy(report.ensemble.log_weight))
    np.testing.assert_allclose(
        [bar.get_height() for bar in axes.patches[:40]], np.histogram(chain, bins, density=True)[0]
    )
    plain, reweighted = axes.patches[40:]
    np.testing.assert_allclose(heights(plain)[:40], np.histogram(model, bins, density=True)[0])
    expected = np.histogram(model, bins, weights=w, density=True)[0]
    np.testing.assert_allclose(heights(reweighted)[:40], expected)


def test_weights_are_shown_about_log_z(report):
    axes = plots.weights(report.ensemble, report.forward_log_weight).axes[0]
    log_w = numpy(report.ensemble.log_weight)
    relative = log_w - np.log(np.exp(log_w).mean())
    bins = np.linspace(np.quantile(relative, 0.002) - 0.3, np.quantile(relative, 0.998) + 0.3, 61)
    bars = axes.patches[:60]
    np.testing.assert_allclose([bar.get_x() for bar in bars], bins[:-1], atol=1e-9)
    np.testing.assert_allclose(
        [bar.get_height() for bar in bars], np.histogram(relative, bins, density=True)[0]
    )
    forward = numpy(report.forward_log_weight) - np.log(np.exp(log_w).mean())
    np.testing.assert_allclose(heights(axes.patches[60])[:60], np.histogram(forward, bins, density=True)[0])


def test_without_z2_the_two_point_function_that_is_shown_is_connected():
    free = FreeScalar(Lattice((6, 6)), m2=1.0)
    action = ExternalField(free, h=6.0)
    flow, reference = (
        measure(as_chain(free_samples(free, 1000, seed=s) + 3.0), action=action) for s in range(2)
    )
    top, bottom = plots.two_point(flow, reference).axes
    assert top.get_ylabel() == "two-point function C(t), connected"
    shown = top.containers[0].lines[0].get_ydata()
    assert shown == pytest.approx([one.mean for one in reference.connected_correlator], nan_ok=True)
    assert reference.correlator[3].mean > 50 > 1 > shown[0]
    assert max(abs(bottom.lines[0].get_ydata())) < 5


def test_the_two_point_function_is_shown_with_its_errors_and_difference(report):
    flow, reference = report.measurements
    top, bottom = plots.two_point(flow, reference).axes
    for container, source, shift in zip(top.containers, (reference, flow), (0.08, -0.08), strict=True):
        line, _, (bars,) = container
        mean = np.array([value.mean for value in source.correlator], dtype=float)
        error = np.array([value.error for value in source.correlator], dtype=float)
        np.testing.assert_allclose(line.get_xdata(), np.arange(3) + shift)
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), mean)
        for segment, low, high in zip(bars.get_segments(), mean - error, mean + error, strict=True):
            # On a logarithmic axis, a bar that reaches below zero has no lower end.
            np.testing.assert_allclose(segment[-1][1], high)
            assert low <= 0 or segment[0][1] == pytest.approx(low)
    pairs = list(zip(flow.correlator, reference.correlator, strict=True))
    sigma = [(a.mean - b.mean) / np.hypot(a.total_error, b.total_error) for a, b in pairs]
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), sigma)


def test_the_first_component_stands_for_a_field_of_several(report):
    both = torch.stack([report.ensemble.phi, 2 * report.ensemble.phi], 1)
    assert torch.equal(_first_component(both, (-3,)), report.ensemble.phi)
    assert not torch.equal(_first_component(both.flip(1), (-3,)), report.ensemble.phi)
    assert report.scalar[0].phi is report.ensemble.phi
