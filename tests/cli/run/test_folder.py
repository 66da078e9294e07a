"""Runs: killed anywhere they go on bit for bit; a full disk stops them with their checkpoint intact."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from equiflow import CheckpointError, EquivariantCNF
from equiflow.cli.app import app
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.run import folder as folder_module
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.locking import locked
from equiflow.cli.run.recorder import Recorder, evaluate
from equiflow.runtime import storage
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import load_safely
from tests.support.cli_runs import TINY, Executioner, KilledError, content, same, tiny, trained
from tests.support.leftovers import dead_process, half_written_by


@pytest.fixture(autouse=True, scope="module")
def _float64() -> Iterator[None]:
    """The default dtype of users, not that of the laws: runs of this process and of others are compared."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("undisturbed") / "run")


def counted_writes(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        executioner = Executioner(patch, at=-1)
        trained(folder)
        return executioner.count


def test_killed_at_any_write_a_run_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    expected = content(undisturbed)
    n_writes = counted_writes(tmp_path / "counted")
    assert n_writes > 20
    for at in range(2, n_writes + 1):  # the first makes the run
        folder = tmp_path / f"killed-{at}"
        with pytest.MonkeyPatch.context() as patch:
            Executioner(patch, at)
            with pytest.raises(KilledError):
                trained(folder)
        run = Run.open(folder)
        run.train(progress=False)
        assert same(content(run), expected), f"killed at write {at}"


def test_killed_twice_it_still_does(undisturbed, tmp_path):
    folder = tmp_path / "run"
    run = Run.create(folder, tiny())
    for at in (17, 9):
        with pytest.MonkeyPatch.context() as patch:
            Executioner(patch, at)
            with pytest.raises(KilledError):
                run.train(progress=False)
    run.train(progress=False)
    assert same(content(run), content(undisturbed))


def test_a_run_that_forgot_its_noise_would_be_noticed(undisturbed, tmp_path):
    run = Run.create(tmp_path / "run", tiny())
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 17)
        with pytest.raises(KilledError):
            run.train(progress=False)
    state = load_safely(run.latest, "training")
    assert 0 < state["step"] < 7
    storage.save_atomically({**state, "generator": torch.Generator().get_state()}, run.latest)
    run.train(progress=False)
    assert not same(content(run), content(undisturbed))


def test_killed_before_it_is_one_a_folder_can_be_used_again(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 1)
        with pytest.raises(KilledError):
            trained(tmp_path / "run")
    with pytest.raises(RunError, match="holds no run"):
        Run.open(tmp_path / "run")
    trained(tmp_path / "run")


