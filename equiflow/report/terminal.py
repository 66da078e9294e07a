"""Tables and lines on the terminal, printed by rich. Paths are printed as they are, not as markup."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

#: what stands for a character on terminals that cannot show it
_IN_ASCII = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*#@", strict=True)),
    **{"±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "φ": "phi", "χ": "chi", "τ": "tau", "²": "^2"},
}


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to the terminal; all columns but the first are aligned to the right.

    Args:
        title: printed above the table.
        header: names of the columns.
        rows: one cell per column each.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold"), title_justify="left", title_style="bold")
    for column, name in enumerate(header):
        table.add_column(Text(printable(name)), justify="left" if column == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console().print(table)


def print_line(text: str) -> None:
    """Print a line to the terminal without markup, highlighting or line breaks."""
    console().print(printable(text), markup=False, highlight=False, soft_wrap=True, emoji=False)


def printable(text: str) -> str:
    """Return a text whose characters the terminal can show; others are replaced, such as ± by +-."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(char if _is_known(char, encoding) else _IN_ASCII.get(char, "?") for char in text)


def _is_known(char: str, encoding: str) -> bool:
    """Whether an encoding has a character."""
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def console() -> Console:
    """Return the console of the terminal, or a wide one for a pipe or a file."""
    from rich.console import Console

    # With NO_COLOR alone, rich would leave out colours but not bold letters.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    found = Console(color_system=colours)
    # A pipe has no width, and rich would assume 80 columns, which is too narrow for most rows.
    return found if found.is_terminal else Console(color_system=colours, width=110)
