"""The record of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """One entry per optimiser step.

    Attributes:
        step: number of the step, from 1.
        loss: `mean(log q + S)` on the batch; its minimum is `-log Z`.
        ess: reverse effective sample size on the batch (small and noisy: a monitor, no result).
        grad_norm: Euclidean norm of the gradient before clipping.
        learning_rate: of the step.
        nfe: evaluations of the vector field in the forward solve.
        seconds: wall time since training began, earlier runs included.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.step)

    def append(self, **entry: float) -> None:
        """Add one step; every column must be given."""
        for name, column in vars(self).items():
            column.append(entry[name])

    def to_dict(self) -> dict[str, list[float]]:
        """The columns by name."""
        return asdict(self)
