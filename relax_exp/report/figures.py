"""Figures from cells: matplotlib without pyplot, so nothing global is touched and no display is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from relax_exp.report.cells import FIXED_THETA, NAMED, Cell, best
from relax_exp.report.read import NO_VARIANCE
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
FRAMES = 200  # points of a curve over frames
LOG_VARIANCE = ("grad/log_variance", "log-variance of the gradient")
PANELS = {  # a task's curves; the first metric of a panel that has values is drawn
    "vae": [
        [("train/elbo", "train ELBO (nats)")],
        [("valid/bound100", "validation 100-sample bound (nats)"), ("valid/elbo", "validation ELBO (nats)")],
        [LOG_VARIANCE],
    ],
    FIXED_THETA: [[LOG_VARIANCE]],
    "lax_toy": [[("loss", "exact loss")], [("std", "standard deviation of b")], [LOG_VARIANCE]],
    "categorical_toy": [[("loss", "exact loss")], [("p_best", "probability of the best category")], [LOG_VARIANCE]],
}
PANELS["categorical_vae"] = PANELS["vae"]
PANELS["sequence"] = [
    [("train/bpc", "training bits per character")],
    [("valid/bpc100", "held-out bits per character")],
    [LOG_VARIANCE],
]
PANELS["cartpole"] = [
    [("return100", "mean return of the last 100 episodes")],
    [("entropy", "entropy of the policy (nats)")],
    [LOG_VARIANCE],
]
PANELS["continuous"] = PANELS["cartpole"]
PANELS["atari"] = [
    [("eval/return", "score"), ("return100", "score of the last 100 episodes")],
    [("explained_variance", "variance explained by the value")],
    [LOG_VARIANCE],
]
OTHER = [[("loss", "loss")], [LOG_VARIANCE]]
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


def keywords(look: Style) -> dict[str, Any]:
    """The style as matplotlib takes it."""
    return {"color": look.color, "ls": look.line, "marker": look.marker}


def draw(ax: Axes, x: np.ndarray, values: np.ndarray, look: Style, label: str, shift: float = 0.0) -> np.ndarray:
    """Median over seeds as a line, 10 to 90% as a band; `shift` in [0, 1) sets markers apart. Returns the medians."""
    keep = np.isfinite(values).any(axis=1)
    x, values = x[keep], values[keep]
    if not len(x):
        return np.empty(0)
    low, median, high = np.nanpercentile(values, [10, 50, 90], axis=1)
    every = max(1, len(x) // 8)
    ax.plot(x, median, **keywords(look), label=label, markevery=(int(shift * every), every))
    if values.shape[1] > 1:
        ax.fill_between(x, low, high, color=look.color, alpha=0.18, lw=0)
    return median


def over_frames(cell: Cell, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric over the environment's frames, ``(X,)`` and ``(X, seeds)``; over steps for tasks without frames.

    Seeds use different numbers of frames in a step, so their values are interpolated, where all seeds have some.
    """
    (steps, values), (_, frames) = cell.series(metric), cell.series("frames")
    if not np.isfinite(frames).any():
        return steps, values
    known = np.isfinite(frames) & np.isfinite(values)
    if not known.any():
        return steps, values
    seeds = [(x[k], y[k]) for x, y, k in zip(frames.T, values.T, known.T, strict=True) if k.any()]
    grid = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), FRAMES)
    return grid, np.array([np.interp(grid, x, y) for x, y in seeds]).T


