"""Several processes give the results of one: the same gradients, weights, files and samples."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from equiflow import CheckpointError, SolverError
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import parse_config
from equiflow.cli.run.folder import Run
from equiflow.interop import describe_samples, load_ensemble, shards
from equiflow.runtime import distributed
from tests.support import distributed_jobs as jobs
from tests.support.cli_runs import TINY, content, same, tiny
from tests.support.leftovers import dead_process, half_written_by
from tests.support.processes import alone, together

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo and forks"
)


def distance(one, other) -> float:
    """Return the largest difference of history and weights, relative to the largest value."""
    (history, weights), (history_2, weights_2) = one, other
    columns = [
        (torch.tensor(history[name]), torch.tensor(history_2[name]))
        for name in history
        if name not in ("notes", "fresh_ess", "loss_name") and history[name][0] is not None
    ]
    pairs = [*columns, *((weights[name], weights_2[name]) for name in weights)]
    return max(float((a - b).abs().max() / (1e-300 + a.abs().max())) for a, b in pairs if a.numel())


@pytest.fixture(scope="module")
def two():
    return together(jobs.train_all)


@pytest.mark.parametrize("case", jobs.CASES)
def test_two_processes_take_the_steps_of_one(case, two):
    one = jobs.train(case)
    assert distance(one, two[0][case]) < 1e-11
    assert same(two[0][case], two[1][case])
    assert one[0]["step"] == [1, 2, 3]
    assert len(set(one[0]["loss"])) == 3


def test_three_processes_do_too():
    assert distance(jobs.train("path"), together(jobs.train, "path", n=3)[2]) < 1e-11


def test_couplings_with_a_focus_are_the_same_in_all_processes():
    one, two = jobs.train_with_focus(), together(jobs.train_with_focus)
    assert distance(one, two[0]) < 1e-10
    assert same(two[0], two[1])
    wrong = together(jobs.train_with_a_focus_of_its_own)
    assert distance(one, wrong[0]) > 1e-6


def test_two_processes_climb_a_ladder_like_one():
    one, two = jobs.climb(), together(jobs.climb)
    assert distance(one, two[0]) < 1e-7  # Adam amplifies rounding from step to step
    assert same(two[0], two[1])


@pytest.mark.parametrize(
    "mistake",
    [jobs.train_without_sum, jobs.train_with_equal_weights, jobs.train_with_noise_of_its_own],
)
def test_a_mistake_would_be_seen(mistake):
    assert distance(jobs.train("path"), together(mistake)[0]) > 1e-4


def test_all_start_from_the_weights_of_the_first(two):
    found = together(jobs.train_from_weights_of_its_own)
    assert same(found[0], two[0]["path"])
    assert same(found[1], two[0]["path"])


def test_the_first_process_alone_reads_and_writes(two):
    first, second = together(jobs.resume_on_disks_of_their_own)
    assert first[1:] == (["run.pt"], 3)
    assert second[1:] == ([], 0)
    assert same(first[0], two[0]["natural"])
    assert same(second[0], two[0]["natural"])


def test_another_number_of_processes_goes_on_with_a_run(tmp_path):
    options = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    jobs.stop_at(2, lambda: jobs.train("path", **options))
    found = together(jobs.train_on, "path", options)
    assert distance(jobs.train("path"), found[0]) < 1e-11


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize(
    ("error", "at", "ends"),
    [
        (SolverError("underflow in dt"), 1, "TrainingDivergedError: Training diverged at step 1.*underflow"),
        (ValueError("phi is NaN"), 2, "TrainingDivergedError: Training diverged at step 2.*phi is NaN"),
        (KeyboardInterrupt(), 2, "KeyboardInterrupt"),
    ],
)
def test_what_fails_in_one_fails_in_all(process, error, at, ends):
    for found in together(jobs.fail_in, process, error, at):
        assert re.match(ends, found)


def test_a_full_disk_of_the_first_stops_all():
    assert together(jobs.fail_in_callback) == [
        "OSError: the disk is full",
        "ElsewhereError: process 0: OSError: the disk is full",
    ]


def test_processes_with_other_settings_are_refused():
    first, second = together(jobs.train_with_a_seed_of_its_own)
    assert "seed is 0 in process 0, 1 in process 1" in first
    assert "seed is 1 in process 1, 0 in process 0" in second


def test_a_process_without_samples_is_refused():
    for found in together(jobs.train_on_less_than_a_sample_each):
        assert found.startswith("ValueError: batch_size = 1 cannot be shared by 2 processes")


def test_a_ladder_with_such_a_lattice_is_refused_before_the_first_is_trained():
    for found in together(jobs.climb_to_less_than_a_sample_each):
        assert found.startswith("ValueError: batch_size on (3, 3) = 1 cannot be shared by 2 processes")
        assert found.endswith("[]")


@pytest.mark.parametrize(
    ("name", "ladder", "settings"),
    [
        ("training.batch_size", "", ["training.batch_size=1"]),
        ("ladder.1.batch_size", "[[ladder]]\nshape = [2, 2]\nbatch_size = 1", []),
        ("optimiser.rows", "", ["optimiser.kind=natural", "optimiser.rows=1"]),
    ],
)
def test_a_run_with_such_a_batch_makes_no_folder(name, ladder, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    config = parse_config(TINY + ladder, source="tiny", overrides=settings)
    with pytest.raises(ConfigError, match=f"{name} = 1 cannot be shared by 2 processes.*at least 2"):
        Run.create(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_process_is_not_gone_on_with_by_too_many(tmp_path):
    Run.create(tmp_path / "run", tiny("training.batch_size=1"))
    (code, output), silent = together(jobs.command, "resume", str(tmp_path / "run"))
    assert code == 1
    assert "training.batch_size = 1 cannot be shared by 2 processes" in output
    assert silent == (1, "")
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_shards_are_one_ensemble_of_independent_samples(tmp_path):
    log_weight, other = together(jobs.shards, tmp_path / "two", 3)
    assert torch.equal(log_weight, other)
    ensemble = load_ensemble(tmp_path / "two")
    assert torch.equal(ensemble.log_weight, log_weight)
    assert ensemble.phi.shape == (103, 3, 3)
    assert len(ensemble.phi.flatten(1).unique(dim=0)) == 103
    assert torch.allclose(
        -jobs.ACTION(ensemble.phi) - jobs.a_flow().log_prob(ensemble.phi), log_weight, atol=1
    )
    assert ensemble.certificate.n_samples == 3 * 4
    assert describe_samples(tmp_path / "two")["n_samples"] == 103
    sizes = [describe_samples(path)["n_samples"] for path in sorted((tmp_path / "two").iterdir())]
    assert sizes == [34, 34, 35]
    jobs.shards(tmp_path / "one", 3)
    assert torch.equal(load_ensemble(tmp_path / "one").phi, ensemble.phi)


def test_shards_of_one_stream_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "stream", lambda *_, **__: torch.Generator().manual_seed(1))
    jobs.shards(tmp_path, 3)
    assert len(load_ensemble(tmp_path).phi.flatten(1).unique(dim=0)) < 40


def test_shards_that_are_there_are_kept(tmp_path):
    expected = jobs.shards(tmp_path, 3)
    sound, damaged, gone = sorted(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-200])
    gone.unlink()
    half_written_by(dead_process(), gone)
    with pytest.raises(CheckpointError):
        load_ensemble(tmp_path)
    kept = sound.stat()
    assert torch.equal(together(jobs.shards, tmp_path, 3)[1], expected)
    assert sound.stat() == kept
    assert sorted(tmp_path.iterdir()) == [sound, damaged, gone]
    gone.unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of its shards"):
        load_ensemble(tmp_path)


def test_the_missing_shards_are_dealt_evenly(tmp_path):
    jobs.shards(tmp_path, 4)
    first, _, third, _ = sorted(tmp_path.iterdir())
    first.unlink()
    third.unlink()
    assert together(jobs.shards_drawn, tmp_path, 4) == [[first.name], [third.name]]


def test_any_number_of_processes_goes_on_with_shards_wherever_their_run_is_now(tmp_path):
    expected = jobs.shards(tmp_path, 3, about={"run": "runs/here"})
    first, *_ = sorted(tmp_path.iterdir())
    first.unlink()
    assert together(jobs.shards_drawn, tmp_path, None) == [[first.name], []]
    assert torch.equal(jobs.shards(tmp_path, None, about={"run": "/moved/there"}), expected)


def test_shards_of_a_new_folder_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_VALUES", 25 * 9)
    jobs.shards(tmp_path, None)
    sizes = [describe_samples(path)["n_samples"] for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 5
    assert max(sizes) <= 25


def test_processes_wait_for_one_that_samples_for_days():
    assert alone(jobs.collective_timeout) > 6 * 24 * 3600


def test_shards_of_another_ensemble_are_not_joined(tmp_path):
    jobs.shards(tmp_path, 2)
    first, second = together(jobs.shards_outcome, tmp_path, 2, 1)
    assert "belongs to another ensemble: seed 0, here 1. Go on" in first
    assert second.startswith("ElsewhereError: process 0")
    with pytest.raises(ValueError, match=r"another ensemble: shards 2, here 1.*--shards"):
        jobs.shards(tmp_path, 1)
    with pytest.raises(ValueError, match=r"another ensemble: suffix \.npz, here \.h5"):
        jobs.shards(tmp_path, 2, suffix=".h5")
    with pytest.raises(ValueError, match="fewer shards"):
        jobs.shards(tmp_path / "other", 104)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    """Return a run that two processes have trained; only the first has seen its config."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    (code, output), silent = together(jobs.command, "train", "config.toml", "--run", str(folder), "--quiet")
    assert code == 0, output
    assert "Trained 7 steps" in output
    assert silent == (0, "")
    return Run.open(folder)


