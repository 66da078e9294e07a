"""The record of a training run: `History`, one entry per optimiser step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """Columns with one entry per optimiser step.

    Attributes:
        step: number of the step, from 1.
        loss: what is minimised, on the batch, see `ObjectiveValue.loss`. For the reverse divergence it is
            `mean(log q + S)`, whose minimum is `-log Z`.
        ess: effective sample size on the batch; a small and noisy monitor, not a result. It is the reverse
            ESS, or the forward ESS if the objective draws target samples only, or None if the objective
            has no weights. The noise of an estimated trace (`EstimatedField`) lowers it.
        grad_norm: Euclidean norm of the gradient before clipping.
        learning_rate: of the step.
        nfe: evaluations of the vector field in the forward solve.
        seconds: wall time since training began, including earlier sessions of a resumed run.
        notes: sentences about what was changed on the way, such as the steps of the solver; no column.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    ess: list[float | None] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.step)

    def append(self, **entry: float | None) -> None:
        """Add one step.

        Args:
            entry: value of each column by its name.

        Raises:
            KeyError: if a column is missing.
        """
        for name, column in self._columns().items():
            column.append(entry[name])

    def last(self) -> dict[str, str]:
        """Return loss and ESS of the last step as text, for a progress bar."""
        shown = {"loss": self.loss[-1], "ess": self.ess[-1]}
        return {name: f"{value:.3f}" for name, value in shown.items() if value is not None}

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return copies of the columns by name."""
        return {name: list(column) for name, column in self._columns().items()}

    def _columns(self) -> dict[str, list[Any]]:
        return {name: column for name, column in vars(self).items() if name != "notes"}
