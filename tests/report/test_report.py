"""The report about a flow: its numbers, its tables, and the folder that it leaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    AugmentedFlow,
    CoulombGas,
    EquivariantCNF,
    Estimate,
    ExtendedAction,
    Flow,
    FreeField,
    Lattice,
    OrbitConvField,
    Particles,
    Phi4,
    ReverseKL,
    Solver,
    fit,
    importance_sample,
)
from equiflow.report import Report, comparison_rows, plots, print_table, write_json
from equiflow.samplers import TwoLevels
from equiflow.theories.scalar.observables import phi_squared
from equiflow.training import History
from tests.support.oracles import one_site_moment
from tests.support.strategies import configurations

REQUIRED = {
    *("reverse_ess", "forward_ess", "acceptance", "log_z", "log_z_error", "log_z_shift"),
    *("train_seconds", "total_seconds", "nfe", "steps", "seed"),
}
PNG = b"\x89PNG\r\n\x1a\n"
PLOTS = {"training", "two_point", "effective_mass", "magnetisation", "weights", "configurations"}


def make(shape: tuple[int, ...], *, dtype: torch.dtype = torch.float64) -> Report:
    lattice = Lattice(shape)
    action = Phi4(lattice, m2=-4.0, lam=7.0)
    field = OrbitConvField(lattice, n_frequencies=2, n_time_modes=2, max_frequency=4.0)
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=6)).to(dtype=dtype)
    history = fit(flow, action, steps=20, batch_size=32, warmup=5, progress=False)
    generator = torch.Generator().manual_seed(1)
    ensemble = importance_sample(flow, action, 512, certify=64, generator=generator)
    chain = HMC(action).sample(20, n_chains=16, generator=generator, dtype=dtype)
    return Report(flow, action, history, ensemble, chain)


@pytest.fixture(scope="module")
def report() -> Report:
    return make((4, 4))


def test_a_report_shows_a_bar_where_it_is_asked_for(report, capfd):
    for shown in (True, False):
        replace(report, history=report.history).print(progress=shown)  # nothing is measured yet
        out, err = capfd.readouterr()
        assert "fresh samples" in out
        assert ("inverse flow" in err) == ("measuring" in err) == shown


@pytest.fixture(scope="module")
def saved(report, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    report.save(folder, settings={"seed": 3, "total_seconds": 1.5, "out": folder})
    return folder


def test_a_report_on_two_levels_says_so_and_compares_fine_weights(report):
    levels = TwoLevels(Solver("rk4", steps=2), fine_share=0.25)
    two = importance_sample(
        report.flow, report.action, 512, levels=levels, certify=64, generator=torch.Generator().manual_seed(2)
    )
    made = replace(report, ensemble=two)
    assert ("log Z corrected by", str(two.correction_of())) in made.quality()
    assert made.estimates["log_z"] == two.log_z()
    assert made.diagnosis.reverse_ess == two.by_fine_solver().effective_sample_size()
    # Each of 128 fine proposals is used once.
    assert made.metropolis.samples.shape[:2] == (16, 8)
    assert not any("corrected" in name for name, _ in report.quality())


def test_results_are_plain_json(report):
    results = report.results()
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results.keys() >= REQUIRED - {"seed", "total_seconds"}


def test_results_are_the_estimates_they_name(report):
    results = report.results()
    assert results["reverse_ess"] == report.ensemble.effective_sample_size().mean
    assert (results["log_z"], results["log_z_error"]) == (
        report.ensemble.log_z().mean,
        report.ensemble.log_z().error,
    )
    assert results["log_z_shift"] == report.certificate.log_z_shift
    assert results["steps"] == len(report.history) == 20
    assert results["nfe"] == report.certificate.nfe == 24
    assert results["n_samples"] == 512
    assert results["n_hmc_samples"] == 320
    assert results["dtype"] == "float64"
    # On samples of the target w is larger on average than on samples of the model.
    assert float(report.forward_log_weight.mean()) > float(report.ensemble.log_weight.mean())


def test_flow_and_hmc_agree_on_the_observables(report):
    flow, reference = report.measurements
    for name, estimate in flow.scalars().items():
        assert abs(estimate.sigmas_from(reference.scalars()[name])) < 4.5, name


def test_numbers_that_are_not_finite_become_null(report):
    certificate = replace(report.certificate, log_z_shift=math.nan, max_log_q_error=math.inf)
    broken = replace(report, ensemble=replace(report.ensemble, certificate=certificate))
    results = broken.results()
    assert results["log_z_shift"] is None
    assert results["max_log_weight_shift"] is None
    json.dumps(results, allow_nan=False)


def test_a_report_certifies_an_ensemble_that_is_not_reproducibly(report):
    bare = replace(report, ensemble=replace(report.ensemble, certificate=None))
    again = replace(bare)
    state = torch.get_rng_state()
    assert bare.results()["log_z_shift"] == again.results()["log_z_shift"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metropolis_of_a_report_does_not_follow_the_noise_of_its_ensemble(seed):
    action = Phi4(Lattice((1,)), m2=-0.5, lam=0.6)
    field = OrbitConvField(action.lattice, n_frequencies=1, n_time_modes=1)
    prior = FreeField(action.lattice, m2=0.5)
    flow = EquivariantCNF(
        action.lattice, vector_field=field, prior=prior, solver=Solver("euler", steps=1)
    ).double()
    generator = torch.Generator().manual_seed(seed)
    ensemble = importance_sample(flow, action, 50_000, generator=generator)
    chain = HMC(action).sample(4, n_chains=4, generator=generator)
    metropolis = Report(flow, action, History(), ensemble, chain).metropolis
    assert abs(metropolis.mean(phi_squared).sigmas_from(one_site_moment(action, 2))) < 4


def test_saving_leaves_everything_and_nothing_else(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {f"{name}.png" for name in PLOTS} | {"flow.pt", "results.json"}
    for name in PLOTS:
        content = (saved / f"{name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000


def test_saved_results_have_the_required_keys_and_the_settings(saved, report):
    content = json.loads((saved / "results.json").read_text())
    assert content.keys() >= REQUIRED
    assert (content["seed"], content["total_seconds"], content["out"]) == (3, 1.5, str(saved))
    assert content.items() >= report.results().items()


def test_the_saved_flow_has_the_same_density(saved, report):
    phi = configurations(report.flow.lattice)
    loaded = EquivariantCNF.load(saved / "flow.pt")
    assert torch.equal(loaded.log_prob(phi), report.flow.log_prob(phi))
    other = make((4, 4)).flow
    with torch.no_grad():
        other.vector_field.kernel.weight.mul_(1.1)
    assert not torch.allclose(other.log_prob(phi), report.flow.log_prob(phi), atol=1e-6)


def test_saving_again_replaces_the_files(report, tmp_path):
    for seed in (1, 2):
        report.save(tmp_path, settings={"seed": seed})
    assert json.loads((tmp_path / "results.json").read_text())["seed"] == 2
    assert len(list(tmp_path.iterdir())) == len(PLOTS) + 2


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6,), torch.float32), ((2, 2, 2), torch.float32), ((1, 4), torch.float64), ((2, 3), torch.float64)],
)
def test_every_dimension_and_precision_has_a_report(shape, dtype, tmp_path, capsys):
    report = make(shape, dtype=dtype)
    report.print()
    assert "log z" in capsys.readouterr().out
    report.save(tmp_path)
    assert (tmp_path / "configurations.png").exists() == (len(shape) == 2)
    assert EquivariantCNF.load(tmp_path / "flow.pt").dtype == dtype


def test_a_symmetric_phase_without_pole_mass_is_reported(tmp_path):
    report = make((3, 3))
    assert report.results()["flow_pole_mass"] is None
    report.save(tmp_path)


def test_printing_shows_every_number(report, capsys):
    report.print()
    text = capsys.readouterr().out
    for name, estimate in report.estimates.items():
        assert name.replace("_", " ") in text
        assert str(estimate) in text
    for name, estimate in report.measurements[0].scalars().items():
        assert name.replace("_", " ") in text
        assert str(estimate) in text
    assert "rk4(steps=6)" in text


def test_building_a_report_prints_nothing(report, tmp_path, capfd):
    report.results()
    report.save(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_comparison_counts_sigmas(report):
    flow, reference = report.measurements
    rows = comparison_rows(flow, replace(reference, phi_squared=Estimate(9.0, 0.5)))
    sigmas = {row[0]: float(row[3]) for row in rows}
    expected = flow.phi_squared.sigmas_from(Estimate(9.0, 0.5))
    assert sigmas["phi squared"] == pytest.approx(expected, abs=0.05)
    assert sigmas["phi squared"] < -10


def test_tables_hold_their_rows(capsys):
    print_table("title", ("one", "two"), [("alpha", 1), ("beta", 2.5)])
    text = capsys.readouterr().out
    assert [word for word in ("title", "one", "two", "alpha", "1", "beta", "2.5") if word not in text] == []


def test_json_that_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "results.json"
    write_json({"a": 1}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": math.nan}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("shape", [(8,), (4, 4, 4)])
def test_only_two_dimensional_configurations_are_drawn(shape):
    phi: Tensor = configurations(Lattice(shape))
    with pytest.raises(ValueError, match="2D"):
        plots.configurations(phi)


@pytest.fixture(scope="module")
def exact_map() -> Report:
    """A report about a flow of field and momentum."""
    lattice = Lattice((4, 4))
    action = Phi4(lattice, m2=1.0, lam=0.5)
    target = ExtendedAction(action)
    flow = AugmentedFlow(lattice, n_steps=1, n_channels=1, n_frequencies=2).double()
    history = fit(flow, target, objective=ReverseKL(), steps=30, batch_size=64, warmup=5, progress=False)
    generator = torch.Generator().manual_seed(1)
    ensemble = importance_sample(flow, target, 2048, certify=64, generator=generator)
    chain = HMC(action).sample(64, n_chains=16, n_thermalisation=50, generator=generator)
    return Report(flow, target, history, ensemble, chain)


def test_the_report_of_an_augmented_flow_saves_it_and_draws_the_field(exact_map, tmp_path, capsys):
    exact_map.save(tmp_path)
    exact_map.print()
    assert "log z" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.png" for name in PLOTS),
        "flow.pt",
        "results.json",
    }
    loaded = AugmentedFlow.load(tmp_path / "flow.pt")
    state = exact_map.ensemble.phi[:5]
    assert torch.equal(loaded.log_prob(state), exact_map.flow.log_prob(state))


def test_observables_of_an_augmented_flow_are_of_the_field_alone(exact_map):
    flow, reference = exact_map.measurements
    for name, estimate in flow.scalars().items():
        assert abs(estimate.sigmas_from(reference.scalars()[name])) < 4.5, name
    assert exact_map.warnings == ()
    # With the momenta the field would seem larger.
    wrong = exact_map.ensemble.mean(lambda state: state.square().flatten(1).mean(1))
    assert abs(wrong.sigmas_from(reference.phi_squared)) > 10


def test_both_directions_of_an_augmented_flow_give_one_log_z_which_includes_the_momenta(exact_map):
    found = exact_map.estimates
    assert abs(found["log_z_bridge"].sigmas_from(found["log_z"])) < 4.5
    shift = exact_map.action.log_z_shift
    assert abs(found["log_z"].mean - found["log_z_bridge"].mean) < 0.1 * shift


class Shifted(Flow):
    """A flow of a user's own, `phi = z + 1`, that does not say how it is saved."""

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z + 1, z.new_zeros(len(z))

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        return phi - 1, phi.new_zeros(len(phi))


def test_a_flow_that_cannot_be_saved_is_left_out(tmp_path):
    lattice = Lattice((3, 3))
    flow, action = Shifted(lattice, FreeField(lattice)), Phi4(lattice, m2=1.0, lam=0.5)
    ensemble = importance_sample(flow, action, 128, certify=16, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="effective samples"):  # the flow is no good one
        Report(flow, action, History(), ensemble).save(tmp_path)
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "flow.pt").exists()


def test_a_report_of_a_theory_without_observables_is_refused_before_anything_is_printed():
    action = CoulombGas(Particles(3, 2), beta=1.0)
    flow = EquivariantCNF(action.space)
    ensemble = importance_sample(flow, action, 200, certify=0)
    with pytest.raises(TypeError, match=r"real fields on a lattice.*estimate_observables"):
        Report(flow, action, History(), ensemble)
