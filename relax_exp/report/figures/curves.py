"""Figures from cells: training curves of every task, and the draft's Figure 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relax_exp.config import identity
from relax_exp.report import kinds
from relax_exp.report.cells import Cell
from relax_exp.report.figures import differences
from relax_exp.report.figures.axes import figure, letters, look, panel, slug, styled
from relax_exp.report.figures.legend import legend
from relax_exp.report.figures.references import draw_references, has_log
from relax_exp.report.groups import best
from relax_exp.report.kinds.base import VARIANCE_PANEL
from relax_exp.report.style import words

TITLES = {
    "arsm problem": "ARSM's categorical toy problem",
    "cos problem": "cosine of a categorical variable",
    "8 items": "ranking of 8 items",
    "text, order 1": "text with latents over time, of order 1",
}


def curves(cells: list[Cell]) -> Figure:
    """Draw the training curves of one task over steps: for the VAE ELBO, validation bound, log-variance."""
    with look():
        (cells, rule), tried = best(cells), len(cells)
        kind, panels = kinds.of(cells[0].kind), []
        for options in kind.panels:
            times = {o: max(np.isfinite(c.series(o[0])[1]).any(1).sum() for c in cells) for o in options}
            having = [o for o in options if times[o] > 1] or [o for o in options if times[o]]
            if has_log(cells):  # whose bounds are of one sample
                having = [o for o in having if o[0] != "valid/bound100"] or having
            panels += having[:1]
        panels = panels or [kind.panels[0][0]]
        paired = differences.pairs(cells) if kind.paired else None
        count = len(panels) + (paired is not None)
        columns = 2 if count == 4 else count
        fig = figure(max(5.0, 3.5 * columns), 3.1 * (count // columns) + 0.6)
        axes = fig.subplots(count // columns, columns, squeeze=False).flatten()
        extra: dict[str, Line2D] = {}
        for ax, (metric, ylabel) in zip(axes, panels, strict=False):
            panel(ax, cells, metric, ylabel)
            extra |= {str(handle.get_label()): handle for handle in draw_references(ax, metric, cells)}
        if paired is not None:
            differences.panel(axes[-1], cells, paired, axes[0].get_xlim())
        letters(axes)
        fig.suptitle(title(cells[0]) + kind.remark)
        legend(fig, cells, extra.values(), rule, len(cells) < tried)
        return fig


def title(cell: Cell) -> str:
    """Write the task in words, with the width of the decoder where papers and code have different ones."""
    task = cell.runs[0].config["task"]
    said = TITLES.get(cell.task) or words(cell.task)
    hidden = task.get("decoder_hidden")
    return f"{said} (decoder of {hidden} units)" if hidden and "decoder" not in said else said


def figure1(cells: list[Cell]) -> Figure:
    """Draw the draft's Figure 1 for one toy problem: exact loss, log-variance, learned relaxations beside f."""
    with look():
        cells, rule = best(cells)
        fig = figure(11.5, 3.9)
        grid = fig.add_gridspec(2, 3)
        left, centre = fig.add_subplot(grid[:, 0]), fig.add_subplot(grid[:, 1])
        panel(left, cells, "loss", "exact expected loss")
        draw_references(left, "loss", cells)
        panel(centre, cells, *VARIANCE_PANEL[0])
        extra = relaxations(fig, grid, cells)
        letters([left, centre, next(ax for ax in fig.axes if ax not in (left, centre))])
        fig.suptitle(words(cells[0].task))
        legend(fig, cells, extra, rule)
        return fig


def relaxations(fig: Figure, grid, cells: list[Cell]) -> list[Line2D]:
    """Draw the right panel, c(z(u)) of every cell that has one, seed by seed and their median, and f(b(u)).

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
        axes[0].set_title("enlarged around f; below: all but outliers", fontsize=8, loc="right")
    else:
        axes = [fig.add_subplot(grid[:, 2])]
    axes[-1].set_ylim(bottom - 0.08 * (top - bottom), top + 0.08 * (top - bottom))
    step = {"color": "black", "lw": 1.6}
    for ax in axes:
        for _, its, label, (curves, c) in drawn:
            ax.plot(curves["u"], c, color=its.color, lw=0.5, alpha=0.3, label="_seeds")
            ax.plot(curves["u"], np.median(c, axis=1), **its.keywords, markevery=25, label=label)
        edge = 1 - source["theta"]
        ax.plot([0, edge, edge, 1], np.repeat(source["f"], 2), label="f(b)", zorder=3, **step)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.set_xlim(0, 1)
        ax.set_ylabel("c(z(u))")
    axes[-1].set_xlabel(f"u, at θ = {source['theta']:g} (thin: single seeds; thick: median)")
    return [Line2D([], [], label="f(b)", **step)]


def relaxation(cell: Cell) -> tuple[dict[str, Any], np.ndarray] | None:
    """Return the contents of `curves.json` of a cell, and c ``(u, seeds)`` of the counted replicas."""
    found: dict[str, Any] = {}
    values = []
    for r in cell.counted:
        c = (r.run.curves.get("relaxation") or {}).get(identity.label(r.seed, r.lr))
        if c is not None:
            found = r.run.curves
            values.append(c)
    return (found, np.array(values, dtype=float).T) if values else None


def figures(cells: list[Cell]) -> dict[str, Figure]:
    """Draw every figure that the cells allow, by file name; tasks without an evaluation have none."""
    tasks: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.steps:
            tasks.setdefault((cell.kind, cell.task), []).append(cell)
    several = [kind for kind, _ in tasks]
    out = {}
    for (name, task), those in tasks.items():
        kind = kinds.of(name)
        file = "figure1" if kind.relaxations else name
        if kind.by_name or several.count(name) > 1:
            shared = "" if kind.by_name else kind.label.partition(" ")[0] + " "
            file += "_" + slug(task.removeprefix(shared).removesuffix(" problem"))
        out[file] = figure1(those) if kind.relaxations else curves(those)
    return out