def test_a_run_of_two_processes_is_that_of_one(undisturbed, tmp_path):
    code, output = alone(jobs.command, "train", "config.toml", "--run", str(tmp_path / "run"))
    assert code == 0, output
    one = Run.open(tmp_path / "run")
    for name in ("metrics", "evaluations"):
        for ours, theirs in zip(getattr(one, name), getattr(undisturbed, name), strict=True):
            assert theirs.get("loss_name") == ours.get("loss_name")
            known = {"seconds": 0, "loss_name": 0}
            assert theirs | known == pytest.approx(ours | known, rel=1e-9)
    assert content(one)["files"] == content(undisturbed)["files"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_restarts_all_from_the_last_checkpoint(victim, undisturbed, tmp_path):
    (tmp_path / "config.toml").write_text(TINY)
    folder = tmp_path / "run"
    arguments = ["train", str(tmp_path / "config.toml"), "--run", str(folder), "--quiet"]
    alone(jobs.elastic, victim, *arguments)
    run = Run.open(folder)
    assert [session["from_step"] for session in run.sessions] == [0, 4]
    assert same(content(run), content(undisturbed))


def test_a_run_that_is_there_is_refused_in_all_but_said_once(undisturbed):
    arguments = ["train", "config.toml", "--run", str(undisturbed.folder)]
    (code, output), silent = together(jobs.command, *arguments)
    assert code == 1
    assert "holds a run already" in output
    assert silent == (1, "")


def test_samples_of_a_run_by_two_processes(undisturbed, tmp_path):
    out = tmp_path / "ensemble.h5"
    arguments = ["sample", str(undisturbed.folder), "-n", "50", "-o", str(out)]
    (code, output), silent = together(jobs.command, *arguments)
    assert code == 0, output
    assert "50 samples of flow.pt in 2 shards" in output
    assert silent == (0, "")
    assert load_ensemble(tmp_path / "ensemble").phi.shape == (50, 4, 4)
    assert sorted(path.name for path in (tmp_path / "ensemble").iterdir()) == [
        "samples-000000.h5",
        "samples-000001.h5",
    ]
    (tmp_path / "ensemble" / "samples-000001.h5").unlink()
    (code, output), *_ = together(jobs.command, *arguments, n=3)
    assert code == 0, output
    assert "50 samples of flow.pt in 2 shards" in output
    code, output = alone(jobs.command, "measure", str(tmp_path / "ensemble"))
    assert code == 0, output
    assert "reverse ESS" in output


@pytest.mark.slow
def test_torchrun_itself(undisturbed, tmp_path):
    """Do the same with the real command, and kill a process from outside."""
    (tmp_path / "config.toml").write_text(TINY)
    folder = tmp_path / "run"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    train = ["equiflow", "train", str(tmp_path / "config.toml"), "--run", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", *torchrun, "-m", "--", *train],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "checkpoints" / "latest.pt").exists() and process.poll() is None:
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert same(content(Run.open(folder)), content(undisturbed))
