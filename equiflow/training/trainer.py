"""The training loop: Adam with warm-up and cosine decay, checkpoints, a progress bar."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from equiflow.flows import ConditionalFlow, EquivariantCNF, Flow
from equiflow.ode.solver import SolverError
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count
from equiflow.runtime.precision import full_precision
from equiflow.runtime.randomness import own_rows
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.data_parallel import exchange
from equiflow.training.history import History
from equiflow.training.objectives.base import Objective, ObjectiveValue
from equiflow.training.objectives.conditional import OverCouplings
from equiflow.training.objectives.reverse import PathGradient
from equiflow.training.validation import check_inputs
from equiflow.vector_fields import VectorField

#: what suits most vector fields
TRAINING_SOLVER = VectorField.training_solver


class TrainingDivergedError(RuntimeError):
    """Training ran into NaN or infinite values. `history` holds what went before."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def adam(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
    """What `fit` takes unless told otherwise: Adam with a short memory of the squared gradient."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99))


@full_precision
def fit(
    flow: Flow | ConditionalFlow,
    action: Action | ActionFamily,
    *,
    steps: int = 600,
    batch_size: int = 128,
    learning_rate: float | None = None,
    warmup: int = 30,
    clip_norm: float = 10.0,
    objective: Objective | OverCouplings | None = None,
    optimiser: Callable[[list[nn.Parameter], float], Optimizer] = adam,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    callback: Callable[[History], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a flow in place to sample `exp(-S)`. Deterministic given the seed.

    Inside of a `distributed.session()` (or wherever `torch.distributed` is initialised) the processes split
    each batch. They all return the same flow and history, those of a single process to rounding. The first
    one alone calls `callback`, shows progress, and reads and writes the checkpoint, from which any number of
    processes can go on. What fails in one process fails in all.

    Args:
        flow: trained in place.
        action: the target; an `ActionFamily` for a `ConditionalFlow`.
        steps: optimiser steps in all (a resumed run counts the steps before).
        batch_size: model samples per step, over all processes.
        learning_rate: Adam's, at the top of its schedule (linear warm-up, cosine decay to 0); by default
            what suits the flow, `flow.learning_rate`.
        warmup: steps of the warm-up.
        clip_norm: gradients with a larger norm are scaled down to it.
        objective: by default `PathGradient`, solved with the steps of rk5 that suit the vector field. For a
            `ConditionalFlow` it is averaged over couplings, as `OverCouplings(objective)` says, and the
            kinetic penalty is 1e-2. A checkpoint knows it by its repr; one without a repr of its own, such
            as a function, is known by its name alone.
        optimiser: makes one from the trained parameters and the learning rate, whose schedule sets
            `lr` of its parameter groups; `adam` was the fastest of those compared
            (`benchmarks/optimisers.py`).
        seed: of the noise that training draws; no global randomness is used.
        checkpoint: file that keeps the state of the run; if it exists, the run goes on from there.
        checkpoint_every: steps between checkpoints: what an interruption loses at most.
        callback: called with the history after every step, before a checkpoint of that step is written:
            what it did for steps that no checkpoint knows, it does again, alike, in the resumed run.
        progress: a progress bar; `None` shows it on a terminal only.

    Returns:
        The history, one entry per step.

    Raises:
        ValueError: for counts or rates out of range, or a flow and an action on different lattices, or
            a family whose couplings the flow does not have, or processes with different arguments.
        TrainingDivergedError: if loss or gradient is not finite, or the weights where a checkpoint is due;
            the checkpoint stays as it was.
        CheckpointError: if the checkpoint belongs to another run.
        ElsewhereError: if another process failed outside of the objective.
    """
    learning_rate = flow.learning_rate if learning_rate is None else learning_rate
    check_inputs(flow, action, steps, batch_size, learning_rate, warmup, clip_norm, checkpoint_every)
    objective = _objective_for(flow, objective)
    generator = distributed.generator(flow.device).manual_seed(seed)
    run = _Run(flow, steps, learning_rate, warmup, clip_norm, checkpoint_every, generator, optimiser)
    settings = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "clip_norm": clip_norm,
        "seed": seed,
        "objective": repr(objective),
        "optimiser": _name(optimiser),
        "action": repr(action),
        "flow": f"{flow.dtype} {flow!r}",
    }
    settings = _without_addresses(settings)  # for the other processes and for checkpoints alike
    distributed.check_alike(settings)
    for tensor in flow.state_dict().values():
        distributed.broadcast([tensor])
    saved = distributed.from_first(lambda: _saved(checkpoint))
    if saved is not None:
        run.restore(saved, settings)

    def note_step() -> None:
        if callback is not None:
            callback(run.history)
        if checkpoint is not None and run.is_due:
            save_atomically({"kind": "training", "settings": settings, **run.state()}, checkpoint)

    hidden = True if not distributed.is_first() else None if progress is None else not progress
    with tqdm(total=steps, initial=run.step, desc="training", unit="step", disable=hidden) as bar:
        while run.step < steps:
            run.advance(objective, action, batch_size)
            bar.update()
            if run.step % 10 == 0 or run.step == steps:
                bar.set_postfix(run.history.last())
            distributed.by_first(note_step)
    return run.history