def panel(ax: Axes, cells: list[Cell], metric: str, ylabel: str) -> None:
    """One metric over steps (or frames, where there are), a line for each cell."""
    medians, ends = [], []
    for i, (cell, look, label) in enumerate(styled(cells)):
        steps, values = over_frames(cell, metric)
        ends.append(steps[-1])
        if metric == LOG_VARIANCE[0]:
            values = np.where(values > NO_VARIANCE, values, np.nan)
        medians.append(draw(ax, steps, values, look, label, i / len(cells)))
    framed = any(np.isfinite(cell.last("frames")).any() for cell in cells)
    ax.set(xlabel="frames" if framed else "step", ylabel=ylabel)
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
    handles = [*(Line2D([], [], **keywords(look), label=label) for _, look, label in styled(cells)), *extra]
    notes = ["median over seeds, band: 10 to 90%"] if any(len(cell.counted) > 1 for cell in cells) else []
    notes += [f"learning rate with the best {rule}"] if rule else []
    inches = [0.75 + 0.07 * len(handle.get_label()) for handle in handles]
    columns = len(handles) if sum(inches) < fig.get_figwidth() else max(1, int(fig.get_figwidth() / max(inches)))
    title = {"title": "; ".join(notes) or None, "title_fontsize": 8}
    fig.set_figheight(fig.get_figheight() + 0.2 * (-(-len(handles) // columns) - 1))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3.2, **title)


def curves(cells: list[Cell]) -> Figure:
    """Training curves of one task over steps: for the VAE ELBO, validation bound, log-variance."""
    with look():
        cells, rule = best(cells)
        panels = []
        for options in PANELS.get(cells[0].kind, OTHER):
            having = [o for o in options if any(np.isfinite(c.series(o[0])[1]).any() for c in cells)]
            panels += having[:1]
        panels = panels or [PANELS.get(cells[0].kind, OTHER)[0][0]]
        fig = figure(max(5.0, 3.8 * len(panels)), 3.7)
        for ax, (metric, ylabel) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(ax, cells, metric, ylabel)
            if metric == "loss":
                mark(ax, best_loss(cells), "minimum")
            if metric == "valid/bpc100":
                mark(ax, float(np.median(cells[0].last("valid/bpc_counts"))), "order-2 counts")
        fig.suptitle(cells[0].task + (", only the estimator is tuned" if cells[0].kind == FIXED_THETA else ""))
        legend(fig, cells, rule=rule)
        return fig


def figure1(cells: list[Cell]) -> Figure:
    """The draft's Figure 1 for one toy problem: exact loss, log-variance, learned relaxations beside f."""
    with look():
        cells, rule = best(cells)
        fig = figure(11.5, 3.9)
        grid = fig.add_gridspec(2, 3)
        left, centre = fig.add_subplot(grid[:, 0]), fig.add_subplot(grid[:, 1])
        panel(left, cells, "loss", "exact expected loss")
        mark(left, best_loss(cells), "minimum")
        panel(centre, cells, *LOG_VARIANCE)
        extra = relaxations(fig, grid, cells)
        fig.suptitle(cells[0].task)
        legend(fig, cells, extra, rule)
        return fig


def mark(ax: Axes, value: float | None, label: str) -> None:
    """A line at a value below the curves, if there is one."""
    if value is not None:
        ax.axhline(value, color="0.4", lw=0.8, ls=(0, (1, 2)))
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top"}
        ax.annotate(label, (0, value), (4, -2), fontsize=7, color="0.35", **where)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, value - 0.08 * (high - value)), high)


def best_loss(cells: list[Cell]) -> float | None:
    """The minimum of the exact loss: what is left of it without the excess."""
    gaps = np.concatenate([c.last("loss") - c.last("excess") for c in cells])
    gaps = gaps[np.isfinite(gaps)]
    return float(np.median(gaps)) if len(gaps) else None


def relaxations(fig: Figure, grid, cells: list[Cell]) -> list[Line2D]:
    """The right panel: c(z(u)) of every cell that has one, seed by seed and their median, and f(b(u)).

    Where f's step is too small to be seen on the scale of c, an upper half shows its surroundings enlarged. Axes hold
    the middle nine tenths, so that an outlying seed does not flatten the rest.
    """
    source = next((r.run.curves for cell in cells for r in cell.counted if r.run.curves.get("f")), None)
    drawn = [(*entry, c) for entry in styled(cells) if (c := relaxation(entry[0])) is not None]
    if source is None:
        ax = fig.add_subplot(grid[:, 2])
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no relaxation: curves.json is\nwritten at the end of a run", ha="center", color="0.35")
        return []
    low, high = sorted(source["f"])
    span = [np.percentile(c, [5, 95]) for *_, (_, c) in drawn]
    bottom, top = min([low, *(s[0] for s in span)]), max([high, *(s[1] for s in span)])
    near = min((np.abs(np.median(c, axis=1) - (low + high) / 2).max() for *_, (_, c) in drawn), default=0.0)
    zoom = np.clip(1.1 * near, 3 * (high - low), 12 * (high - low)) + 1e-9
    if top - bottom > 4 * zoom:
        axes = [fig.add_subplot(grid[0, 2]), fig.add_subplot(grid[1, 2])]
        axes[0].set_ylim((low + high) / 2 - zoom, (low + high) / 2 + zoom)
        axes[0].tick_params(labelbottom=False)
        axes[0].set_title("enlarged around f; below: the whole range", fontsize=8)
    else:
        axes = [fig.add_subplot(grid[:, 2])]
    axes[-1].set_ylim(bottom - 0.08 * (top - bottom), top + 0.08 * (top - bottom))
    step = {"color": "black", "lw": 2.2, "alpha": 0.75}
    for ax in axes:
        for _, look, label, (curves, c) in drawn:
            ax.plot(curves["u"], c, color=look.color, lw=0.5, alpha=0.35)
            ax.plot(curves["u"], np.median(c, axis=1), **keywords(look), markevery=25, label=label)
        edge = 1 - source["theta"]
        ax.plot([0, edge, edge, 1], np.repeat(source["f"], 2), label="f(b)", zorder=1.9, **step)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.set_xlim(0, 1)
        ax.set_ylabel("c(z(u))")
    axes[-1].set_xlabel(f"u, at θ = {source['theta']:g} (thin lines: single seeds)")
    return [Line2D([], [], label="f(b)", **step)]


def relaxation(cell: Cell) -> tuple[dict[str, Any], np.ndarray] | None:
    """Learned relaxation of a cell: the contents of `curves.json`, and c ``(u, seeds)`` of the counted replicas."""
    found, values = None, []
    for r in cell.counted:
        c = (r.run.curves.get("relaxation") or {}).get(f"seed-{r.seed}_lr-{r.lr:g}")
        if c is not None:
            found = r.run.curves
            values.append(c)
    return (found, np.array(values, dtype=float).T) if values else None


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


def figures(cells: list[Cell]) -> dict[str, Figure]:
    """Every figure that the cells allow, by file name; tasks without an evaluation have none."""
    tasks: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.steps:
            tasks.setdefault((cell.kind, cell.task), []).append(cell)
    kinds = [kind for kind, _ in tasks]
    out = {}
    for (kind, task), those in tasks.items():
        if kind in NAMED and kind != "toy":
            name = f"{kind}_{slug(task)}"
        else:
            name = {"toy": "figure1"}.get(kind, kind)
            name += f"_{slug(task.removeprefix('toy '))}" if kinds.count(kind) > 1 else ""
        out[name] = figure1(those) if kind == "toy" else curves(those)
    return out