def test_sigkill_and_resume(undisturbed, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    folder = tmp_path / "run"
    train = ["train", str(tmp_path / "tiny.toml"), "--run", str(folder), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "equiflow", *train],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / "checkpoints" / "latest.pt").exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)  # 0: it was faster
    result = CliRunner().invoke(app, ["resume", str(folder), "--quiet"])
    assert result.exit_code == 0, result.output
    assert same(content(Run.open(folder)), content(undisturbed))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(number, undisturbed, tmp_path, monkeypatch):
    (tmp_path / "tiny.toml").write_text(TINY)
    folder = tmp_path / "run"
    record = Recorder.__call__

    def interrupted(self, history):
        record(self, history)
        if len(history) == 5:
            assert signal.getsignal(number) is not signal.SIG_DFL
            signal.raise_signal(number)

    # Started in the background, as CI may start it, a shell lets its children ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "__call__", interrupted)
        arguments = ["train", str(tmp_path / "tiny.toml"), "--run", str(folder), "--quiet"]
        result = CliRunner().invoke(app, arguments)
    signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert f"equiflow resume {folder}" in result.output
    result = CliRunner().invoke(app, ["resume", str(folder), "--quiet"])
    assert result.exit_code == 0, result.output
    assert same(content(Run.open(folder)), content(undisturbed))


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From some checkpoint on, no byte can be written to one."""
    saves = []
    save = torch.save

    def refuse(state, file):
        saves.append(1)
        if len(saves) > after:
            file.write(b"some bytes fit")
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        save(state, file)

    monkeypatch.setattr(storage.torch, "save", refuse)


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_full_disk_stops_a_run_with_its_last_checkpoint_intact(after, undisturbed, tmp_path, monkeypatch):
    (tmp_path / "tiny.toml").write_text(TINY)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        arguments = ["train", str(tmp_path / "tiny.toml"), "--run", str(folder), "--quiet"]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert f"equiflow resume {folder}" in result.output
    assert not list(folder.rglob("*.tmp"))
    run = Run.open(folder)
    if after:
        load_safely(run.latest, "training")
    run.train(progress=False)
    assert same(content(run), content(undisturbed))


def test_a_limit_of_the_system_on_files_stops_a_run_too(tmp_path):
    """The real thing: the kernel refuses to write more than some bytes to a file."""
    resource = pytest.importorskip("resource")
    (tmp_path / "tiny.toml").write_text(TINY)
    folder = tmp_path / "run"
    arguments = ["train", str(tmp_path / "tiny.toml"), "--run", str(folder), "--quiet"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
        result = CliRunner().invoke(app, arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1
    assert "File too large" in result.output
    assert f"equiflow resume {folder}" in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_read_only_folder_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(Path, "mkdir", refuse)
    result = CliRunner().invoke(app, ["train", str(tmp_path / "tiny.toml"), "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "Permission denied" in result.output
    assert "Traceback" not in result.output


def test_the_best_flow_is_that_of_the_best_evaluation_on_fresh_samples(undisturbed):
    rows = undisturbed.evaluations
    assert [row["step"] for row in rows] == [3, 6, 7]
    best = max(rows, key=lambda row: row["ess"])
    flow = EquivariantCNF.load(undisturbed.checkpoints / "best.pt")
    assert flow.about["step"] == best["step"]
    assert evaluate(flow, undisturbed.action, undisturbed.config, best["step"]) == {
        k: v for k, v in best.items() if k not in ("rung", "step")
    }
    assert same(undisturbed.trained()[0].state_dict(), flow.state_dict())


def test_evaluations_are_on_samples_of_their_own():
    draws = [
        torch.randn(4, generator=stream(*key)).tolist()
        for key in ((0, "evaluation", 1), (0, "evaluation", 2), (1, "evaluation", 1), (0, "samples", 1))
    ]
    assert all(draws.count(draw) == 1 for draw in draws)
    assert torch.randn(4, generator=stream(0, "evaluation", 1)).tolist() == draws[0]


def test_no_two_shards_of_many_are_alike():
    """A generator of a CPU takes 32 bits of its seed, in which hashes of so many would meet."""
    seeds = {stream(0, "shards", step).initial_seed() % 2**32 for step in range(10_000)}
    assert len(seeds) == 10_000
    # Hashed to 64 bits, of which 32 count, these two met.
    one, other = (stream(0, "one of 100000 shards", shard) for shard in (52713, 95987))
    assert not torch.equal(torch.randn(4, generator=one), torch.randn(4, generator=other))


@pytest.mark.parametrize(("keep", "kept"), [(0, []), (1, [6]), (2, [4, 6]), (9, [2, 4, 6])])
def test_earlier_checkpoints_are_kept_as_many_as_asked(keep, kept, tmp_path):
    run = trained(tmp_path / "run", f"run.keep={keep}")
    names = [f"step-{step:06d}.pt" for step in kept]
    assert sorted(p.name for p in run.checkpoints.glob("step-*.pt")) == names
    for step, name in zip(kept, names, strict=True):
        assert load_safely(run.checkpoints / name, "training")["step"] == step
    assert load_safely(run.latest, "training")["step"] == 7


def test_a_damaged_checkpoint_is_told_with_the_way_out(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run = Run.open(folder)
    run.latest.write_bytes(run.latest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cp .*step-000006.pt .*latest.pt"):
        run.train(progress=False)
    assert run.trained()[1] == "flow.pt"
    shutil.copyfile(run.checkpoints / "step-000006.pt", run.latest)
    run.train(progress=False)
    assert same(content(run), content(undisturbed))


def test_two_processes_do_not_train_one_run(undisturbed):
    pytest.importorskip("fcntl")
    with locked(undisturbed.folder), pytest.raises(RunError, match="Another process"):
        undisturbed.train()


def test_a_run_that_is_begun_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    """Two commands may make the same folder at the same time: one trains, and one is refused."""
    building, folder = folder_module.building.build_action, tmp_path / "run"

    def slowly(config):
        monkeypatch.setattr(folder_module.building, "build_action", building)
        Run.create(folder, tiny("training.steps=2"))
        return building(config)

    monkeypatch.setattr(folder_module.building, "build_action", slowly)
    with pytest.raises(RunError, match="holds a run already"):
        Run.create(folder, tiny())
    assert Run.open(folder).config.training.steps == 2


def test_a_new_run_in_the_folder_of_one_in_training_is_refused_as_such(undisturbed):
    with locked(undisturbed.folder), pytest.raises(RunError, match="Another process is training"):
        Run.create(undisturbed.folder, tiny())


def test_resuming_leaves_what_living_processes_write(undisturbed, tmp_path):
    """`equiflow sample` may write into the folder while training goes on."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run = Run.open(folder)
    of_the_dead = [half_written_by(dead_process(), place / "x") for place in (folder, run.checkpoints)]
    of_the_living = [half_written_by(os.getppid(), place / "x") for place in (folder, run.checkpoints)]
    with storage.written_atomically(folder / "ensemble.npz") as temporary:
        temporary.write_text("hours of sampling")
        run.train(progress=False)
    assert (folder / "ensemble.npz").read_text() == "hours of sampling"
    assert not any(path.exists() for path in of_the_dead)
    assert all(path.exists() for path in of_the_living)