def _saved(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """The state that a run goes on from, if there is one."""
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    return load_safely(checkpoint, "training", map_location="cpu")


@dataclass
class _Run:
    """State of a training run, and how to advance it by a step."""

    flow: Flow | ConditionalFlow
    steps: int
    learning_rate: float
    warmup: int
    clip_norm: float
    checkpoint_every: int
    generator: torch.Generator
    make_optimiser: Callable[[list[nn.Parameter], float], Optimizer]

    def __post_init__(self) -> None:
        self.trained = [p for p in self.flow.parameters() if p.requires_grad]
        self.optimiser = self.make_optimiser(self.trained, self.learning_rate)
        self.history = History()
        self.step = 0
        self.advanced = False
        self.before = 0.0
        self.started = time.perf_counter()

    def advance(self, objective: Callable[..., ObjectiveValue], action: object, batch_size: int) -> None:
        """Take one optimiser step."""
        self.step += 1
        rate = self.learning_rate * _schedule(self.step, self.warmup, self.steps)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate
        self.optimiser.zero_grad()
        value = self._evaluate(objective, action, batch_size)
        self.advanced = True
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self._record(value, norm, rate)
        self.optimiser.step()
        # The same step everywhere, but for the rounding of unlike machines, which would add up.
        distributed.broadcast(self.trained)
        # The next loss would tell, but a checkpoint comes before it.
        if self.is_due and not all(bool(p.isfinite().all()) for p in self.trained):
            raise self._diverged("weights are not finite after the step")

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is, after this step."""
        return self.step % self.checkpoint_every == 0 or self.step == self.steps

    def _evaluate(
        self, objective: Callable[..., ObjectiveValue], action: object, batch_size: int
    ) -> ObjectiveValue:
        """The objective on a batch of all processes, and its gradient, which the parameters get."""
        value: ObjectiveValue | None = None
        failure: BaseException | None = None
        try:
            value = objective(self.flow, action, batch_size, self.generator)
            value.surrogate.backward()
        except (SolverError, ValueError, KeyboardInterrupt) as error:
            value, failure = None, error
        own = len(own_rows(torch.arange(batch_size), self.generator))
        value, failure = exchange(value, failure, n_samples=own, trained=self.trained)
        if value is not None:
            return value
        assert failure is not None
        # The arguments were right a step ago, so then it is the trained values that are not.
        if isinstance(failure, KeyboardInterrupt) or (isinstance(failure, ValueError) and not self.advanced):
            raise failure
        raise self._diverged(str(failure)) from failure

    def _record(self, value: ObjectiveValue, norm: Tensor, rate: float) -> None:
        # One transfer from the device per step, for everything that is looked at.
        ess = value.ess
        looked_at = [value.loss, norm] if ess is None else [value.loss, norm, ess]
        loss, norm_value, *ess_value = torch.stack([entry.double() for entry in looked_at]).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            raise self._diverged(f"loss {loss}, gradient norm {norm_value}")
        self.history.append(
            step=self.step,
            loss=loss,
            ess=ess_value[0] if ess_value else None,
            grad_norm=norm_value,
            learning_rate=rate,
            nfe=value.nfe,
            seconds=self.before + time.perf_counter() - self.started,
        )

    def _diverged(self, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"Training diverged at step {self.step}: {what}. Lower learning_rate, lengthen warmup, or "
            "give the objective a finer solver.",
            self.history,
        )

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain values and tensors."""
        return {
            "step": self.step,
            "flow": self.flow.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history.to_dict(),
        }

    def restore(self, state: dict[str, Any], settings: dict[str, Any]) -> None:
        """Go on from a saved state of the same run."""
        before = {name: value.clone() for name, value in self.flow.state_dict().items()}
        try:
            _compare(_without_addresses(state["settings"]), settings)
            self._restore(state)
        except Exception as error:  # whatever entries that fit nothing can make torch raise
            self.flow.load_state_dict(before)
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"The checkpoint does not fit this flow: {error!r}") from error

    def _restore(self, state: dict[str, Any]) -> None:
        history = History(**state["history"])
        step = check_count(state["step"], "step", minimum=0)
        for name, column in vars(history).items():
            if not isinstance(column, list) or len(column) != step:
                raise ValueError(f"history.{name} is not a list of {step} steps")
            allowed = (int, float, type(None)) if name == "ess" else (int, float)
            if not all(isinstance(entry, allowed) for entry in column):
                raise ValueError(f"history.{name} holds more than numbers")
        if history.step != list(range(1, step + 1)) or step > self.steps:
            raise ValueError(f"its history does not count the steps from 1 to {step}")
        self.flow.load_state_dict(state["flow"])
        if isinstance(self.optimiser, torch.optim.Adam):
            # A checkpoint counts the parameters in the order of the optimiser's groups.
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            _check_moments(state["optimiser"]["state"], parameters)
        if state["optimiser"]["param_groups"] != _with_rate(self.optimiser, state["optimiser"]):
            raise ValueError("the optimiser had other options or parameters")
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.history = history
        self.step = step
        self.before = self.history.seconds[-1] if len(self.history) else 0.0


