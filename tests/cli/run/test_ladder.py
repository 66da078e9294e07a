"""Ladders of the command line: those of `fit_ladder`, killed anywhere they go on bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from equiflow import (
    CheckpointError,
    EquivariantCNF,
    Lattice,
    Phi4,
    TrainingDivergedError,
    fit_ladder,
    importance_sample,
)
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.render import render
from equiflow.cli.config.schema import Config
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.recorder import evaluate
from equiflow.report.report import Report
from equiflow.runtime.storage import save_atomically
from tests.support.cli_runs import TINY, Executioner, KilledError, content, invoke, same, succeed

LADDER = """
[[ladder]]
shape = [2, 2]
lam = 9.0
steps = 3

[[ladder]]
shape = [3, 3]
lam = 8.0
batch_size = 4
learning_rate = 5e-3
"""
SHORT = ("training.steps=3", "run.evaluation_samples=16", "field.n_frequencies=1", "run.evaluate_every=2")


def ladder(*overrides: str) -> Config:
    return parse_config(TINY + LADDER, source="ladder", overrides=[*SHORT, *overrides])


def climbed(folder: Path, *overrides: str) -> Run:
    run = Run.create(folder, ladder(*overrides))
    run.train(progress=False)
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return climbed(tmp_path_factory.mktemp("undisturbed") / "run")


def test_a_ladder_is_that_of_the_library(undisturbed):
    config = undisturbed.config
    flow = building.build_flow(undisturbed.rungs[0].config)
    actions = [Phi4(Lattice((n, n)), m2=-4.0, lam=lam) for n, lam in ((2, 9.0), (3, 8.0), (4, 7.0))]
    rungs = fit_ladder(
        actions,
        flow=flow,
        steps=3,
        batch_size=[8, 4, 8],
        learning_rate=[2e-2, 5e-3, 1e-2],
        warmup=2,
        seed=3,
        objective=building.build_objective(config),
        progress=False,
    )
    for rung, found, expected in zip(undisturbed.rungs, undisturbed.histories(), rungs, strict=True):
        assert found.loss == expected.history.loss
        weights = torch.load(rung.latest, weights_only=True)["flow"]
        assert same(weights, dict(expected.flow.state_dict()))
    assert undisturbed.trained()[0].lattice.shape == (4, 4)


def test_every_line_names_its_rung(undisturbed):
    steps = [(row["rung"], row["step"]) for row in undisturbed.metrics]
    assert steps == [(rung, step) for rung in (1, 2, 3) for step in (1, 2, 3)]
    assert [(row["rung"], row["step"]) for row in undisturbed.evaluations] == [
        (rung, step) for rung in (1, 2, 3) for step in (2, 3)
    ]
    assert len({row["ess"] for row in undisturbed.evaluations}) == 6


def test_the_best_flow_of_each_rung_is_kept(undisturbed):
    for rung in undisturbed.rungs:
        rows = [row for row in undisturbed.evaluations if row["rung"] == rung.number]
        best, flow = max(rows, key=lambda row: row["ess"]), EquivariantCNF.load(rung.best)
        action = building.build_action(rung.config)
        assert (flow.about["step"], flow.about["action"]) == (best["step"], repr(action))
        again = evaluate(flow, action, rung.config, rung.before + best["step"])
        assert again["ess"] == best["ess"]


def test_killed_at_any_write_a_ladder_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    expected = content(undisturbed)
    with pytest.MonkeyPatch.context() as patch:
        executioner = Executioner(patch, at=-1)
        climbed(tmp_path / "counted")
        n_writes = executioner.count
    assert n_writes > 30
    # A prime number apart, so that writes of every kind are among them.
    for at in (*range(2, n_writes, 7), n_writes):
        folder = tmp_path / f"killed-{at}"
        with pytest.MonkeyPatch.context() as patch:
            Executioner(patch, at)
            with pytest.raises(KilledError):
                climbed(folder)
        run = Run.open(folder)
        run.train(progress=False)
        assert same(content(run), expected), f"killed at write {at}"


def test_a_rung_that_forgot_what_the_one_before_had_learned_would_be_noticed(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run = Run.open(folder)
    first, second, third = run.rungs
    state = torch.load(first.latest, weights_only=True)
    state["flow"] = {name: weight + 0.1 for name, weight in state["flow"].items()}
    save_atomically(state, first.latest)
    shutil.rmtree(second.folder)
    shutil.rmtree(third.folder)
    run.train(progress=False)
    assert not same(content(run), content(undisturbed))


def test_a_damaged_rung_is_told_with_the_way_out(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    run = Run.open(folder)
    first = run.rungs[0]
    first.latest.write_bytes(first.latest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cp .*rungs/1-2x2/step-000002.pt .*latest.pt"):
        run.train(progress=False)
    shutil.copyfile(first.folder / "step-000002.pt", first.latest)
    run.train(progress=False)
    assert same(content(run), content(undisturbed))


def test_on_its_way_a_ladder_is_watched_and_not_yet_sampled(tmp_path):
    run = Run.create(tmp_path / "run", ladder())
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 22)
        with pytest.raises(KilledError):
            run.train(progress=False)
    assert run.current.number == 2
    output = succeed("watch", run.folder, "--once")
    assert "rung 2 of 3, 3 x 3: step" in output
    assert "rung 1, 2 x 2" in output
    assert "3 steps in 0:00:0" in output
    assert "those above it come after" in output
    with pytest.raises(RunError, match=r"no checkpoint yet of 4 x 4: .* step 2 on that lattice"):
        run.trained()
    assert "of 4 x 4" in invoke("sample", run.folder).output


def test_divergence_names_the_lattice(tmp_path):
    run = Run.create(tmp_path / "run", ladder("ladder.2.learning_rate=1e12"))
    with pytest.raises(TrainingDivergedError, match="On 3 x 3: Training diverged at step"):
        run.train(progress=False)


def test_a_ladder_is_reported(undisturbed, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)  # The report goes into it.
    from matplotlib.figure import Figure

    other = ("two_point", "magnetisation", "weights", "configurations", "training", "effective_mass")
    monkeypatch.setattr(Report, "figures", lambda self, fresh=(): {name: Figure() for name in other})
    succeed("report", folder, "-n", 2048, "--hmc", 0)
    page = (folder / "report.html").read_text()
    assert "The ladder" in page
    assert all(f'<th scope="row">{n} x {n}</th>' in page for n in (2, 3, 4))
    assert "step 3 of 3" in succeed("watch", folder, "--once")


def test_a_ladder_resumes_from_the_command_line(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "run")
    for leftover in ("flow.pt", "checkpoints/latest.pt"):
        (tmp_path / "run" / leftover).unlink()
    output = succeed("resume", tmp_path / "run", "--quiet")
    assert "Trained 9 steps on 3 lattices" in output
    flow = Run.open(tmp_path / "run").trained()[0]
    assert same(flow.state_dict(), undisturbed.trained()[0].state_dict())


def test_a_ladder_starts_from_a_pretrained_flow(tmp_path):
    text = (TINY[: TINY.index("[field]")] + TINY[TINY.index("[solver]") :]) + LADDER
    config = parse_config(text, source="start", overrides=[*SHORT[:2], "start.flow=phi4-2d-L8"])
    run = Run.create(tmp_path / "run", config)
    expected = EquivariantCNF.pretrained("phi4-2d-L8").resized(Lattice((2, 2))).double()
    assert same(run.untrained().state_dict(), expected.state_dict())
    last = list(run._flows(EquivariantCNF.load(run.start)))[-1]
    # What the pretrained flow knows of the theory is worth more than an untrained one's nothing.
    generator = torch.Generator().manual_seed(0)
    ensemble = importance_sample(last, run.action, 64, certify=0, generator=generator)
    assert ensemble.effective_sample_size().mean > 0.1


def test_what_is_written_is_read_again():
    config = ladder()
    assert parse_config(render(config), source="again") == config


def test_entries_are_overridden_by_number():
    config = ladder("ladder.2.steps=7", "ladder.1.shape=[2, 3]")
    assert (config.ladder[1].steps, config.ladder[0].shape) == (7, [2, 3])
    for override, message in (
        ("ladder.3.steps=7", "3 is none of the 2 tables"),
        ("ladder.steps=7", "say which table, such as ladder.1.steps=7"),
        ("ladder.0.steps=7", "0 is none of the 2 tables"),
        ("ladder.1.steps.x=7", "steps is no section"),
    ):
        with pytest.raises(ConfigError, match=message):
            ladder(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ladder.1.stps=3", r"\[\[ladder\]\] 1 stps: unknown key; did you mean steps\?"),
        ("ladder.2.steps=0", r"\[\[ladder\]\] 2 steps = 0: .*greater than or equal to 1"),
        ("ladder.2.shape=[3]", r"\[ladder\]: Nothing carries over from a 2D lattice to a 1D one"),
        ("ladder.2.shape=[3, 4, 3]", r"\[ladder\]: Nothing carries over"),
        ("ladder.1.h=[1.0]", r"\[\[ladder\]\] 1: .*h = \[1.0\] are no couplings of action.kind = 'phi4'"),
        ("ladder.1.lam=-1", r"\[action\]: exp\(-S\) cannot be normalised"),
        ("objective.kind=reverse", r"\[objective\] .*unknown key"),
    ],
)
def test_what_cannot_be_climbed_is_refused_before_anything_is_made(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Run.create(tmp_path / "run", ladder(override))
    assert not (tmp_path / "run").exists()
