"""Runs small enough for tests, ways to call and to kill them, and what two runs must have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from equiflow.cli.app import app
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.schema import Config
from equiflow.cli.run import recorder as recording
from equiflow.cli.run.folder import Run
from equiflow.runtime.storage import load_safely

#: a config with what has no default
MINIMAL = "[lattice]\nshape = [4, 4]\n[action]\nm2 = -4.0\nlam = 7.0\n"
#: a config of a run that takes a second
TINY = """
[lattice]
shape = [4, 4]

[action]
m2 = -4.0
lam = 7.0

[field]
kind = "orbit"
n_frequencies = 2
n_time_modes = 2
max_frequency = 4.0

[solver]
method = "rk4"
steps = 3

[objective]
method = "rk4"
steps = 2

[optimiser]
warmup = 2

[training]
steps = 7
batch_size = 8
seed = 3

[compute]
dtype = "float64"

[run]
checkpoint_every = 2
keep = 1
evaluate_every = 3
evaluation_samples = 32
accuracy = 0
"""


def parse(text: str, *overrides: str) -> Config:
    """The minimal config, some more text, and overrides."""
    return parse_config(MINIMAL + text, source="my.toml", overrides=overrides)


def tiny(*overrides: str) -> Config:
    """The config of a run that takes a second."""
    return parse_config(TINY, source="tiny", overrides=overrides)


def trained(folder: Path, *overrides: str) -> Run:
    """A run that has taken its last step."""
    run = Run.create(folder, tiny(*overrides))
    run.train(progress=False)
    return run


def content(run: Run) -> dict[str, Any]:
    """Everything that a run leaves but times and versions."""
    files = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    checkpoints = {}
    for path in sorted([*run.checkpoints.glob("*.pt"), *run.folder.glob("rungs/*/*.pt")]):
        kind = "flow" if path.name == "best.pt" else "training"
        checkpoints[str(path.relative_to(run.folder))] = _timeless(load_safely(path, kind))
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics]
    flow = load_safely(run.folder / "flow.pt", "flow")
    return {
        "files": files,
        "checkpoints": checkpoints,
        "metrics": metrics,
        "evaluations": run.evaluations,
        "flow": flow,
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nested values agree bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _timeless(state: dict[str, Any]) -> dict[str, Any]:
    history = {k: v for k, v in state.get("history", {}).items() if k != "seconds"}
    return {**state, "history": history}


def invoke(*arguments: object) -> Any:
    """The outcome of a command."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    """The output of a command that must succeed."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


class KilledError(BaseException):
    """Stands for a process that is killed: nobody catches it, and nobody cleans up."""


class Executioner:
    """Counts the writes of this process and kills it at one of them, which leaves files half written.

    Args:
        monkeypatch: undoes the patches of the functions that write.
        at: number of the fatal write, from 1; -1 only counts.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.count, self.dead = at, 0, False
        replace, link, unlink, append = os.replace, os.link, Path.unlink, recording.append_line

        def append_line(path: Path, row: dict[str, object]) -> None:
            try:
                self.write()
            except KilledError:
                with open(path, "a") as file:
                    file.write('{"step": 1, "los')
                raise
            append(path, row)

        monkeypatch.setattr(os, "replace", lambda *a: self.write() or replace(*a))
        monkeypatch.setattr(os, "link", lambda *a: self.write() or link(*a))
        monkeypatch.setattr(Path, "unlink", lambda *a, **o: None if self.dead else unlink(*a, **o))
        monkeypatch.setattr(recording, "append_line", append_line)

    def write(self) -> None:
        """Count a write, or die at it."""
        self.count += 1
        if self.count == self.at:
            self.dead = True
            raise KilledError
