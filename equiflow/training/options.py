"""The numbers that a training run is told: checked once, when `TrainingOptions` is built."""

from __future__ import annotations

import math
from dataclasses import dataclass

from equiflow.runtime import distributed
from equiflow.runtime.checks import check_seed, check_type, make_plain


@dataclass(frozen=True)
class TrainingOptions:
    """Length, batch size and learning-rate schedule of a training run.

    Attributes:
        steps: optimiser steps in all.
        batch_size: model samples per step, over all processes.
        learning_rate: at the top of the schedule.
        warmup: steps of the linear warm-up.
        clip_norm: gradients with a larger norm are scaled down to it.
        seed: of the noise that training draws.
        checkpoint_every: steps between checkpoints.

    Raises:
        TypeError: if a count or the seed is not an integer, or a rate is not a number.
        ValueError: if a count, a rate or the seed is out of range, or the batch has less than one sample for
            each process.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    clip_norm: float
    seed: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        make_plain(self, *vars(self))  # they are compared with those in a checkpoint, and written to it
        for name in ("steps", "batch_size", "checkpoint_every"):
            check_type(getattr(self, name), int, name)
        for name in ("learning_rate", "clip_norm", "warmup"):
            check_type(getattr(self, name), (float, int), name)
        check_seed(self.seed)
        if min(self.steps, self.batch_size, self.checkpoint_every) < 1 or self.warmup < 0:
            raise ValueError(
                f"Expected counts >= 1, got steps={self.steps}, batch_size={self.batch_size}, "
                f"checkpoint_every={self.checkpoint_every}, warmup={self.warmup}."
            )
        distributed.check_share(self.batch_size, "batch_size")
        if not (0 < self.learning_rate < math.inf and self.clip_norm > 0):
            raise ValueError(
                f"Expected positive learning_rate and clip_norm, got {self.learning_rate} and "
                f"{self.clip_norm}."
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warm-up times a cosine decay.

        `learning_rate min(1, step / warmup) (1 + cos(pi (step - 1) / steps)) / 2`, which reaches 0 one step
        after the last.
        """
        warmup, decay = min(1.0, step / max(self.warmup, 1)), math.cos(math.pi * (step - 1) / self.steps)
        return self.learning_rate * (warmup * 0.5 * (1 + decay))

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is written after a step."""
        return step % self.checkpoint_every == 0 or step == self.steps

    def settings(self) -> dict[str, object]:
        """Return the options that a resumed run must share with the interrupted one."""
        return {name: value for name, value in vars(self).items() if name != "checkpoint_every"}
