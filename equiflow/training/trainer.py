"""The training loop: `fit` trains a flow by Adam with warm-up and cosine decay, with checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from equiflow.flows import ConditionalFlow, EquivariantCNF, Flow
from equiflow.ode.solver import SolverError
from equiflow.runtime import distributed
from equiflow.runtime.precision import full_precision
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.runtime.storage import save_atomically
from equiflow.statistics import Estimate
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.callbacks import StopTraining
from equiflow.training.checkpoints import read_checkpoint
from equiflow.training.fresh import FreshSamples, fresh_ess
from equiflow.training.history import History
from equiflow.training.objectives.adaptive import AdaptivePathGradient
from equiflow.training.objectives.base import Objective
from equiflow.training.objectives.conditional import OverCouplings
from equiflow.training.objectives.reverse import PathGradient
from equiflow.training.options import TrainingOptions
from equiflow.training.recipe import BATCH_SIZE, Recipe
from equiflow.training.run import TrainingRun
from equiflow.training.validation import check_target


def adam(parameters: list[nn.Parameter], learning_rate: float, *, eps: float = 1e-5) -> Optimizer:
    """Return the optimiser that `fit` uses by default: Adam with a short memory of the squared gradient.

    Args:
        parameters: what is trained.
        learning_rate: initial learning rate.
        eps: what is added to the root of the squared gradient, see `Recipe.eps`.

    Returns:
        Adam with `betas=(0.9, 0.99)`.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99), eps=eps)


#: what `fit` calls after every step
Callback = Callable[[History], object]


