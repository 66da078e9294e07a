"""Weights that a training run goes back to when it runs away: `Refuge`."""

from __future__ import annotations

import copy
import statistics
from typing import Any

from torch.optim import Optimizer

from equiflow.flows import ConditionalFlow, Flow

#: how often a run is set back before it counts as diverged
MAX_SET_BACK = 8
#: a gradient larger than the typical one of the last steps by this factor is suspicious
SUSPICIOUS, RECENT = 5.0, 20
#: gradients of a few steps in a row, in units of those of the refuge: beyond the first factor, new weights
#: are not kept; beyond the second, training has run away
UNSTEADY, RUN_AWAY, FEW = 3.0, 10.0, 5
#: training steps that must have gone well from some weights on before they are trusted
PROBATION = 10


class Refuge:
    """Copies of weights and of the state of the optimiser, from when training went well.

    Weights are on probation first: training may be about to run away where the solver is still accurate.

    Args:
        flow: what is trained.
        optimiser: of the run.
    """

    def __init__(self, flow: Flow | ConditionalFlow, optimiser: Optimizer) -> None:
        self.flow, self.optimiser = flow, optimiser
        #: factor on the learning rate, which is halved whenever the run is set back
        self.rate_factor = 1.0
        self.n_set_back = 0
        #: number of entries at the beginning of the history that are not on the way to the present weights
        self.since = 0
        self.trusted = self.on_probation = self._snapshot(1, [])

    @property
    def is_used_up(self) -> bool:
        """Whether the run was set back so often that it is in vain."""
        return self.n_set_back >= MAX_SET_BACK

    def growth(self, norms: list[float]) -> float:
        """Return the typical gradient of the last few steps in units of that of the refuge.

        Args:
            norms: of the gradients, one per step of the run.

        Returns:
            The factor; 0 if it is not known yet.
        """
        last, level = norms[self.since :][-FEW:], self.trusted["grad_norm"]
        return statistics.median(last) / level if len(last) == FEW and level else 0.0

    def is_suspicious(self, norm: float, norms: list[float]) -> bool:
        """Return whether a gradient is much larger than those of the steps before.

        Args:
            norm: of the gradient.
            norms: of those before, see `growth`.

        Returns:
            Whether it is larger than their median by a factor of 5.
        """
        recent = norms[self.since :][-RECENT:]
        return bool(recent) and norm > SUSPICIOUS * statistics.median(recent)

    def keep(self, step: int, norms: list[float]) -> None:
        """Keep the present weights, at which the solver is accurate, if training goes well.

        Args:
            step: number of the training step to come.
            norms: see `growth`.
        """
        if self.growth(norms) < UNSTEADY and step >= self.on_probation["step"] + PROBATION:
            self.trusted, self.on_probation = self.on_probation, self._snapshot(step, norms)

    def set_back(self, n_recorded: int) -> int:
        """Go back to the trusted weights, and halve the learning rate.

        Args:
            n_recorded: number of entries of the history.

        Returns:
            The number of the training step that the weights are from.
        """
        self.n_set_back += 1
        self.rate_factor /= 2
        self.since = n_recorded
        self.on_probation = self.trusted
        self.flow.load_state_dict(self.trusted["flow"])
        self.optimiser.load_state_dict(copy.deepcopy(self.trusted["optimiser"]))
        return int(self.trusted["step"])

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        names = ("rate_factor", "n_set_back", "since", "trusted", "on_probation")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        vars(self).update({name: state[name] for name in self.state()})

    def _snapshot(self, step: int, norms: list[float]) -> dict[str, Any]:
        recent = norms[self.since :][-RECENT:]
        return {
            "step": step,
            "grad_norm": statistics.median(recent) if recent else 0.0,
            "flow": {name: value.clone() for name, value in self.flow.state_dict().items()},
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
        }
