"""Training on large lattices by way of small ones: `fit_ladder` returns one `Rung` per lattice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from torch import nn
from torch.optim import Optimizer

from equiflow.flows import EquivariantCNF
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_type
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.training.history import History
from equiflow.training.natural_gradient import NaturalGradientOf
from equiflow.training.objectives.base import Objective, check_suits
from equiflow.training.trainer import Callback, adam, fit

if TYPE_CHECKING:
    from typing import Unpack

#: Learning rate of the rungs after the first, which start near their optimum, in units of `fit`'s default.
FINE_TUNING = 0.5


@dataclass(frozen=True, repr=False)
class Rung(ShownAsTable):
    """One lattice of a ladder.

    Attributes:
        action: the target on that lattice.
        flow: the flow trained on it.
        history: record of its training.
    """

    action: Action
    flow: EquivariantCNF
    history: History

    def _rows(self) -> dict[str, object]:
        return {"action": self.action, **self.history._rows()}


class SharedOptions(TypedDict, total=False):
    """Options of `fit` that are the same on every rung."""

    warmup: int
    clip_norm: float
    seed: int
    checkpoint_every: int
    callback: Callback | Sequence[Callback] | None
    target_ess: float | None
    n_fresh: int | None
    progress: bool | None


def fit_ladder(
    actions: Sequence[Action],
    *,
    flow: EquivariantCNF | None = None,
    steps: int | Sequence[int] | None = None,
    batch_size: int | Sequence[int] | None = None,
    learning_rate: float | Sequence[float] | None = None,
    objective: Objective | Sequence[Objective] | None = None,
    optimiser: Callable[[list[nn.Parameter], float], Optimizer] = adam,
    checkpoint: str | Path | None = None,
    **options: Unpack[SharedOptions],
) -> list[Rung]:
    """Train on each lattice in turn, starting from what was learned on the one before.

    A step on a small lattice is cheap and teaches most of what the large lattice needs. Kernels carry over
    as functions of the offset, and the prior as a function of momentum.

    Args:
        actions: the targets, from the smallest lattice to the largest, all of one dimension.
        flow: the flow to start from, on the first action's lattice; by default a new `EquivariantCNF`. It is
            trained in place and becomes the flow of the first rung.
        steps: optimiser steps, one number for all rungs or one each; by default those of `fit`.
        batch_size: model samples per step, one number for all rungs or one each; by default that of `fit`.
        learning_rate: one number for all rungs or one each; by default that of `fit` on the first rung and
            half of it on the others.
        objective: one for all rungs or one each. Objectives on samples need one each:
            `[ForwardKL(s) for s in samples]`.
        optimiser: see `fit`. `NaturalGradient.of(flow)` is made anew for the flow of each rung.
        checkpoint: file name to which each rung adds its shape: `run.pt` becomes `run-16x16.pt`. An
            interrupted ladder goes on from there.
        options: options of `fit` for all rungs: `warmup`, `clip_norm`, `seed`, `checkpoint_every`,
            `callback`, `target_ess`, `n_fresh` and `progress`.

    Returns:
        One `Rung` for each action; the flow of the last one is the result.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: without actions, if a sequence does not have one entry for each action, if a batch has
            less than one sample for each process, or if an objective has samples of another lattice than
            its rung.

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
    paths = _beside(checkpoint, actions)
    settings = _one_each(
        len(actions), steps=steps, batch_size=batch_size, learning_rate=learning_rate, objective=objective
    )
    if flow.vector_field.is_rough_when_resized and len({action.lattice for action in actions}) > 1:
        warnings.warn(
            f"{type(flow.vector_field).__name__} carries over to other lattices only roughly, and gradients "
            "mend that slowly. Take fit_by_continuity(flow.resized(lattice), action, sweeps=1) for each "
            "lattice instead; fit can go on from there.",
            stacklevel=2,
        )
    # The whole ladder is checked before anything is trained.
    for rung, (action, setting) in enumerate(zip(actions, settings, strict=True)):
        if "batch_size" in setting:
            distributed.check_share(setting["batch_size"], f"batch_size on {action.lattice.shape}")
        resized = flow.resized(action.lattice) if rung else flow
        _check_objective(setting.get("objective"), resized, action)
    for action, setting, path in zip(actions, settings, paths, strict=True):
        if rungs:
            flow = flow.resized(action.lattice)
            setting.setdefault("learning_rate", FINE_TUNING * flow.learning_rate)
        own = optimiser.for_flow(flow) if isinstance(optimiser, NaturalGradientOf) else optimiser
        history = fit(flow, action, optimiser=own, checkpoint=path, **setting, **options)
        rungs.append(Rung(action, flow, history))
    return rungs


def _check_objective(objective: Objective | None, flow: EquivariantCNF, action: Action) -> None:
    """Raise unless an objective suits the flow and the action of a rung."""
    try:
        check_suits(objective, flow, action)
    except ValueError as error:
        raise ValueError(
            f"The objective of the rung {action.lattice.shape} does not fit: {error} Give fit_ladder one "
            "objective for each action, objective=[ForwardKL(small), ForwardKL(large)]."
        ) from error


def _one_each(n_rungs: int, **settings: Any) -> list[dict[str, Any]]:
    """Return the settings of each rung, without those that are None.

    A setting is one value for all rungs, or a sequence with one entry for each.
    """
    settings = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in settings.items()}
    for name, value in settings.items():
        if isinstance(value, Sequence) and len(value) != n_rungs:
            raise ValueError(f"{name} has {len(value)} entries for {n_rungs} actions; give one each.")
    rungs = [
        {n: v[rung] if isinstance(v, Sequence) else v for n, v in settings.items()} for rung in range(n_rungs)
    ]
    return [{name: value for name, value in chosen.items() if value is not None} for chosen in rungs]


def _beside(checkpoint: str | Path | None, actions: Sequence[Action]) -> list[Path | None]:
    """Return a checkpoint for each rung, named by its shape and numbered where a shape comes again."""
    if checkpoint is None:
        return [None] * len(actions)
    path = Path(checkpoint)
    shapes = ["x".join(map(str, action.lattice.shape)) for action in actions]
    earlier = [shapes[:rung].count(shape) for rung, shape in enumerate(shapes)]
    numbers = [f"-{n + 1}" if n else "" for n in earlier]
    return [path.with_name(f"{path.stem}-{s}{n}{path.suffix}") for s, n in zip(shapes, numbers, strict=True)]
