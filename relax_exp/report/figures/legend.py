"""The legend of a figure: what its lines are, and in sentences what bands, means, rates and strips say."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerLine2D
from matplotlib.lines import Line2D

from relax_exp.report.cells import Cell
from relax_exp.report.figures.axes import abscissa, seeds, styled


def legend(
    fig: Figure, cells: list[Cell], extra: Iterable[Line2D] = (), rule: str | None = None, chosen: bool = False
) -> None:
    """Add one legend for all panels below them, with what lines and bands are.

    ``rule`` and ``chosen`` are what `best` decided by, and whether it left cells out.
    """
    handles = [*(Line2D([], [], **look.keywords, label=label) for _, look, label in styled(cells)), *extra]
    lines = [*note_on_seeds(cells, abscissa(cells)), *note_on_axis(fig), *note_on_strip(fig)]
    below(fig, handles, [*lines, *note_on_rates(cells, rule, chosen)])


def note_on_seeds(cells: list[Cell], x: str | None = None) -> list[str]:
    """Say what lines and bands are, how many seeds are behind them, and where lines end that are drawn over ``x``."""
    sizes = {len(cell.counted) for cell in cells}
    if sizes == {1}:
        return ["1 seed"]
    band = ", band: 95% t interval" if max(sizes) > 2 else ""
    count = seeds(sizes.pop()) if len(sizes) == 1 else "the seeds"
    ended = ["a line ends where the first of its seeds stopped"] * any(cut(cell, x) for cell in cells)
    return [f"mean of {count}{band}", *ended]


def cut(cell: Cell, x: str | None) -> bool:
    """Tell whether some seeds of a cell stopped before others, as those do that have solved their environment."""
    if len({r.last_step for r in cell.counted}) > 1:
        return True
    last = cell.last(x) if x else np.empty(0)
    last = last[np.isfinite(last)]
    return len(last) > 1 and last.min() < 0.98 * last.max()


def note_on_rates(cells: list[Cell], rule: str | None, chosen: bool) -> list[str]:
    """Say which learning rate the lines have where others were run too, and what it was chosen by."""
    rates = {cell.lr for cell in cells}
    which = f" ({rates.pop():g})" if len(rates) == 1 else ""
    if rule:
        return [f"learning rate{which} with the best {rule}"]
    return [f"the longest runs, learning rate{which}"] if chosen and which else []


def note_on_axis(fig: Figure) -> list[str]:
    """Say what the mean is where an axis of curves is logarithmic."""
    return ["logarithmic axis: geometric mean"] if any(ax.get_yscale() == "log" for ax in fig.axes) else []


def note_on_strip(fig: Figure) -> list[str]:
    """Say what stands at the foot of a panel, see `zone`."""
    has = any(ax.child_axes for ax in fig.axes)
    return ["strip at the foot: share of seeds whose gradient has no variance, left out above"] if has else []


def below(fig: Figure, handles: Iterable[Line2D], notes: Iterable[str] = ()) -> None:
    """Add a legend of these lines below all panels, each long enough to show its dash, under the notes."""
    handles = list(handles)
    inches = [0.95 + 0.07 * len(str(handle.get_label())) for handle in handles]
    columns = len(handles) if sum(inches) < fig.get_figwidth() else max(1, int(fig.get_figwidth() / max(inches)))
    lines = textwrap.wrap("; ".join(notes), int(15 * fig.get_figwidth()))
    further = 0.2 * (-(-len(handles) // columns) - 1) + 0.15 * max(0, len(lines) - 1)
    fig.set_figheight(fig.get_figheight() + further)
    made = fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        title="\n".join(lines) or None,
        title_fontsize=8,
        # Two markers, so that the dash is seen between them, but of points one.
        handler_map={h: HandlerLine2D(numpoints=1 if h.get_linestyle() == "None" else 2) for h in handles},
    )
    made.get_title().set_multialignment("center")
