"""Tables and lines on the terminal, printed by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to the terminal; all columns but the first are aligned to the right.

    Args:
        title: printed above the table.
        header: names of the columns.
        rows: one cell per column each.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    _console().print(table)


def print_line(text: str) -> None:
    """Print a line to the terminal without markup, highlighting or line breaks."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    """Return the console of the terminal, or a wide one for a pipe or a file."""
    from rich.console import Console

    console = Console()
    # A pipe has no width, and rich would assume 80 columns, which is too narrow for most rows.
    return console if console.is_terminal else Console(width=110)
