"""A run small enough for tests, and what two runs must have in common to be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from equiflow.cli.config.file import parse_config
from equiflow.cli.config.schema import Config
from equiflow.cli.run.folder import Run
from equiflow.runtime.storage import load_safely

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


def tiny(*overrides: str) -> Config:
    return parse_config(TINY, source="tiny", overrides=overrides)


def trained(folder: Path, *overrides: str) -> Run:
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
