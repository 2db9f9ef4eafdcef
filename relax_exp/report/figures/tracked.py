"""Figures of ``track=[...]``: variances of several estimators along the trajectory of one, at the same parameters."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relax_exp.report.cells import Cell
from relax_exp.report.figures.axes import (
    draw,
    letters,
    look,
    often_without,
    slug,
    with_variance,
    without_variance,
    zone,
)
from relax_exp.report.figures.axes import figure as empty
from relax_exp.report.figures.legend import below, note_on_seeds, note_on_strip
from relax_exp.report.style import apart, order, style, titled, words

PANELS = {
    "log_variance": "log-variance of the gradient",
    "log_variance_x_evaluations": "log-variance + log evaluations of f",
}


def names(cell: Cell) -> list[str]:
    """Return the estimators that were measured along the cell's runs; empty where none was tracked."""
    keys = {key for replica in cell.counted for row in replica.rows.values() for key in row}
    found = {match[1] for key in keys if (match := re.fullmatch(r"track/(.+)/log_variance", key))}
    return sorted(found, key=order)


def figures_of(cells: list[Cell]) -> dict[str, Figure]:
    """Draw a figure for each cell that tracked others, by file name."""
    return {f"track_{slug(cell.task)}_{slug(cell.estimator)}": figure(cell) for cell in cells if names(cell)}


def figure(cell: Cell) -> Figure:
    """Draw the log-variance over steps of every tracked estimator: of one draw, and at equal evaluations of f."""
    with look():
        fig = empty(9.2, 3.9)
        tracked = names(cell)
        styles = apart([style(name) for name in tracked])
        axes = fig.subplots(1, 2)
        for ax, (kind, ylabel) in zip(axes, PANELS.items(), strict=True):
            shares = []
            for i, (name, look_of) in enumerate(zip(tracked, styles, strict=True)):
                steps, values = cell.series(f"track/{name}/{kind}")
                draw(ax, steps, with_variance(values), look_of, titled(name), i / len(tracked))
                if often_without(values):
                    shares.append((steps, np.nanmean(without_variance(values), 1), look_of))
            ax.set(xlabel="step", ylabel=ylabel)
            if shares:
                zone(ax, shares)
        letters(axes)
        fig.suptitle(f"{words(cell.task)}: {titled(cell.estimator)} trains, all are measured at its parameters")
        handles = [Line2D([], [], **it.keywords, label=titled(name)) for name, it in zip(tracked, styles, strict=True)]
        below(fig, handles, [*note_on_seeds([cell]), *note_on_strip(fig)])
        return fig
