"""What figures are drawn with: matplotlib without pyplot, so nothing global is touched and no display is needed.

A curve is the mean over seeds, its band the 95% t interval of that mean, as in the tables, where there are three seeds
or more; on a logarithmic axis both are those of the logarithms.
"""

from __future__ import annotations

import re
import string
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from relax_exp.report import kinds
from relax_exp.report.cells import Cell
from relax_exp.report.runs import NO_VARIANCE
from relax_exp.report.statistics import LOG_VARIANCE
from relax_exp.report.style import Style, apart, style, titled

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

LOOK: dict[RcKeyType, Any] = {
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
    "legend.handlelength": 4.6,
    "svg.hashsalt": "relax-exp",
}
POINTS = 200  # of a curve over frames
WIDE = 38  # letters in a line of an axis label
ZONE = 0.17  # of a panel's height: the share of seeds whose gradients have no variance
RARE = 0.02  # a share of gradients without variance that needs no words
LOGARITHMIC = ("excess",)  # metrics that are drawn on a logarithmic axis, where a figure has them
RISING = ("train/elbo", "valid/bound100", "valid/elbo", "valid/elbo_full", "test/elbo_full")


@contextmanager
def look() -> Iterator[None]:
    """Set matplotlib's defaults plus `LOOK`, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK)
        yield


def styled(cells: list[Cell]) -> list[tuple[Cell, Style, str]]:
    """Return style and legend label of each cell, with the learning rate where they differ, and what is unfinished."""
    seen: dict[str, int] = {}
    rates, sizes = {cell.lr for cell in cells}, {len(cell.counted) for cell in cells}
    styles, labels = [], []
    for cell in cells:
        variant = seen[cell.name] = seen.get(cell.name, -1) + 1
        label = titled(cell.estimator) + (f", rate {cell.lr:g}" if len(rates) > 1 else "")
        label += f", {seeds(len(cell.counted))}" if len(sizes) > 1 else ""
        styles.append(style(cell.name, variant))
        labels.append(label if cell.finished else f"{label}, so far {cell.steps:,}")
    return list(zip(cells, apart(styles), labels, strict=True))


def seeds(n: int) -> str:
    """Write a number of seeds in words, as "1 seed" or "3 seeds"."""
    return f"{n} seed{'s' * (n != 1)}"


def draw(
    ax: Axes, x: np.ndarray, values: np.ndarray, look: Style, label: str, shift: float = 0.0, how: str = "mean"
) -> np.ndarray:
    """One curve of ``values`` ``(X, seeds)`` with its band; ``shift`` in [0, 1) sets markers apart. Returns centres.

    ``how``: "mean" with its 95% t interval, "log" for both of the logarithms, "median" with all seeds as the band.
    """
    keep = np.isfinite(values).any(axis=1)
    x, values = x[keep], values[keep]
    if not len(x):
        return np.empty(0)
    low, centre, high = spread(values, how)
    every = max(1, len(x) // 8)
    ax.plot(x, centre, **look.keywords, label=label, markevery=(int(shift * every), every))
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=look.color, alpha=0.14, lw=0)
        for edge in (low, high):  # so that bands that lie on each other can still be told apart
            ax.plot(x, edge, color=look.color, lw=0.6, alpha=0.55, label="_band")
    return centre


def spread(values: np.ndarray, how: str = "mean") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower edge, centre and upper edge over the seeds, see `draw`; edges of an interval are NaN for fewer than three.

    The t interval of two values is thirteen times as wide as the two lie apart.
    """
    from scipy.stats import t

    if how == "median":
        return np.nanmin(values, 1), np.nanmedian(values, 1), np.nanmax(values, 1)
    values = np.log(np.maximum(values, 1e-300)) if how == "log" else values
    n, centre = np.isfinite(values).sum(1), np.nanmean(values, 1)
    squares = np.nansum((values - centre[:, None]) ** 2, 1)
    half = np.where(n > 2, t.ppf(0.975, np.maximum(n - 1, 1)) * np.sqrt(squares / np.maximum(n - 1, 1) / n), np.nan)
    edges = centre - half, centre, centre + half
    return tuple(np.exp(edge) for edge in edges) if how == "log" else edges


