"""The ESS of a flow on samples that training has not seen: what `fit` reports, and what `target_ess` asks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equiflow.flows import ConditionalFlow, Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.randomness import stream
from equiflow.statistics import Estimate, effective_sample_size
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.options import TrainingOptions

#: fresh samples of a measurement
N_FRESH = 1024
#: after short trainings, one fresh sample for so many that training drew, so that measuring costs little
TRAINED_PER_FRESH = 16
#: fewer samples than this give no error worth printing
FEWEST = 64
#: measurements on the way to a target, at most
MOST_LOOKS = 24
#: numbers of one batch of fresh samples, which bounds the memory
NUMBERS_PER_BATCH = 2**18


@dataclass(frozen=True)
class FreshSamples:
    """Measures the ESS of a flow in training on fresh samples, at the end and on the way to a target.

    The noise has a stream of its own for each step, so that measuring changes nothing in the training.

    Attributes:
        n: samples of a measurement at the end; None for a number that suits the length of training, 0 for no
            measurement.
        target: ESS at which training stops; None for all steps.

    Raises:
        TypeError: if `n` is no integer, or `target` no number.
        ValueError: if `n` is negative, or `target` not between 0 and 1.
    """

    n: int | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if self.n is not None:
            check_count(self.n, "n_fresh", minimum=0)
        if self.target is not None:
            check_type(self.target, (float, int), "target_ess")
            if not 0 < self.target < 1:
                raise ValueError(f"target_ess must be between 0 and 1, got {self.target}.")

    def number(self, step: int, options: TrainingOptions) -> int:
        """Return the number of samples of the measurement at the end.

        Args:
            step: number of steps taken.
            options: of the training.

        Returns:
            The number; 0 for no measurement.
        """
        if self.n is not None:
            return self.n
        if self.target is not None:
            return N_FRESH
        n = min(N_FRESH, step * options.batch_size // TRAINED_PER_FRESH)
        return n if n >= FEWEST else 0

    def is_due(self, step: int, options: TrainingOptions) -> bool:
        """Return whether training looks after a step if it is at its target.

        Args:
            step: number of the step.
            options: of the training.

        Returns:
            True after every so many steps but the last.
        """
        every = -(-options.steps // MOST_LOOKS)
        return self.target is not None and 0 < step < options.steps and step % every == 0

    def look(
        self, flow: Flow | ConditionalFlow, action: Action | ActionFamily, step: int, options: TrainingOptions
    ) -> str:
        """Return a sentence if the target is reached; empty if not.

        It is reached if the ESS lies above it by twice its error: of 24 looks at a flow just below, one would
        pass by chance otherwise.

        Args:
            flow: in training.
            action: its target.
            step: number of the step.
            options: of the training.

        Returns:
            What training notes when it stops.
        """
        if self.target is None:
            return ""
        ess = fresh_ess(flow, action, N_FRESH, f"look {step}", options)
        if ess.mean - 2 * ess.error < self.target:
            return ""
        return f"step {step}: stopped, since the ESS on {N_FRESH} fresh samples is {ess}, above {self.target}"


def fresh_ess(
    flow: Flow | ConditionalFlow,
    action: Action | ActionFamily,
    n_samples: int,
    purpose: str,
    options: TrainingOptions,
) -> Estimate:
    """Estimate the reverse ESS of a flow on fresh samples, by its own solver.

    Args:
        flow: in training. Of a `ConditionalFlow` the smallest of three counts: with all couplings at their
            lower ends, at their upper ends, and in the middle.
        action: its target.
        n_samples: number of samples, for each of the couplings.
        purpose: name of the stream of random numbers.
        options: of the training.

    Returns:
        The ESS with its error.

    Raises:
        ValueError: if the flow only estimates its log-determinants, or a weight is NaN.
        SolverError: if the solver gives up.
    """
    if isinstance(flow, ConditionalFlow):
        assert isinstance(action, ActionFamily)
        found = []
        for x in (-1.0, 0.0, 1.0):
            at = action.couplings.denormalised([x] * len(action.couplings.ranges))
            ess = fresh_ess(flow.sharing(**at), action.at(**at), n_samples, f"{purpose} at {x}", options)
            text = ", ".join(f"{name} = {value:g}" for name, value in at.items())
            found.append(replace(ess, note=f"the smallest of three, at {text}"))
        return min(found, key=lambda one: one.mean)
    assert isinstance(action, Action)
    return effective_sample_size(_log_weights(flow, action, n_samples, purpose, options))


@torch.no_grad()
def _log_weights(
    flow: Flow, action: Action, n_samples: int, purpose: str, options: TrainingOptions
) -> Tensor:
    """Return the log weights of fresh samples, `(n_samples,)`."""
    generator = stream(options.seed, f"fresh samples, {purpose}", device=flow.device)
    size = max(1, options.batch_size, NUMBERS_PER_BATCH // flow.space.size)
    drawn = []
    for start in range(0, n_samples, size):
        phi, log_q = flow.sample_and_log_prob(min(size, n_samples - start), generator=generator)
        drawn.append(-action(phi) - log_q)
    return torch.cat(drawn)
