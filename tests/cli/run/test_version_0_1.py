"""Run folders that version 0.1 wrote: they open, report, and go on where they were interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from equiflow import EquivariantCNF, importance_sample, measure
from equiflow.cli.run.folder import Run
from equiflow.cli.run.recorder import evaluate
from equiflow.report.report import Report
from equiflow.runtime.storage import load_safely, save_atomically
from tests.support.cli_runs import succeed

DATA = Path(__file__).parents[2] / "data" / "version_0_1"


@pytest.fixture
def finished(tmp_path) -> Run:
    """A copy of a run that version 0.1 has finished: a ladder of two lattices."""
    shutil.copytree(DATA / "run_finished", tmp_path / "finished")
    return Run.open(tmp_path / "finished")


@pytest.fixture
def interrupted(tmp_path) -> Run:
    """A copy of the same run, which version 0.1 was interrupted in on the last lattice."""
    shutil.copytree(DATA / "run_interrupted", tmp_path / "interrupted")
    return Run.open(tmp_path / "interrupted")


def losses(run: Run) -> list[tuple[int, int, float]]:
    return [(row["rung"], row["step"], pytest.approx(row["loss"], rel=1e-4)) for row in run.metrics]


def test_a_finished_run_loads_its_flow_and_its_history(finished):
    flow, source = finished.trained()
    assert source == "flow.pt"
    assert flow.lattice.shape == (4, 4)
    assert [len(history) for history in finished.histories()] == [4, 6]
    generator = torch.Generator().manual_seed(0)
    ensemble = importance_sample(flow, finished.action, 64, generator=generator)
    assert ensemble.effective_sample_size().mean > 0.5
    assert measure(ensemble, action=finished.action).susceptibility.mean > 0


def test_a_finished_run_evaluates_as_it_did(finished):
    last = finished.rungs[-1]
    best = max((row for row in finished.evaluations if row["rung"] == 2), key=lambda row: row["ess"])
    again = evaluate(EquivariantCNF.load(last.best), finished.action, last.config, last.before + best["step"])
    for name in ("ess", "log_z", "acceptance"):
        assert again[name] == pytest.approx(best[name], rel=1e-3)


def test_a_finished_run_is_reported_and_sampled(finished, monkeypatch):
    from matplotlib.figure import Figure

    names = ("two_point", "magnetisation", "weights", "configurations", "training", "effective_mass")
    monkeypatch.setattr(Report, "figures", lambda self, fresh=(): {name: Figure() for name in names})
    succeed("report", finished.folder, "-n", 2048, "--hmc", 0)
    page = (finished.folder / "report.html").read_text()
    assert all(version in page for version in ("0.1.0", "2.13.0+cpu"))
    succeed("sample", finished.folder, "-n", 2048)
    assert "susceptibility" in succeed("measure", finished.folder / "ensemble.npz")
    assert "step 6 of 6" in succeed("watch", finished.folder, "--once")


def test_a_finished_run_resumes_for_nothing(finished):
    before = (finished.folder / "flow.pt").read_bytes()
    assert len(finished.train(progress=False)) == 6
    assert (finished.folder / "flow.pt").read_bytes() == before
    assert [session["from_step"] for session in finished.sessions] == [0, 10]
    assert finished.sessions[0]["equiflow"] == "0.1.0"


def test_an_interrupted_run_ends_as_it_would_have(finished, interrupted):
    assert [len(history) for history in interrupted.histories()] != [4, 6]
    assert interrupted.trained()[1] == "best.pt"
    history = interrupted.train(progress=False)
    assert len(history) == 6
    assert losses(interrupted) == [(row["rung"], row["step"], row["loss"]) for row in finished.metrics]
    again, expected = interrupted.trained()[0].state_dict(), finished.trained()[0].state_dict()
    for name, weight in expected.items():
        assert torch.allclose(again[name], weight, rtol=1e-3, atol=1e-4), name


def test_other_noise_would_be_noticed(finished, interrupted):
    state = load_safely(interrupted.latest, "training")
    assert state["step"] < 6
    save_atomically({**state, "generator": torch.Generator().get_state()}, interrupted.latest)
    interrupted.train(progress=False)
    assert losses(interrupted) != [(row["rung"], row["step"], row["loss"]) for row in finished.metrics]
