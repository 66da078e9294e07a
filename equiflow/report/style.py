"""How figures look: one style sheet, a palette for all eyes, and axes that can be read (extra `report`).

`styled` draws a function's figure by the style sheet in this folder, `new_figure` makes one, `save_figure`
writes it to a file. Plots of the package, of its examples and of its benchmarks are made by these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from equiflow.runtime.storage import written_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: the style sheet of matplotlib by which all figures are drawn
SHEET = Path(__file__).with_name("equiflow.mplstyle")
#: colours of curves in their order, by Okabe and Ito: they differ for the colour-blind and in grey
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6e6e6e", "#7a5195")
#: colours of what the flow gives, of a reference, and of everything else
FLOW, REFERENCE, MUTED = PALETTE[0], PALETTE[1], PALETTE[6]
#: the colour of text and axes, which no curve has
INK = "#010203"


@contextmanager
def style() -> Iterator[None]:
    """Draw by the style sheet of the package inside of a `with` block.

    >>> with style():
    ...     figure, axes = new_figure(1, 1, (6, 4))
    >>> axes.spines["top"].get_visible()
    False
    """
    import matplotlib

    with matplotlib.rc_context(fname=SHEET):
        yield


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that draws by the style sheet of the package.

    Args:
        draw: returns a figure.

    Returns:
        The same function, inside of `style()`.
    """

    @functools.wraps(draw)
    def drawn(*args: _P.args, **options: _P.kwargs) -> _R:
        with style():
            return draw(*args, **options)

    return drawn


def new_figure(
    rows: int, columns: int, size: tuple[float, float], *, title: str = "", **options: Any
) -> tuple[Figure, Any]:
    """Return a figure and its panels, to be drawn on inside of `style()` or of a `styled` function.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        size: width and height in inches.
        title: above all panels: theory, couplings, lattice.
        options: of `Figure.subplots`.

    Returns:
        The figure and its axes, one or an array of them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(rows, columns, **options)


def legend_below(figure: Figure, axes: Any, *, columns: int = 1) -> None:
    """Put the legend of some axes below all panels, where it covers no data.

    Args:
        figure: with a constrained layout.
        axes: whose labels it shows.
        columns: number of entries side by side.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


#: ticks that a logarithmic axis has at least
FEWEST_TICKS = 3


def readable_log(axes: Any, which: str = "y") -> None:
    """Make an axis logarithmic, with ticks that are written as plain numbers and lie close enough.

    Call it when the data are drawn, and no limit changes any more.

    Args:
        axes: whose axis is meant.
        which: "x" or "y".

    >>> with style():
    ...     figure, axes = new_figure(1, 1, (6, 4))
    ...     _ = axes.plot([1, 2], [0.5, 30])
    ...     readable_log(axes)
    >>> [text.get_text() for text in axes.get_yticklabels()]
    ['0.5', '1', '2', '5', '10', '20']
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    axes.set(**{f"{which}scale": "log"})
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    decades = math.log10(high / low)
    steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
    every = max(1, math.ceil(decades / 8))  # powers of ten, or of a hundred if there are many
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) < FEWEST_TICKS:  # far less than a decade, where the axis is nearly linear
        ticks = [float(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)]
        inside = [tick for tick in ticks if low <= tick <= high]
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(inside))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    plain = low > 1e-4 and high < 1e6
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value) if plain else _power(value)))


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], *, size: float = 8.5) -> None:
    """Write names of curves at their right ends, apart from each other.

    Args:
        axes: whose limits no longer change.
        ends: x, y, name and colour of each curve.
        size: of the letters, in points.
    """
    height = axes.figure.get_figheight() * axes.get_position().height * 72
    gap = 1.3 * size / height
    places = [axes.transAxes.inverted().transform(axes.transData.transform(end[:2])) for end in ends]
    order = sorted(range(len(ends)), key=lambda n: places[n][1])
    heights = _spread([float(places[n][1]) for n in order], gap)
    for n, y in zip(order, heights, strict=True):
        x0, _, name, colour = ends[n]
        axes.annotate(
            name,
            (x0, ends[n][1]),
            (1.03, y),
            textcoords="axes fraction",
            va="center",
            fontsize=size,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6},
        )


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG; a crash leaves an old file intact.

    Args:
        figure: what to write.
        path: name of the file.
    """
    with style(), written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Return sorted places moved as little as needed to lie `gap` apart and above 0.

    >>> _spread([0.5, 0.5, 1.0], 0.25)
    [0.375, 0.625, 1.0]
    """
    groups: list[list[float]] = []  # middle and number of labels that stand in one row
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            middle, number = groups.pop()
            before, others = groups.pop()
            groups.append([(middle * number + before * others) / (number + others), number + others])
    found = [middle + gap * (k - (number - 1) / 2) for middle, number in groups for k in range(int(number))]
    return [max(place, 0.02 + n * gap) for n, place in enumerate(found)]  # none below the panel


def _plain(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:g}"


def _power(value: float) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10.0**exponent
    times = "" if abs(factor - 1) < 1e-6 else rf"{factor:g} \times "
    return rf"${times}10^{{{exponent}}}$"