def abscissa(cells: list[Cell]) -> str | None:
    """Return the metric that curves are drawn over; None: steps.

    These are frames of an environment, where there are any. But episodes where all run for a number of them: what an
    estimator then spends in frames (ARSM's pseudo-rollouts count) would press the others' curves against the axis.
    """
    episodic = all(kinds.of(c.kind).by_episodes(c.runs[0].config["task"]) for c in cells)
    metrics = ("episodes", "frames") if episodic else ("frames",)
    return next((m for m in metrics if any(np.isfinite(c.last(m)).any() for c in cells)), None)


def over(
    cell: Cell, metric: str, x: str | None, of: Callable[[np.ndarray], np.ndarray] = lambda values: values
) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric over another one, ``(X,)`` and ``(X, seeds)``, or over steps where ``x`` is None.

    Where seeds differ in ``x`` at a step, their values are interpolated, as far as all seeds
    have some.
    """
    steps, values = cell.series(metric)
    values = of(values)
    at = cell.series(x)[1] if x else np.full_like(values, np.nan)
    known = np.isfinite(at) & np.isfinite(values)
    if not known.any():
        return steps, values
    rows = known.any(1)
    if (np.nanmax(at[rows], 1) == np.nanmin(at[rows], 1)).all():
        return np.nanmax(at[rows], 1), values[rows]
    seeds = [(x[k], y[k]) for x, y, k in zip(at.T, values.T, known.T, strict=True) if k.any()]
    grid = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), POINTS)
    return grid, np.array([np.interp(grid, x, y) for x, y in seeds]).T


def with_variance(values: np.ndarray) -> np.ndarray:
    """Return log-variances with NaN where there is no variance.

    Gradients that are the same in all draws, as ARSM's once its pseudo-rollouts return what its rollout does, have one
    of minus infinity, and what is stored is a smallest float's.
    """
    return np.where(values > NO_VARIANCE, values, np.nan)


def without_variance(values: np.ndarray) -> np.ndarray:
    """Return 1 where there is no variance, else 0, and NaN where nothing was measured."""
    return np.where(np.isfinite(values), (values <= NO_VARIANCE).astype(float), np.nan)


def often_without(values: np.ndarray) -> bool:
    """Tell whether so many measurements found no variance that a figure has to say it."""
    none = without_variance(values)
    return bool(np.isfinite(none).any()) and float(np.nanmean(none)) > RARE


def panel(ax: Axes, cells: list[Cell], metric: str, ylabel: str) -> None:
    """Draw one metric over what `abscissa` says, a line for each cell."""
    x, variances = abscissa(cells), metric == LOG_VARIANCE
    how = "log" if metric in LOGARITHMIC else "mean"
    centres, ends, extremes, shares = [], [], [], []
    for i, (cell, look, label) in enumerate(styled(cells)):
        steps, values = over(cell, metric, x, with_variance) if variances else over(cell, metric, x)
        ends.append(steps[-1])
        extremes.append(values)
        centres.append(draw(ax, steps, values, look, label, i / len(cells), how))
        if variances and often_without(cell.series(metric)[1]):
            at, none = over(cell, metric, x, without_variance)
            shares.append((at, np.nanmean(none, 1), look))
    ax.set(xlabel=(x or "step").replace("frames", "frames of the environment"), ylabel=textwrap.fill(ylabel, WIDE))
    ax.set_xlim(0, 1.02 * max(ends))
    count_axis(ax.xaxis, max(ends))
    if how == "log":
        ax.set_yscale("log")
    else:
        ax.ticklabel_format(axis="y", useOffset=False)
    late = [m[-(-len(m) // 10) :] for m in centres if len(m) > 3]
    if metric in RISING and late:
        # The first climb is steep and alike for all: leave most of it below the axis.
        low, high = min(m.min() for m in late), max(m.max() for m in late)
        room = high - low or 1.0
        ax.set_ylim(low - 0.03 * room, high + 0.08 * room)
    elif how == "mean" and (real := [v[np.isfinite(v)] for v in extremes if np.isfinite(v).any()]):
        low, high = min(v.min() for v in real), max(v.max() for v in real)
        room = 0.25 * (high - low) or 0.5  # for bands, which may be much wider than the seeds lie apart
        ax.set_ylim(max(ax.get_ylim()[0], low - room), min(ax.get_ylim()[1], high + room))
    if shares:
        zone(ax, shares)


def count_axis(axis: Axis, most: float) -> None:
    """Mark a few round numbers of a count: 20,000, or 1.5M where it goes beyond a million."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x and most >= 1e6 else f"{x:,.0f}")


