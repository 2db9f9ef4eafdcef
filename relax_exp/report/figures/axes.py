"""What figures are drawn with: matplotlib without pyplot, so nothing global is touched and no display is needed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from relax_exp.report import kinds
from relax_exp.report.cells import Cell
from relax_exp.report.runs import NO_VARIANCE
from relax_exp.report.statistics import LOG_VARIANCE
from relax_exp.report.style import Style, style

LOOK = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
POINTS = 200  # of a curve over frames
SAME = "no variance: every draw gives the same gradient"
RISING = ("train/elbo", "valid/bound100", "valid/elbo")


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's defaults plus `LOOK`, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK)
        yield


def styled(cells: list[Cell]) -> list[tuple[Cell, Style, str]]:
    """Style and legend label of each cell; the learning rate is named where they differ, as is what is unfinished."""
    seen: dict[str, int] = {}
    rates = {cell.lr for cell in cells}
    out = []
    for cell in cells:
        variant = seen[cell.name] = seen.get(cell.name, -1) + 1
        label = cell.estimator + (f", lr {cell.lr:g}" if len(rates) > 1 else "")
        out.append((cell, style(cell.name, variant), label if cell.finished else f"{label} (unfinished)"))
    return out


def draw(ax: Axes, x: np.ndarray, values: np.ndarray, look: Style, label: str, shift: float = 0.0) -> np.ndarray:
    """Median over seeds as a line, 10 to 90% as a band; `shift` in [0, 1) sets markers apart. Returns the medians."""
    keep = np.isfinite(values).any(axis=1)
    x, values = x[keep], values[keep]
    if not len(x):
        return np.empty(0)
    low, median, high = np.nanpercentile(values, [10, 50, 90], axis=1)
    every = max(1, len(x) // 8)
    ax.plot(x, median, **look.keywords, label=label, markevery=(int(shift * every), every))
    if values.shape[1] > 1:
        ax.fill_between(x, low, high, color=look.color, alpha=0.18, lw=0)
    return median


def abscissa(cells: list[Cell]) -> str | None:
    """The metric that curves are drawn over; None: steps.

    Frames of an environment, where there are any. But episodes where all run for a number of them: what an estimator
    then spends in frames (ARSM's pseudo-rollouts count) would press the others' curves against the axis.
    """
    episodic = all(kinds.of(c.kind).by_episodes(c.runs[0].config["task"]) for c in cells)
    metrics = ("episodes", "frames") if episodic else ("frames",)
    return next((m for m in metrics if any(np.isfinite(c.last(m)).any() for c in cells)), None)


def over(cell: Cell, metric: str, x: str | None, floor: float = -np.inf) -> tuple[np.ndarray, np.ndarray]:
    """A metric, ``floor`` at least, over another one ``(X,)`` and ``(X, seeds)``; over steps where ``x`` is None.

    Where seeds differ in ``x`` at a step, their values are interpolated, as far as all seeds have some.
    """
    steps, values = cell.series(metric)
    values = np.maximum(values, floor)
    at = cell.series(x)[1] if x else np.full_like(values, np.nan)
    known = np.isfinite(at) & np.isfinite(values)
    if not known.any():
        return steps, values
    rows = known.all(1)
    if (rows == known.any(1)).all() and (at[rows] == at[rows][:, :1]).all():
        return at[rows][:, 0], values[rows]
    seeds = [(x[k], y[k]) for x, y, k in zip(at.T, values.T, known.T, strict=True) if k.any()]
    grid = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), POINTS)
    return grid, np.array([np.interp(grid, x, y) for x, y in seeds]).T


def floor_of(values: Iterable[np.ndarray]) -> float | None:
    """Where log-variances of no variance at all are drawn, below the bands of the others; None where there are none.

    values: ``(X, seeds)`` of every line. Gradients that are the same in all draws, as ARSM's once its pseudo-rollouts
    return what its rollout does, have a log-variance of minus infinity, and what is stored is a smallest float's.
    """
    values = list(values)
    real = [np.where(v > NO_VARIANCE, v, np.nan) for v in values]
    real = [v[np.isfinite(v).any(1)] for v in real]
    if not any((v <= NO_VARIANCE).any() for v in values):
        return None
    if not any(v.size for v in real):
        return NO_VARIANCE
    low = min(np.nanpercentile(v, 10, axis=1).min() for v in real if v.size)
    high = max(np.nanpercentile(v, 90, axis=1).max() for v in real if v.size)
    return low - 0.1 * (high - low) - 0.1


def panel(ax: Axes, cells: list[Cell], metric: str, ylabel: str) -> None:
    """One metric over what `abscissa` says, a line for each cell."""
    medians, ends, x = [], [], abscissa(cells)
    floor = floor_of(cell.series(metric)[1] for cell in cells) if metric == LOG_VARIANCE else None
    for i, (cell, look, label) in enumerate(styled(cells)):
        steps, values = over(cell, metric, x, -np.inf if floor is None else floor)
        ends.append(steps[-1])
        medians.append(draw(ax, steps, values, look, label, i / len(cells)))
    if floor is not None:
        mark(ax, floor, SAME)
    ax.set(xlabel=x or "step", ylabel=ylabel)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_xlim(0, 1.02 * max(ends))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    late = [m[len(m) // 10 :] for m in medians if len(m)]
    if metric in RISING and late and max(map(len, medians)) >= 20:
        # The first climb is steep and alike for all: leave most of it below the axis.
        low, high = min(m.min() for m in late), max(m.max() for m in late)
        ax.set_ylim(low - 0.03 * (high - low), high + 0.05 * (high - low))


def figure(width: float, height: float) -> Figure:
    """An empty figure that arranges itself."""
    return Figure(figsize=(width, height), layout="constrained")


def legend(fig: Figure, cells: list[Cell], extra: tuple[Line2D, ...] = (), rule: str | None = None) -> None:
    """One legend for all panels below them, with what lines and bands are."""
    handles = [*(Line2D([], [], **look.keywords, label=label) for _, look, label in styled(cells)), *extra]
    notes = ["median over seeds, band: 10 to 90%"] if any(len(cell.counted) > 1 for cell in cells) else []
    notes += [f"learning rate with the best {rule}"] if rule else []
    inches = [0.75 + 0.07 * len(handle.get_label()) for handle in handles]
    columns = len(handles) if sum(inches) < fig.get_figwidth() else max(1, int(fig.get_figwidth() / max(inches)))
    lines = textwrap.wrap("; ".join(notes), int(15 * fig.get_figwidth()))
    title = {"title": "\n".join(lines) or None, "title_fontsize": 8}
    further = 0.2 * (-(-len(handles) // columns) - 1) + 0.15 * max(0, len(lines) - 1)
    fig.set_figheight(fig.get_figheight() + further)
    made = fig.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3.2, **title)
    made.get_title().set_multialignment("center")


def mark(ax: Axes, value: float | None, label: str) -> None:
    """A line at a value below the curves, if there is one."""
    if value is not None:
        ax.axhline(value, color="0.4", lw=0.8, ls=(0, (1, 2)))
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top"}
        ax.annotate(label, (0, value), (4, -2), fontsize=7, color="0.35", **where)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, value - 0.08 * (high - value)), high)


def save(fig: Figure, stem: Path) -> list[Path]:
    """PNG and PDF, without dates."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf")]
    with look():
        fig.savefig(paths[0], dpi=150, metadata={"Software": None})
        fig.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def slug(text: str) -> str:
    """A file name of it."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_").replace("=", "-")
