"""The record of a training run: `History`, one entry per optimiser step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from equiflow.statistics import Estimate
from equiflow.statistics.tables import ShownAsTable

#: part of the steps, the last ones, over which a printed history averages
LATE = 0.1
#: what `History.loss_name` calls `mean(log q + S)` of model samples, whose minimum is `-log Z`
REVERSE_KL = "log q + S"
#: notes that a printed history shows, the last ones
SHOWN_NOTES = 3


@dataclass(repr=False)
class History(ShownAsTable):
    """Columns with one entry per optimiser step; `print` shows a summary, with the ESS on fresh samples last.

    Attributes:
        step: number of the step, from 1.
        loss: what is minimised, on the batch, see `ObjectiveValue.loss`. For the reverse divergence it is
            `mean(log q + S)`, whose minimum is `-log Z`. `loss_name` says what it is.
        ess: effective sample size on the batch; a small and noisy monitor, not a result. It is the reverse
            ESS, or the forward ESS if the objective draws target samples only, or None if the objective
            has no weights. The noise of an estimated trace (`EstimatedField`) lowers it.
        grad_norm: Euclidean norm of the gradient before clipping.
        learning_rate: of the step.
        nfe: evaluations of the vector field in the forward solve.
        seconds: wall time since training began, including earlier sessions of a resumed run.
        loss_name: what the loss of each step is: "log q + S" for its mean over model samples, else the name
            of the objective, such as "ForwardKL"; empty where a record of an earlier version does not say.
            Losses of different names cannot be compared.
        notes: sentences about what was changed on the way, such as the steps of the solver; no column.
        fresh_ess: reverse ESS of the trained flow on samples that training has not seen; None if it was not
            measured. No column.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    ess: list[float | None] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss_name: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fresh_ess: Estimate | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.step)

    def append(self, **entry: float | str | None) -> None:
        """Add one step.

        Args:
            entry: value of each column by its name; `loss_name` may be left out.

        Raises:
            KeyError: if a column is missing.
        """
        entry.setdefault("loss_name", "")
        for name, column in self._columns().items():
            column.append(entry[name])

    def losses(self) -> Iterator[tuple[str, range]]:
        """Yield each loss by its name with the indices of its steps, one stretch after another.

        A history without names is one stretch, of an empty name.
        """
        names = self.loss_name if len(self.loss_name) == len(self) else [""] * len(self)
        start = 0
        for name, same in itertools.groupby(names):
            end = start + len(list(same))
            yield name, range(start, end)
            start = end

    def last(self) -> dict[str, str]:
        """Return loss and ESS of the last step as text, for a progress bar."""
        shown = {"loss": self.loss[-1], "ess": self.ess[-1]}
        return {name: f"{value:.3f}" for name, value in shown.items() if value is not None}

    def to_dict(self) -> dict[str, list[Any]]:
        """Return copies of the columns by name."""
        return {name: list(column) for name, column in self._columns().items()}

    def _columns(self) -> dict[str, list[Any]]:
        return {name: column for name, column in vars(self).items() if name not in ("notes", "fresh_ess")}

    def _rows(self) -> dict[str, object]:
        rows: dict[str, object] = {"steps": len(self)}
        if len(self):
            late = max(1, round(LATE * len(self)))
            rows["time"] = f"{self.seconds[-1]:.3g} s"
            rows |= self._losses_in_words()
            known = [ess for ess in self.ess[-late:] if ess is not None]
            if known:
                rows["ESS on the batch"] = f"{_mean(known):.3f} in the last {late} steps"
            rows["evaluations"] = f"{self.nfe[-1]} per sample"
        hidden = len(self.notes) - SHOWN_NOTES
        rows |= {"notes": f"{hidden} earlier ones in History.notes"} if hidden > 0 else {}
        rows |= {f"note {max(hidden, 0) + n}": text for n, text in enumerate(self.notes[-SHOWN_NOTES:], 1)}
        unknown = "not measured"
        return rows | {"ESS on fresh samples": unknown if self.fresh_ess is None else self.fresh_ess}

    def _losses_in_words(self) -> dict[str, str]:
        """Return a row for the loss, or for each of several losses."""
        rows, stretches = {}, list(self.losses())
        for name, steps in stretches:
            late = self.loss[steps.stop - max(1, round(LATE * len(steps))) : steps.stop]
            text = f"{self.loss[steps.start]:.6g} at first, {_mean(late):.6g} at last"
            if len(stretches) == 1:
                rows["loss"] = text
            else:
                rows[f"loss {name}".strip()] = text if len(steps) > 1 else f"{late[0]:.6g}"
        return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
