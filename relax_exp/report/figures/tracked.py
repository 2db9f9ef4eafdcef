"""Figures of ``track=[...]``: variances of several estimators along the trajectory of one, at the same parameters."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from relax_exp.report.cells import Cell
from relax_exp.report.figures.axes import SAME, draw, floor_of, look, mark, slug
from relax_exp.report.figures.axes import figure as empty
from relax_exp.report.style import order, style

PANELS = {
    "log_variance": "log-variance of the gradient",
    "log_variance_x_evaluations": "log-variance + log evaluations of f",
}


def names(cell: Cell) -> list[str]:
    """The estimators that were measured along the cell's runs; empty where none was tracked."""
    keys = {key for replica in cell.counted for row in replica.rows.values() for key in row}
    found = {match[1] for key in keys if (match := re.fullmatch(r"track/(.+)/log_variance", key))}
    return sorted(found, key=order)


def figures_of(cells: list[Cell]) -> dict[str, Figure]:
    """A figure for each cell that tracked others, by file name."""
    return {f"track_{slug(cell.task)}_{slug(cell.estimator)}": figure(cell) for cell in cells if names(cell)}


def figure(cell: Cell) -> Figure:
    """Log-variance over steps of every tracked estimator: of one draw, and at equal evaluations of f."""
    with look():
        fig = empty(9.2, 3.9)
        tracked = names(cell)
        for ax, (kind, ylabel) in zip(fig.subplots(1, 2), PANELS.items(), strict=True):
            series = [cell.series(f"track/{name}/{kind}") for name in tracked]
            floor = floor_of(values for _, values in series)
            for i, (name, (steps, values)) in enumerate(zip(tracked, series, strict=True)):
                values = values if floor is None else np.maximum(values, floor)
                draw(ax, steps, values, style(name), name, i / len(tracked))
            if floor is not None:
                mark(ax, floor, SAME)
            ax.set(xlabel="step", ylabel=ylabel)
        fig.suptitle(f"{cell.task}: {cell.estimator} trains, all are measured at its parameters")
        handles, labels = ax.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), handlelength=3.2)
        return fig