def test_checkpoints_kept_of_one_behind_a_link_are_its_earlier_states(undisturbed, tmp_path):
    run = Run.create(tmp_path / "run", tiny())
    (tmp_path / "disk").mkdir()
    run.checkpoints.mkdir()
    run.latest.symlink_to(tmp_path / "disk" / "latest.pt")
    run.train(progress=False)
    assert run.latest.is_symlink()
    assert load_safely(run.latest, "training")["step"] == 7
    assert load_safely(run.checkpoints / "step-000006.pt", "training")["step"] == 6
    assert same(content(run), content(undisturbed))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_tolerated(number, undisturbed, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked"), locked(undisturbed.folder):
        pass


def test_other_failures_of_a_lock_are_not(undisturbed, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked(undisturbed.folder):
        pass


def test_a_run_is_not_overwritten(undisturbed):
    with pytest.raises(RunError, match="equiflow resume"):
        Run.create(undisturbed.folder, tiny())


def test_a_finished_run_can_be_resumed_for_nothing(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run, finished = Run.open(folder), (folder / "flow.pt").stat().st_mtime_ns
    assert len(run.train(progress=False)) == 7
    assert same(content(run), content(undisturbed))
    assert [session["from_step"] for session in run.sessions] == [0, 7]
    assert (folder / "flow.pt").stat().st_mtime_ns == finished


def test_a_finished_run_that_cannot_go_on_keeps_its_flow(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    for override, error in (
        ("training.batch_size=9", CheckpointError),
        ("objective.method=dopri5", ConfigError),
    ):
        with pytest.raises(error):
            Run(folder, tiny(override)).train(progress=False)
        assert Run.open(folder).trained()[1] == "flow.pt"


def test_further_steps_replace_the_flow_of_a_finished_run(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run = Run.open(folder)
    shutil.copyfile(run.checkpoints / "step-000006.pt", run.latest)
    with pytest.MonkeyPatch.context() as patch:
        # The two files of lines are written again, the session is noted, and then a line ends half.
        Executioner(patch, 4)
        with pytest.raises(KilledError):
            run.train(progress=False)
    assert run.trained()[1] == "best.pt"
    run.train(progress=False)
    assert same(content(run), content(undisturbed))


def test_a_run_starts_from_another(undisturbed, tmp_path):
    larger = ["lattice.shape=[6, 6]", "action.lam=6.975"]
    config = tiny(f"start.flow={undisturbed.folder}", *larger)
    with pytest.raises(ConfigError, match=r"remove \[field\]"):
        Run.create(tmp_path / "refused", config)
    assert not (tmp_path / "refused").exists()
    config = config.model_copy(update={"field": type(config).model_fields["field"].default})
    config.__pydantic_fields_set__.discard("field")
    run = Run.create(tmp_path / "run", config)
    expected = undisturbed.trained()[0].resized(run.action.lattice)
    assert same(run.untrained().state_dict(), expected.state_dict())
    run.train(progress=False)
    assert run.trained()[0].lattice.shape == (6, 6)
    assert "[field]" not in (run.folder / "config.toml").read_text()
    assert same(Run.open(run.folder).config.start, config.start)


@pytest.fixture
def global_randomness() -> Iterator[None]:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("global_randomness")
def test_the_global_generator_is_left_alone(tmp_path):
    trained(tmp_path / "run")


def test_the_solver_is_chosen_for_the_accuracy_asked_for(tmp_path):
    run = trained(tmp_path / "run", "run.accuracy=1e-4")
    flow, name = run.trained()
    assert name == "flow.pt"
    assert str(flow.solver) != "rk4(steps=3)"
    assert abs(flow.certificate(64, action=run.action).log_z_shift) < 1e-3


def test_natural_gradient_and_its_state_resume_too(tmp_path):
    natural = ["optimiser.kind=natural", "run.keep=0", "run.evaluate_every=100"]
    expected = content(trained(tmp_path / "undisturbed", *natural))
    run = Run.create(tmp_path / "run", tiny(*natural))
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 12)
        with pytest.raises(KilledError):
            run.train(progress=False)
    run.train(progress=False)
    assert same(content(run), expected)