def zone(ax: Axes, shares: list[tuple[np.ndarray, np.ndarray, Style]]) -> None:
    """Draw the foot of a panel of log-variances, for gradients without variance.

    It shows the share of seeds whose gradient has no variance at all, and so no logarithm, as `note_on_strip` says. The
    curves above are means of the other seeds.
    """
    low, high = ax.get_ylim()
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
    ax.set_ylim(low - (ZONE + 0.03) / (1 - ZONE - 0.03) * (high - low), high)
    ax.set_yticks(ticks)
    foot = ax.inset_axes((0, 0, 1, ZONE), facecolor="0.955")
    for x, share, look in shares:
        foot.plot(x, share, color=look.color, ls=look.line, lw=1.2)
    foot.set(xlim=ax.get_xlim(), ylim=(-0.06, 1.06), yticks=[0, 1], xticks=[])
    foot.tick_params(labelsize=6, length=2, pad=1.5)
    foot.grid(False)
    foot.spines[["top", "right"]].set_visible(True)
    foot.spines[:].set(color="0.6", linewidth=0.6)


def letters(axes: Iterable[Axes]) -> None:
    """Write (a), (b), ... above the left edge of panels, for a text to refer to; nothing where there is one."""
    axes = list(axes)
    for letter, ax in zip(string.ascii_lowercase, axes if len(axes) > 1 else [], strict=False):
        ax.set_title(f"({letter})", loc="left", fontweight="bold", fontsize=9)


def figure(width: float, height: float) -> Figure:
    """Make an empty figure that arranges itself."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, wspace=0.03))


def mark(ax: Axes, value: float | None, label: str, above: bool = False) -> None:
    """Draw a line at a value below the curves, if there is one."""
    if value is None or not np.isfinite(value):
        return
    low, high = ax.get_ylim()
    note = {"fontsize": 7, "color": "0.35", "textcoords": "offset points"}
    if value > high + (high - low) or value < low - (high - low):
        up = value > high
        ax.annotate(f"{label}: {value:.4g} {'↑' if up else '↓'}", (0, float(up)), (4, -3 if up else 3),
                    xycoords="axes fraction", va="top" if up else "bottom", **note)  # fmt: skip
        return
    ax.axhline(value, color="0.4", lw=0.8, ls=(0, (1, 2)), label="_reference")
    if ax.get_yscale() != "log":
        ax.set_ylim(min(low, value - 0.09 * (high - low)), max(high, value + (0.09 if above else 0.04) * (high - low)))
    side = {"xytext": (4, 2), "va": "bottom"} if above else {"xytext": (4, -2), "va": "top"}
    ax.annotate(label, (0, value), xycoords=("axes fraction", "data"), **side, **note)


def save(fig: Figure, stem: Path) -> list[Path]:
    """Write PNG and SVG, without dates."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with look():
        fig.savefig(paths[0], dpi=150, metadata={"Software": None})
        fig.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def slug(text: str) -> str:
    """Turn a text into a file name."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_").replace("=", "-")
