"""Callbacks of `fit`: `EarlyStopping` ends a training that gains nothing, `LogTo` writes to a logger.

A callback is any function of the `History`. It ends the training by raising `StopTraining`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from equiflow.runtime.checks import check_count, check_type
from equiflow.training.history import History


class StopTraining(Exception):  # noqa: N818 - no error: it ends a training as StopIteration ends a loop
    """A callback raises it to end the training after this step; its message goes into `History.notes`."""


class EarlyStopping:
    """Ends a training whose loss has stopped falling.

    The mean loss of the last `patience` steps is compared with that of the `patience` steps before. Training
    stops if it has fallen by less than `least` or less than twice the noise of the difference. The learning
    rate of `fit` decays over all steps, and the last of them gain most of their ESS from that. To stop at a
    given quality, `fit(..., target_ess=0.95)` is the better choice.

    Args:
        patience: number of steps that are averaged.
        least: smallest decrease of the loss that is worth going on for.

    Raises:
        TypeError: if `patience` is no integer or `least` no number.
        ValueError: if `patience` is below 2 or `least` is negative or not finite.

    >>> from equiflow import EquivariantCNF, Lattice, Phi4, fit
    >>> from equiflow.training import EarlyStopping
    >>> action = Phi4(Lattice((2, 2)), m2=1.0, lam=0.0)
    >>> options = {"batch_size": 8, "learning_rate": 1e-9, "callback": EarlyStopping(patience=5)}
    >>> history = fit(EquivariantCNF(action.lattice), action, steps=100, **options)
    >>> len(history)
    10
    """

    def __init__(self, *, patience: int = 100, least: float = 0.0) -> None:
        self.patience = check_count(patience, "patience", minimum=2)
        check_type(least, (float, int), "least")
        if not 0 <= least < math.inf:
            raise ValueError(f"least must be finite and not negative, got {least}.")
        self.least = float(least)

    def __call__(self, history: History) -> None:
        """Look at the last step.

        Raises:
            StopTraining: if the loss has stopped falling.
        """
        n = self.patience
        if len(history) < 2 * n:
            return
        before, now = np.array(history.loss[-2 * n : -n]), np.array(history.loss[-n:])
        fall = before.mean() - now.mean()
        noise = math.sqrt((before.var(ddof=1) + now.var(ddof=1)) / n)
        if fall < max(self.least, 2 * noise):
            raise StopTraining(f"the loss fell by {fall:.2g} in {n} steps, with a noise of {noise:.1g}")


class LogTo:
    """Hands every step to a logger.

    With Weights & Biases:

        run = wandb.init(project="phi4")
        fit(flow, action, callback=LogTo(lambda row, step: run.log(row, step=step)))

    With MLflow:

        with mlflow.start_run():
            fit(flow, action, callback=LogTo(lambda row, step: mlflow.log_metrics(row, step=step)))

    With TensorBoard:

        board = SummaryWriter("runs/phi4")
        write = lambda row, step: [board.add_scalar(name, x, step) for name, x in row.items()]
        fit(flow, action, callback=LogTo(write))

    Args:
        write: called with the numbers of a step by name, those that are known, and the number of the step.
        every: steps between two calls; the numbers are those of the last step.

    Raises:
        TypeError: if `write` cannot be called or `every` is no integer.
        ValueError: if `every` is below 1.

    >>> from equiflow import EquivariantCNF, Lattice, Phi4, fit
    >>> from equiflow.training import LogTo
    >>> action, rows = Phi4(Lattice((2, 2)), m2=1.0, lam=0.0), []
    >>> logger = LogTo(lambda row, step: rows.append((step, sorted(row))), every=2)
    >>> history = fit(EquivariantCNF(action.lattice), action, steps=3, batch_size=8, callback=logger)
    >>> rows
    [(2, ['ess', 'grad_norm', 'learning_rate', 'loss', 'nfe', 'seconds'])]
    """

    def __init__(self, write: Callable[[dict[str, float], int], Any], *, every: int = 1) -> None:
        if not callable(write):
            raise TypeError(f"write must be a function of a row and a step, got {write!r}.")
        self.write = write
        self.every = check_count(every, "every")

    def __call__(self, history: History) -> None:
        """Hand the last step to the logger, if it is its turn."""
        row = {name: column[-1] for name, column in history.to_dict().items()}
        step = row.pop("step")
        assert step is not None
        if int(step) % self.every == 0:
            self.write(
                {name: value for name, value in row.items() if isinstance(value, int | float)}, int(step)
            )
