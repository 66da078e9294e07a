"""Scalars for TensorBoard. Needs the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Board:
    """A log of the numbers of a run for TensorBoard.

    Args:
        folder: of the log.
        from_step: last step that is kept in a log that is there already.

    Raises:
        ImportError: without tensorboard.
    """

    def __init__(self, folder: Path, *, from_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "run.tensorboard = true needs tensorboard: pip install '.[tensorboard]'."
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=from_step + 1)

    def add(self, group: str, row: Mapping[str, object]) -> None:
        """Add all numbers of a row under one heading.

        Args:
            group: the heading.
            row: numbers by name, among them the `step`.
        """
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(f"{group}/{name}", value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