@full_precision
def fit(
    flow: Flow | ConditionalFlow,
    action: Action | ActionFamily,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    warmup: int = 30,
    clip_norm: float = 10.0,
    objective: Objective | OverCouplings | None = None,
    optimiser: Callable[[list[nn.Parameter], float], Optimizer] = adam,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    callback: Callback | Sequence[Callback] | None = None,
    target_ess: float | None = None,
    n_fresh: int | None = None,
    progress: bool | None = None,
) -> History:
    """Train a flow in place to sample `exp(-S)`. The result is deterministic given the seed.

    `print(fit(...))` shows a table that ends with the ESS on fresh samples, which training has not seen. What
    is not given follows a recipe that suits the flow. With the default field it needs no tuning from
    L = 4 to 32, near the critical point and in the broken phase (`benchmarks/training.py`).

    Within a `distributed.session()`, or wherever `torch.distributed` is initialised, the processes split
    each batch. All of them return the same flow and history, equal to those of a single process up to
    rounding. Only the first process calls `callback`, shows progress, and reads and writes the checkpoint.
    Any number of processes can go on from a checkpoint. A failure in one process is raised in all.

    Args:
        flow: trained in place.
        action: the target; an `ActionFamily` for a `ConditionalFlow`.
        steps: optimiser steps in all; a resumed run counts the steps before the interruption. By default
            `flow.training_steps`.
        batch_size: model samples per step, over all processes; by default `flow.training_batch_size`, or 128
            with an optimiser of your own.
        learning_rate: at the top of the schedule, a linear warm-up followed by a cosine decay to 0; by
            default `flow.learning_rate`.
        warmup: steps of the warm-up.
        clip_norm: gradients with a larger norm are scaled down to it.
        objective: by default `AdaptivePathGradient`, whose solver becomes as fine as the flow needs. Training
            that runs away is set back; `history.notes` tells of both. Flows with estimated traces take
            `PathGradient` with `flow.training_solver`. A `ConditionalFlow` takes its average over couplings,
            `OverCouplings(objective)`, with a kinetic penalty of 1e-2. A checkpoint identifies the objective
            by its `repr`. An objective without a `repr` of its own, such as a function, is identified by its
            name alone.
        optimiser: makes the optimiser from the trained parameters and the learning rate. The schedule sets
            `lr` of its parameter groups. `adam` was the fastest of those that `benchmarks/optimisers.py`
            compares.
        seed: of the noise that training draws; no global randomness is used.
        checkpoint: file that keeps the state of the run; if it exists, the run goes on from there.
        checkpoint_every: steps between checkpoints, which are lost at most by an interruption.
        callback: one or several functions, called with the history after every step, before a checkpoint of
            that step is written. After resuming, they are called again for the steps since the last
            checkpoint. One that raises `StopTraining` ends the training, as `EarlyStopping` does; `LogTo`
            writes to a logger.
        target_ess: training stops when the ESS on 1024 fresh samples lies above this by twice its error; it
            looks 24 times at most. The ESS that `History` reports is measured again, on other samples. Like
            every reverse ESS it does not see a mode that the flow has dropped, see `diagnose`.
        n_fresh: fresh samples on which the ESS is measured at the end, 0 for none. By default 1024, or one
            for 16 that training drew if these are fewer.
        progress: True shows a bar, False nothing; None shows a bar in terminals and notebooks, and a line
            every 30 seconds elsewhere.

    Returns:
        The history, one entry per step.

    Raises:
        TypeError: if an argument is of the wrong type, or the objective does not suit the flow.
        ValueError: if a count or rate is out of range, flow and action live on different lattices, the
            flow lacks couplings of the family, or processes have different arguments. Also if S falls
            without bound, or its gradient is not that of its values.
        TrainingDivergedError: if the loss, the gradient, or weights that are due to be saved are not finite,
            with the default objective only if setting back was in vain. The checkpoint stays unchanged.
        CheckpointError: if the checkpoint belongs to another run.
        ElsewhereError: if another process failed outside of the objective.
    """
    check_target(flow, action)
    _warn_of_a_poor_start(flow)
    fresh, callbacks = FreshSamples(n_fresh, target_ess), _callbacks(callback)
    saved = distributed.from_first(lambda: read_checkpoint(checkpoint))
    recipe = Recipe.to_go_on(flow, saved)
    own_optimiser = optimiser is not adam
    # Few samples suffice for path gradients, whose variance vanishes at the optimum; measured with Adam.
    by_path = objective is None or isinstance(objective, PathGradient | AdaptivePathGradient)
    chosen_batch_size = recipe.batch_size if by_path and not own_optimiser else BATCH_SIZE
    options = TrainingOptions(
        steps=recipe.steps if steps is None else steps,
        batch_size=chosen_batch_size if batch_size is None else batch_size,
        learning_rate=flow.learning_rate if learning_rate is None else learning_rate,
        warmup=warmup,
        clip_norm=clip_norm,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    make_optimiser = optimiser if own_optimiser else partial(adam, eps=recipe.eps)
    run = TrainingRun(flow, action, _objective_for(flow, objective, recipe), make_optimiser, options)
    run.synchronise()
    if saved is not None:
        run.restore(saved)

    def note_step() -> str:
        """Call the callbacks, write the checkpoint, and return why training ends here; empty if not."""
        reason = _stopped_by(callbacks, run.history)
        if checkpoint is not None and (run.checkpoint_is_due or reason):
            save_atomically({"kind": "training", **run.state()}, checkpoint)
        return reason

    reason = ""
    with progress_as(progress), progress_bar(options.steps, "training", "step", initial=run.step) as bar:
        while not run.is_done:
            if fresh.is_due(run.step, options):
                reason = distributed.from_first(lambda: _looked(fresh, run))
                if reason:
                    break
            run.advance()
            bar.update()
            if run.step % 10 == 0 or run.is_done:
                bar.set_postfix(run.standing())
            reason = distributed.from_first(note_step)
            if reason:
                break
        run.history.notes += [reason] if reason else []
        found = distributed.from_first(lambda: _measured(fresh, run))
    run.history.notes += [found] if isinstance(found, str) else []
    run.history.fresh_ess = None if isinstance(found, str) else found
    return run.history


def _warn_of_a_poor_start(flow: Flow | ConditionalFlow) -> None:
    """Warn if gradients train a flow poorly from nothing."""
    field = flow.vector_field if isinstance(flow, EquivariantCNF) else None
    if field is None or not field.wants_least_squares:
        return
    if not any(bool(parameter.any()) for parameter in field.linear_parameters):
        warnings.warn(
            f"fit alone trains an untrained {type(field).__name__} poorly. Begin with "
            "fit_by_continuity(flow, action), which takes less time; fit can go on from there.",
            stacklevel=4,
        )


def _callbacks(given: Callback | Sequence[Callback] | None) -> Sequence[Callback]:
    """Return the callbacks as a sequence, or raise unless all can be called."""
    found = [] if given is None else given if isinstance(given, Sequence) else [given]
    for one in found:
        if not callable(one):
            raise TypeError(f"callback must be a function of the History, or several; got {one!r}.")
    return found


def _stopped_by(callbacks: Sequence[Callback], history: History) -> str:
    """Call all callbacks after a step, and return why the first one that does so ends the training."""
    found = []
    for one in callbacks:
        try:
            one(history)
        except StopTraining as reason:
            found.append(f"step {len(history)}: stopped by a callback: {reason}")
    return next(iter(found), "")


def _looked(fresh: FreshSamples, run: TrainingRun) -> str:
    """Return what is noted if the flow has reached the target; empty if not, or if its ESS is unknown."""
    try:
        return fresh.look(run.flow, run.action, run.step, run.options)
    except (SolverError, ValueError):  # an unfinished flow may be too stiff; training goes on
        return ""


def _measured(fresh: FreshSamples, run: TrainingRun) -> Estimate | str | None:
    """Return the ESS of the trained flow on fresh samples, None without samples, or why it is unknown."""
    n = fresh.number(run.step, run.options)
    if not n:
        return None
    try:
        return fresh_ess(run.flow, run.action, n, f"end {run.step}", run.options)
    except Exception as error:  # whatever it is, a trained flow must not be lost with it
        return f"the ESS on fresh samples is unknown: {error}"


def _objective_for(
    flow: Flow | ConditionalFlow, objective: Objective | OverCouplings | None, recipe: Recipe
) -> Objective | OverCouplings:
    """Return the given objective or the default one, averaged over the couplings that a flow may have."""
    if objective is None:
        return recipe.objective
    if isinstance(flow, ConditionalFlow) and not isinstance(objective, OverCouplings):
        return OverCouplings(objective)
    return objective
