"""The record of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """One entry per optimiser step.

    Attributes:
        step: number of the step, from 1.
        loss: what is minimised, on the batch: `mean(log q + S)` for the reverse divergence, whose minimum
            is `-log Z`; `ObjectiveValue.loss` in general.
        ess: effective sample size on the batch (small and noisy: a monitor, no result): the reverse one,
            the forward one if the objective draws target samples only, None if it weighs nothing. The
            noise of an estimated trace (`EstimatedField`) lowers it.
        grad_norm: Euclidean norm of the gradient before clipping.
        learning_rate: of the step.
        nfe: evaluations of the vector field in the forward solve.
        seconds: wall time since training began, earlier runs included.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    ess: list[float | None] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.step)

    def append(self, **entry: float | None) -> None:
        """Add one step; every column must be given."""
        for name, column in vars(self).items():
            column.append(entry[name])

    def last(self) -> dict[str, str]:
        """Loss and ESS of the last step, for a progress bar."""
        shown = {"loss": self.loss[-1], "ess": self.ess[-1]}
        return {name: f"{value:.3f}" for name, value in shown.items() if value is not None}

    def to_dict(self) -> dict[str, list[float | None]]:
        """The columns by name."""
        return asdict(self)
