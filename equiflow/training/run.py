"""One training run: its state, how it advances by a step, and how it goes on from a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equiflow.flows import ConditionalFlow, Flow
from equiflow.ode.solver import SolverError
from equiflow.runtime import distributed
from equiflow.runtime.randomness import own_rows
from equiflow.runtime.storage import CheckpointError, is_of_system
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.checkpoints import (
    check_moments,
    check_same_settings,
    optimiser_name,
    sound_history,
    with_all_options,
    without_addresses,
)
from equiflow.training.data_parallel import exchange
from equiflow.training.history import REVERSE_KL, History
from equiflow.training.objectives.adaptive import Adaptive
from equiflow.training.objectives.base import ObjectiveValue
from equiflow.training.options import TrainingOptions
from equiflow.training.recipe import CHECKPOINT_VERSION
from equiflow.training.refuge import RUN_AWAY, Refuge
from equiflow.training.validation import check_gradient_of_target


class TrainingDivergedError(RuntimeError):
    """Training ran into NaN or infinite values.

    Attributes:
        history: record of the steps before.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class TrainingRun:
    """The state of a training run.

    Args:
        flow: trained in place.
        action: the target.
        objective: what is minimised.
        make_optimiser: makes the optimiser from the trained parameters and the learning rate.
        options: numbers of the run.
    """

    def __init__(
        self,
        flow: Flow | ConditionalFlow,
        action: Action | ActionFamily,
        objective: Callable[..., ObjectiveValue],
        make_optimiser: Callable[[list[nn.Parameter], float], Optimizer],
        options: TrainingOptions,
    ) -> None:
        self.flow, self.action, self.objective, self.options = flow, action, objective, options
        self.trained = [p for p in flow.parameters() if p.requires_grad]
        self.optimiser = make_optimiser(self.trained, options.learning_rate)
        self.generator = distributed.generator(flow.device).manual_seed(options.seed)
        self.history = History()
        self.step = 0
        #: what the processes of a run, and a run and its checkpoint, must agree on
        self.settings = without_addresses(
            options.settings()
            | {
                "objective": repr(objective),
                "optimiser": optimiser_name(make_optimiser),
                "action": repr(action),
                "flow": f"{flow.dtype} {flow!r}",
            }
        )
        #: the state of an objective that changes while it trains; None for all others
        self.adaptation = objective.adaptation() if isinstance(objective, Adaptive) else None
        self.refuge = None if self.adaptation is None else Refuge(flow, self.optimiser)
        self._gradient_was_found = False
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.options.steps

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether a checkpoint is written after the step just taken."""
        return self.options.is_due(self.step)

    def standing(self) -> dict[str, str]:
        """Return how the run stands as text, for a progress bar."""
        shown = self.history.last()
        if self.adaptation is not None:
            shown["solver"] = str(self.adaptation)
        if self.refuge is not None and self.refuge.n_set_back:
            shown["set back"] = str(self.refuge.n_set_back)
        return shown

    def synchronise(self) -> None:
        """Make sure that all processes have the same settings, and give them the first one's weights.

        Raises:
            ValueError: if settings differ between processes.
        """
        distributed.check_alike(self.settings)
        for tensor in self.flow.state_dict().values():
            distributed.broadcast([tensor])

    def advance(self) -> None:
        """Take one optimiser step.

        A run with an adaptive objective that diverges is set back and takes the step again.

        Raises:
            TrainingDivergedError: if the loss, the gradient, or weights that are due to be saved are not
                finite, for good.
        """
        self.step += 1
        while len(self.history) < self.step:
            try:
                self._attempt()
            except TrainingDivergedError as error:
                self._set_back(error)

    def _attempt(self) -> None:
        """Take one optimiser step from where the weights are."""
        objective = self._objective_now()
        rate = self.options.rate(self.step) * (1.0 if self.refuge is None else self.refuge.rate_factor)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate
        self.optimiser.zero_grad()
        value = self._evaluate(objective)
        if not self._gradient_was_found and value.log_weight is not None:  # it saw S of model samples
            check_gradient_of_target(self.flow, self.action)
        self._gradient_was_found = True
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip_norm)
        self._record(value, objective, norm, rate)
        self.optimiser.step()
        # Every process takes the same step up to rounding, which would add up on unlike machines.
        distributed.broadcast(self.trained)
        # The next loss would show it too, but only after the checkpoint is written.
        if self.checkpoint_is_due and not all(bool(p.isfinite().all()) for p in self.trained):
            raise self._diverged("weights are not finite after the step")

    def _objective_now(self) -> Callable[..., ObjectiveValue]:
        """Return what the step minimises, after a check of the solver if one is due."""
        adaptation, refuge, norms = self.adaptation, self.refuge, self.history.grad_norm
        if adaptation is None or refuge is None:
            return self.objective
        if refuge.growth(norms) > RUN_AWAY:
            raise self._diverged(f"gradients have grown by a factor of {refuge.growth(norms):.3g}")
        if adaptation.is_due(self.step):
            before = adaptation.steps
            found = adaptation.check(self.flow, self.action, step=self.step, seed=self.options.seed)
            if adaptation.steps != before:
                self.history.notes.append(f"step {self.step}: {adaptation}")
            if found.is_lost:
                raise self._diverged(f"the solver's error of log weights is {found.error:.3g}")
            if found.is_small:
                refuge.keep(self.step, norms)
        return adaptation.at((self.step - 1) / self.options.steps)

    def _set_back(self, error: TrainingDivergedError) -> None:
        """Go back to the last weights that can be trusted, with half the learning rate and a finer solver.

        Raises:
            TrainingDivergedError: the error itself, if the objective does not adapt, or this was in vain.
        """
        if self.adaptation is None or self.refuge is None or self.refuge.is_used_up:
            raise error
        step = self.refuge.set_back(len(self.history))
        self.adaptation.refine(self.step)
        self.history.notes.append(
            f"step {self.step}: set back to the weights of step {step}, with half the learning rate and "
            f"{self.adaptation}, because training ran away"
        )

    def _evaluate(self, objective: Callable[..., ObjectiveValue]) -> ObjectiveValue:
        """Evaluate the objective on a batch of all processes and leave its gradient in the parameters."""
        batch_size = self.options.batch_size
        value: ObjectiveValue | None = None
        failure: BaseException | None = None
        try:
            value = objective(self.flow, self.action, batch_size, self.generator)
            value.surrogate.backward()
        except (SolverError, ValueError, KeyboardInterrupt) as error:
            value, failure = None, error
        own = len(own_rows(torch.arange(batch_size), self.generator))
        value, failure = exchange(value, failure, n_samples=own, trained=self.trained)
        if value is not None:
            return value
        assert failure is not None
        if isinstance(failure, KeyboardInterrupt):
            raise failure
        # The arguments were right in earlier steps, so a ValueError after them is due to trained values.
        if isinstance(failure, ValueError) and not self._gradient_was_found:
            raise failure
        raise self._diverged(str(failure)) from failure

    def _record(
        self, value: ObjectiveValue, objective: Callable[..., ObjectiveValue], norm: Tensor, rate: float
    ) -> None:
        """Add the step to the history, or raise if its loss or gradient is not finite."""
        # All numbers are fetched from the device in one transfer per step.
        ess = value.ess
        fetched = [value.loss, norm] if ess is None else [value.loss, norm, ess]
        numbers = torch.stack([entry.double() for entry in fetched])
        # What they decide, such as a check of the solver, must be the same in all processes.
        distributed.broadcast([numbers])
        loss, norm_value, *ess_value = numbers.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            raise self._outside(value) or self._diverged(f"loss {loss}, gradient norm {norm_value}")
        suspicious = self.refuge is not None and self.refuge.is_suspicious(norm_value, self.history.grad_norm)
        if self.adaptation is not None and suspicious:
            self.adaptation.hasten()
        self.history.append(
            step=self.step,
            loss=loss,
            ess=ess_value[0] if ess_value else None,
            grad_norm=norm_value,
            learning_rate=rate,
            nfe=value.nfe,
            seconds=self._seconds_before + time.perf_counter() - self._started,
            loss_name=REVERSE_KL if value.value is None else _name_of(objective),
        )

    def _outside(self, value: ObjectiveValue) -> TrainingDivergedError | None:
        """Return the error to raise if the flow draws samples where the action is infinite; else None."""
        n_outside = 0 if value.log_weight is None else int(value.log_weight.isneginf().sum())
        if not n_outside:
            return None
        return TrainingDivergedError(
            f"At step {self.step} the action is infinite for {n_outside} model samples: the target has no "
            "density where the flow has some, so their reverse divergence is infinite. Train by "
            "ForwardKL(samples), or give the action a finite, steep wall.",
            self.history,
        )

    def _diverged(self, what: str) -> TrainingDivergedError:
        """Return the error to raise when training diverges at the current step."""
        return TrainingDivergedError(
            f"Training diverged at step {self.step}: {what}. Lower learning_rate, lengthen warmup, or "
            "give the objective a finer solver.",
            self.history,
        )

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain values and tensors."""
        return {
            "version": CHECKPOINT_VERSION,
            "settings": self.settings,
            "step": self.step,
            "flow": self.flow.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history.to_dict(),
            **({} if self.adaptation is None else {"adaptation": self._adaptation_state()}),
        }

    def _adaptation_state(self) -> dict[str, Any]:
        """Return what a resumed run needs besides, if its objective changes."""
        assert self.adaptation is not None
        assert self.refuge is not None
        notes = list(self.history.notes)
        return {"objective": self.adaptation.state(), "refuge": self.refuge.state(), "notes": notes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same run; the flow keeps its weights if that fails.

        Raises:
            CheckpointError: if the state belongs to another run or is unsound. Errors of a device and of the
                memory are passed on as they are.
        """
        before = {name: value.clone() for name, value in self.flow.state_dict().items()}
        try:
            check_same_settings(state["settings"], self.settings)
            self._restore(state)
        except Exception as error:  # torch raises many kinds of errors on entries that do not fit
            of_system = is_of_system(error)
            with suppress(RuntimeError) if of_system else nullcontext():  # a broken device takes no weights
                self.flow.load_state_dict(before)
            if of_system or isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"The checkpoint does not fit this flow: {error!r}") from error

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state whose settings are right."""
        history = sound_history(state, self.options.steps)
        self.flow.load_state_dict(state["flow"])
        if isinstance(self.optimiser, torch.optim.Adam):
            # A checkpoint counts the parameters in the order of the optimiser's groups.
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            check_moments(state["optimiser"]["state"], parameters)
        self.optimiser.load_state_dict(with_all_options(state["optimiser"], self.optimiser))
        self.generator.set_state(state["generator"].cpu())
        if self.adaptation is not None and self.refuge is not None:
            adapted = state["adaptation"]
            self.adaptation.restore(adapted["objective"])
            self.refuge.restore(adapted["refuge"])
            history.notes = adapted["notes"]
        self.history = history
        self.step = len(history)
        self._seconds_before = history.seconds[-1] if len(history) else 0.0


def _name_of(objective: Callable[..., ObjectiveValue]) -> str:
    """Return the name of a function, or of the class of an object that is called like one."""
    return str(getattr(objective, "__name__", type(objective).__name__))
