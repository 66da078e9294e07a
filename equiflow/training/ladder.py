"""Training on large lattices by way of small ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equiflow import distributed
from equiflow.actions import Action
from equiflow.flows import EquivariantCNF
from equiflow.lattice import check_type
from equiflow.training.history import History
from equiflow.training.trainer import fit

#: Of the rungs after the first, which start near their optimum, in units of what `fit` takes by default.
FINE_TUNING = 0.5


@dataclass(frozen=True)
class Rung:
    """One lattice of a ladder.

    Attributes:
        action: the target on that lattice.
        flow: trained on it.
        history: of its training.
    """

    action: Action
    flow: EquivariantCNF
    history: History


def fit_ladder(
    actions: Sequence[Action],
    *,
    flow: EquivariantCNF | None = None,
    steps: int | Sequence[int] = 600,
    batch_size: int | Sequence[int] = 128,
    learning_rate: float | Sequence[float] | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> list[Rung]:
    """Train on each lattice in turn, starting from what the one before has learned.

    A step on a small lattice costs little and teaches most of what the large one needs: the kernels
    carry over as functions of the offset, the prior as a function of momentum. At L = 32 a flow
    trained from nothing does not get off the ground where a ladder needs minutes.

    Args:
        actions: the targets, from the smallest lattice to the largest, all of one dimension.
        flow: what to start from, on the first action's lattice; by default a new `EquivariantCNF`.
            It is trained in place and becomes the first rung's.
        steps: optimiser steps, the same on every rung or one number each.
        batch_size: model samples per step, the same or one each.
        learning_rate: the same or one each; by default that of `fit` on the first rung and
            half of it on the others.
        checkpoint: file name to which each rung adds its shape: `run.pt` becomes `run-16x16.pt`. A
            ladder that was interrupted goes on from there.
        options: passed on to `fit`.

    Returns:
        One `Rung` for each action; the last one's flow is the result.

    Raises:
        ValueError: without actions, if a sequence does not have one entry for each, or if a batch has less
            than a sample for each process.

    >>> from equiflow import Lattice, Phi4
    >>> actions = [Phi4(Lattice((L, L)), m2=-4.0, lam=lam) for L, lam in ((4, 8.0), (6, 6.975))]
    >>> rungs = fit_ladder(actions, steps=[3, 2], batch_size=16)
    >>> rungs[-1].flow.lattice.shape, len(rungs[-1].history)
    ((6, 6), 2)
    """
    check_type(actions, Sequence, "actions", "Give a list, from the smallest lattice to the largest.")
    if not actions:
        raise ValueError("A ladder needs at least one action.")
    for action in actions:
        check_type(action, Action, "Each of actions")
    rungs: list[Rung] = []
    flow = EquivariantCNF(actions[0].space) if flow is None else flow
    check_type(flow, EquivariantCNF, "flow")
    for action in actions[1:]:  # what cannot be climbed is refused before anything is trained
        flow.resized(action.lattice)
    paths = _beside(checkpoint, actions)
    settings = list(_one_each(len(actions), steps=steps, batch_size=batch_size, learning_rate=learning_rate))
    for action, setting in zip(actions, settings, strict=True):
        distributed.check_share(setting["batch_size"], f"batch_size on {action.lattice.shape}")
    for action, setting, path in zip(actions, settings, paths, strict=True):
        if rungs:
            flow = flow.resized(action.lattice)
            setting.setdefault("learning_rate", FINE_TUNING * flow.learning_rate)
        history = fit(flow, action, checkpoint=path, **setting, **options)
        rungs.append(Rung(action, flow, history))
    return rungs


def _one_each(n_rungs: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """The settings of each rung, from values that are the same for all or sequences of one each."""
    for name, value in settings.items():
        if isinstance(value, Sequence) and len(value) != n_rungs:
            raise ValueError(f"{name} has {len(value)} entries for {n_rungs} actions; give one each.")
    for rung in range(n_rungs):
        chosen = {n: v[rung] if isinstance(v, Sequence) else v for n, v in settings.items()}
        yield {name: value for name, value in chosen.items() if value is not None}


def _beside(checkpoint: str | Path | None, actions: Sequence[Action]) -> list[Path | None]:
    """A file for each rung, named by its shape; numbered from the second rung of one shape on."""
    if checkpoint is None:
        return [None] * len(actions)
    path = Path(checkpoint)
    shapes = ["x".join(map(str, action.lattice.shape)) for action in actions]
    earlier = [shapes[:rung].count(shape) for rung, shape in enumerate(shapes)]
    numbers = [f"-{n + 1}" if n else "" for n in earlier]
    return [path.with_name(f"{path.stem}-{s}{n}{path.suffix}") for s, n in zip(shapes, numbers, strict=True)]