def _objective_for(
    flow: Flow | ConditionalFlow, objective: Objective | OverCouplings | None
) -> Objective | OverCouplings:
    """The objective given, or the one by default, averaged over the couplings that a flow may have."""
    template, solver = flow.template if isinstance(flow, ConditionalFlow) else flow, TRAINING_SOLVER
    if isinstance(template, EquivariantCNF):
        solver = template.vector_field.training_solver
    default = PathGradient(solver=solver)
    if not isinstance(flow, ConditionalFlow):
        return default if objective is None else objective
    if objective is None:  # a range of couplings comes near the critical one, see PathGradient
        objective = replace(default, kinetic_penalty=1e-2)
    return objective if isinstance(objective, OverCouplings) else OverCouplings(objective)


def _without_addresses(settings: dict[str, Any]) -> dict[str, Any]:
    """What has no repr of its own shows an address in memory, which is another in the next process."""
    return {k: re.sub(r" at 0x[0-9a-f]+", "", v) if isinstance(v, str) else v for k, v in settings.items()}


def _compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise if the settings of two runs differ."""
    changed = [k for k, v in new.items() if type(old.get(k)) is not type(v) or old[k] != v]
    if changed:
        raise CheckpointError(
            "The checkpoint belongs to another run: "
            + ", ".join(f"{k} was {old.get(k)}, now {new[k]}" for k in changed)
            + ". Give another checkpoint file, or the same settings."
        )


def _check_moments(moments: dict[int, Any], trained: Sequence[Tensor]) -> None:
    """Raise unless Adam's moments are shaped like the parameters that they belong to."""
    for index, found in moments.items():
        two = {"step", "exp_avg", "exp_avg_sq"}
        if not two <= set(found) <= two | {"max_exp_avg_sq"}:
            raise ValueError(f"the optimiser's state of parameter {index} is not Adam's")
        for name in sorted(set(found) - {"step"}):
            if found[name].shape != trained[index].shape:
                raise ValueError(f"{name} of parameter {index} has shape {tuple(found[name].shape)}")


def _name(optimiser: Callable[..., Optimizer]) -> str:
    """The same in every process: no addresses in memory."""
    if isinstance(optimiser, partial):
        given = [*map(repr, optimiser.args), *(f"{k}={v!r}" for k, v in sorted(optimiser.keywords.items()))]
        return f"{_name(optimiser.func)}({', '.join(given)})"
    return getattr(optimiser, "__qualname__", repr(optimiser))


def _with_rate(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The optimiser's own options, with the learning rate of a saved state."""
    groups = optimiser.state_dict()["param_groups"]
    return [group | {"lr": old["lr"]} for group, old in zip(groups, saved["param_groups"], strict=True)]


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up times a cosine decay that reaches 0 one step after the last."""
    return min(1.0, step / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
