"""`equiflow watch`: a picture in a terminal, lines in a pipe, and whether anybody trains the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from equiflow.cli import watching
from equiflow.cli.run.folder import Run
from equiflow.cli.run.journal import append_line
from equiflow.cli.run.locking import LOCK_FILE, is_locked, locked
from equiflow.cli.watching import remaining, sparkline
from tests.support.cli_runs import invoke, succeed, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("run") / "tiny", "training.steps=30")


def test_watch_once_shows_where_the_run_is(run):
    output = succeed("watch", run.folder, "--once")
    for words in (
        "step 30 of 30",
        "loss",
        "ESS on fresh samples",
        "acceptance",
        "nfe",
        "gradient norm",
        "0:00:00",
    ):
        assert words in output
    last = run.evaluations[-1]
    assert f"{last['ess']:.4f} ± {last['ess_error']:.4f} (step 30)" in output
    assert f"{run.metrics[-1]['loss']:.6g}" in output
    assert succeed("watch", run.folder)  # returns, since training is done


def test_watch_before_the_first_step_and_the_first_evaluation(run, tmp_path):
    new = Run.create(tmp_path / "new", run.config)
    assert "No step has been taken yet" in succeed("watch", new.folder, "--once")
    lines = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (new.folder / "metrics.jsonl").write_text(lines[0] + lines[1][:20])
    output = succeed("watch", new.folder, "--once")
    assert "step 1 of 30" in output
    assert "not measured yet" in output
    assert "unknown" in output


def test_watch_says_whether_a_process_trains_the_run(run, tmp_path, monkeypatch):
    assert "Training is finished." in succeed("watch", run.folder, "--once")
    new = Run.create(tmp_path / "new", run.config)
    assert "No process is training it" in succeed("watch", new.folder, "--once")
    shutil.copy(run.folder / "metrics.jsonl", new.folder)
    output = " ".join(succeed("watch", new.folder, "--once").replace("│", " ").split())
    assert "No process is training it: it was stopped or killed." in output
    assert "equiflow resume" in output
    with locked(new.folder):
        assert "A process is training it." in succeed("watch", new.folder, "--once")
    (new.folder / LOCK_FILE).unlink()
    assert is_locked(new.folder) is False
    monkeypatch.setattr(watching, "is_locked", lambda folder: None)
    assert "cannot be known" in succeed("watch", new.folder, "--once")


@pytest.mark.parametrize("n_lines", [0, 12, 29])
def test_a_finished_run_whose_metrics_were_cut_off_is_not_one_without_steps(run, tmp_path, n_lines):
    """`flow.pt` says that all steps were taken, whatever is left of the metrics."""
    shutil.copytree(run.folder, tmp_path / "cut")
    lines = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "metrics.jsonl").write_text("".join(lines[:n_lines]) + lines[n_lines][:9])
    screen = " ".join(succeed("watch", tmp_path / "cut", "--once").replace("│", " ").split())
    piped = succeed("watch", tmp_path / "cut")
    for output in (screen, piped):
        assert f"cut off after step {n_lines} of 30" in output
        assert "Training is finished." in output
        assert "No step has been taken" not in output
        assert f"step {n_lines} of 30, loss" not in output
    assert watching.lost_records(run) == ""


def test_to_look_at_a_lock_does_not_take_it(run):
    """A run may begin while somebody watches it."""
    fcntl = pytest.importorskip("fcntl")
    with open(run.folder / LOCK_FILE) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert is_locked(run.folder) is False  # somebody else looks at it, too
        threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with locked(run.folder):
            assert is_locked(run.folder)


def test_time_to_the_end_follows_the_recent_pace():
    rows = [{"step": n, "seconds": 10.0 if n == 1 else 10 + 2.0 * n} for n in range(1, 302)]
    assert remaining(rows, 401) == pytest.approx(200.0)
    assert remaining(rows, 301) == 0.0


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(list(range(80)), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0], 8) == "▁▁"


def test_a_line_says_where_the_run_is(run, tmp_path):
    assert watching.progress(Run.create(tmp_path / "new", run.config)) == "No step has been taken yet."
    new = Run.open(tmp_path / "new")
    for step, seconds in ((1, 5.0), (2, 7.0), (3, 8.0)):
        append_line(
            new.folder / "metrics.jsonl",
            {"step": step, "loss": 2.5 - step, "ess": step / 8, "seconds": seconds},
        )
    # 27 steps are left, at 1.5 s a step.
    expected = "step 3 of 30, loss -0.5, ESS 0.3750 on the batch, time so far 0:00:08, to the end 0:00:40"
    assert watching.progress(new) == expected


def test_in_a_pipe_a_finished_run_is_told(run):
    lines = succeed("watch", run.folder).splitlines()
    assert lines == [watching.progress(run), f"{run.folder}: Training is finished."]
    assert lines[0].startswith("step 30 of 30, loss ")
    assert lines[0].endswith("to the end 0:00:00")


def test_in_a_pipe_a_run_is_followed_to_its_end(run, tmp_path, monkeypatch):
    """Each look sees two more steps; the last one sees the end."""
    new = Run.create(tmp_path / "new", run.config)
    written = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps = [json.loads(line)["step"] for line in written]
    shown, looks = [], iter(range(2, len(written) + 1, 2))

    with ExitStack() as stack:
        stack.enter_context(locked(new.folder))

        def sleep(seconds: float) -> None:
            count = next(looks, None)
            if count is None:
                shutil.copy(run.folder / "flow.pt", new.folder)
                stack.close()
            else:
                shown.append(steps[count - 1])
                (new.folder / "metrics.jsonl").write_text("".join(written[:count]))

        monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=sleep))
        lines = succeed("watch", new.folder).splitlines()
    assert lines[0] == "No step has been taken yet."
    assert [int(line.split()[1]) for line in lines[1:-1]] == shown == list(range(2, 31, 2))
    assert lines[-1] == f"{new.folder}: Training is finished."


@pytest.mark.parametrize("n_steps", [0, 2])
def test_in_a_pipe_the_end_of_a_killed_run_is_told(run, tmp_path, n_steps, monkeypatch):
    new = Run.create(tmp_path / "new", run.config)
    written = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (new.folder / "metrics.jsonl").write_text("".join(written[:n_steps]))
    looks: list[float] = []
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=looks.append))
    result = invoke("watch", new.folder, "--every", 7)
    assert result.exit_code == 1
    assert looks == [7.0]  # a process that is just beginning has the time for it
    assert f"step {n_steps} of 30. No process is training it: it was stopped or killed." in result.output
    assert "`equiflow resume" in result.output


def test_a_reader_that_leaves_ends_the_command_without_a_word(run):
    """As `equiflow watch RUN | head -1` does; the second line has no reader any more."""
    command = [sys.executable, "-m", "equiflow", "watch", str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1
