"""The commands, on a run of a few seconds."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import equiflow
from equiflow import measure
from equiflow.cli import info, main, results, versions
from equiflow.cli.config.file import tomllib
from equiflow.cli.run.folder import Run
from equiflow.interop import describe_samples, load_ensemble
from equiflow.theories.scalar.presets import names
from tests.support.cli_runs import TINY, invoke, succeed, trained
from tests.support.strategies import needs

COMMANDS = ["train", "resume", "config", "presets", "watch", "sample", "measure", "report", "check", "info"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("run") / "tiny", "training.steps=30")


def test_from_a_config_to_samples_and_observables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TINY)
    output = succeed("train", "small.toml", "--set", "training.steps=4", "--quiet")
    assert "Trained 4 steps" in output
    assert "equiflow report runs/small" in output
    assert "log Z" in succeed("sample", "runs/small", "-n", 2048)
    output = succeed("measure", "runs/small/ensemble.npz", "--json", "numbers.json")
    numbers = json.loads(Path("numbers.json").read_text())
    assert f"{numbers['susceptibility']['mean']:.1f}" in output
    samples, about = load_ensemble("runs/small/ensemble.npz"), describe_samples("runs/small/ensemble.npz")
    expected = measure(samples)
    assert numbers["susceptibility"]["mean"] == expected.susceptibility.mean
    assert numbers["susceptibility"]["solver_error"] == expected.susceptibility.systematic > 0
    assert len(numbers["correlator"]) == 4
    assert about["action"]["text"] == "Phi4(shape=(4, 4), m2=-4.0, lam=7.0)"


def test_a_finished_run_that_is_resumed_is_said_to_be_finished(run):
    output = " ".join(succeed("resume", run.folder).split())
    assert "Nothing to do, this run is finished: 30 steps" in output
    assert "start.flow=" in output
    assert "Trained" not in output


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_what_is_no_ensemble_is_refused(content, tmp_path):
    (tmp_path / "e.npz").write_bytes(content)
    assert invoke("measure", tmp_path / "e.npz").exit_code == 1
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    result = invoke("measure", tmp_path / "other.npz")
    assert result.exit_code == 1
    assert "other.npz" in result.output


def test_samples_follow_their_seed(run, tmp_path):
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeed("sample", run.folder, "-n", 16, "-o", tmp_path / f"{name}.h5", "--seed", seed)
        drawn.append(load_ensemble(tmp_path / f"{name}.h5").phi)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_other_formats_are_refused(run, tmp_path):
    result = invoke("sample", run.folder, "-o", tmp_path / "e.csv")
    assert result.exit_code == 1
    assert ".npz" in result.output


def test_a_report_is_written_and_takes_the_hmc_samples_of_the_folder(run, monkeypatch):
    monkeypatch.setattr(results, "HMC_CHAINS", 8)
    output = succeed("report", run.folder, "-n", 128, "--hmc", 64)
    page = (run.folder / "report.html").read_text()
    assert "Both directions" in page or "Warning" in page
    assert "All laws hold" in page
    assert "lam = 7.0" in page
    assert "forward ess" in output
    names = {path.name for path in (run.folder / "plots").iterdir()}
    assert {"training.png", "results.json", "flow.pt"} <= names
    assert json.loads((run.folder / "plots" / "results.json").read_text())["steps"] == 30
    monkeypatch.setattr(results, "HMC", None)  # none are made where there are enough
    monkeypatch.setattr("equiflow.report.report.Report.figures", lambda self: {})
    monkeypatch.setattr("equiflow.report.page.Page.save", lambda self, path: None)
    assert "forward ess" in succeed("report", run.folder, "-n", 128, "--hmc", 0)
    (run.folder / "hmc.npz").write_bytes(b"damaged")
    assert "Or delete" in invoke("report", run.folder, "-n", 128, "--hmc", 0).output
    (run.folder / "hmc.npz").unlink()
    assert "forward ess" not in succeed("report", run.folder, "-n", 128, "--hmc", 0)


def test_check_finds_the_laws_kept_and_a_planted_mistake(run, monkeypatch):
    assert "all laws hold" in succeed("check", run.folder)
    from equiflow import OrbitConvField

    inner = OrbitConvField.velocity_and_divergence

    def wrong(self, phi, t):
        velocity, divergence = inner(self, phi, t)
        return velocity, 1.1 * divergence

    monkeypatch.setattr(OrbitConvField, "velocity_and_divergence", wrong)
    result = invoke("check", run.folder)
    assert result.exit_code == 1
    assert "FAIL  divergence = dense trace" in result.output


def test_on_large_lattices_the_symmetries_are_checked(run, monkeypatch):
    monkeypatch.setattr(results, "DENSE_SITES", 4)
    assert "symmetries only: all laws hold" in succeed("check", run.folder)


@pytest.mark.parametrize("command", ["resume", "watch", "sample", "report", "check"])
def test_a_folder_without_run_is_told(command, tmp_path):
    result = invoke(command, tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} holds no run" in result.output


def test_a_run_without_checkpoint_is_told(run, tmp_path):
    new = Run.create(tmp_path / "new", run.config)
    result = invoke("sample", new.folder)
    assert result.exit_code == 1
    assert "no checkpoint yet" in result.output


def test_mistakes_of_the_config_end_with_their_message(tmp_path):
    (tmp_path / "c.toml").write_text(TINY.replace("batch_size", "bach_size"))
    result = invoke("train", tmp_path / "c.toml", "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert "[training] bach_size: unknown key; did you mean batch_size?" in result.output
    assert not (tmp_path / "run").exists()
    assert invoke("train").exit_code == 2


def test_divergence_is_told(tmp_path):
    (tmp_path / "c.toml").write_text(TINY)
    result = invoke(
        "train",
        tmp_path / "c.toml",
        "--run",
        tmp_path / "run",
        "--set",
        "optimiser.learning_rate=1e9",
        "--quiet",
    )
    assert result.exit_code == 1
    assert "Training diverged at step" in result.output


def test_defaults_are_shown_by_both_commands():
    assert succeed("train", "--show-defaults") == succeed("config")


def test_help_names_every_command():
    output = succeed("--help")
    assert all(command in output for command in COMMANDS)


def test_presets_are_listed_and_printed():
    listed = succeed("presets")
    assert "lam" in listed
    assert all(name in listed for name in names())
    assert "[lattice]" in succeed("presets", names()[0])
    assert "bacchio-su3-beta6" in listed
    assert 'group = "SU(3)"' in succeed("presets", "bacchio-su3-beta6")
    assert invoke("presets", "E99").exit_code == 1


def test_info_says_how_to_get_what_is_missing(monkeypatch):
    assert torch.__version__ in succeed("info")
    monkeypatch.setattr(info, "installed_version", lambda package: None if package == "e3nn" else "1.0")
    assert "pip install '.[o3]'" in " ".join(succeed("info").split())


def test_info_knows_every_extra():
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert set(info.EXTRAS) == set(extras)
    for extra, (packages, _) in info.EXTRAS.items():
        required = {re.split(r"[^\w.-]", line)[0] for line in extras[extra]}
        assert set(packages) <= required
        if extra != "dev":
            assert required - set(packages) <= {"equiflow-lattice", "numpy", "tomli"}
    table = " ".join(succeed("info").split())
    assert all(f" {extra} " in table for extra in extras)


@pytest.mark.parametrize("version", ["2.14.1+cu130", "2.14.1"])
def test_torch_is_named_with_the_suffix_of_its_build(version, run, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(versions, "version", lambda package: "2.14.1")  # as metadata say it
    assert dict(info.installation())["torch"] == version
    assert versions.versions()["torch"] == version


def test_equiflow_is_named_as_it_names_itself(run):
    """The distribution has another name than the module."""
    assert dict(info.installation())["equiflow"] == equiflow.__version__
    assert run.sessions[0]["equiflow"] == equiflow.__version__


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    assert versions.installed_version("no-such-package-of-ours") is None
    monkeypatch.setattr(versions, "PACKAGES", ("no-such-package-of-ours",))
    assert versions.versions()["no-such-package-of-ours"] == "missing"


def test_python_m_equiflow_says_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["equiflow", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("equiflow", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"equiflow {equiflow.__version__}"


def test_without_the_extra_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "equiflow.cli.app")
    with pytest.raises(SystemExit, match=r"needs typer: pip install '\.\[cli\]'"):
        main()


@needs("tensorboard")
def test_numbers_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(tmp_path / "run", "run.tensorboard=true", "training.steps=3")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    loss = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert loss == [(row["step"], pytest.approx(row["loss"])) for row in run.metrics]
    assert events.Scalars("fresh samples/ess")


def test_without_tensorboard_a_run_that_wants_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "c.toml").write_text(TINY)
    result = invoke(
        "train", tmp_path / "c.toml", "--run", tmp_path / "run", "--set", "run.tensorboard=true", "-q"
    )
    assert result.exit_code == 1
    assert "pip install '.[tensorboard]'" in result.output
