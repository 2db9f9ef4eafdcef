"""Differences between estimators, paired by seed: what remains of two curves when the seeds' own luck is taken off."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from relax_exp.report.cells import Cell, differences
from relax_exp.report.figures.axes import count_axis, draw, styled

REFERENCE, COMPARED = "rebar", ("rebar", "relax")  # to whom, and who: the paper's question
METRIC, YLABEL = "train/elbo", "train ELBO minus REBAR's,\nseed by seed (nats)"


def pairs(cells: list[Cell]) -> tuple[Cell, list[Cell]] | None:
    """REBAR as the paper has it, and the cells to set beside it; None where there is nothing to compare."""
    default = [c for c in cells if c.name == REFERENCE and granularity(c) != "parameter"]
    others = [c for c in cells if c.name in COMPARED and c not in default[:1]]
    others = [c for c in others if default and len(difference(c, default[0])[0])]
    return (default[0], others) if others else None


def granularity(cell: Cell) -> str | None:
    """Return the granularity of REBAR's eta."""
    return cell.runs[0].config["estimator"].get("granularity")


def difference(cell: Cell, other: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps ``(S,)`` that both evaluated, and differences ``(S, seeds)`` of the seeds that both have."""
    steps, values, _ = differences(cell, other, METRIC)
    keep = np.isfinite(values).any(1)
    return steps[keep], values[keep]


def panel(ax: Axes, cells: list[Cell], paired: tuple[Cell, list[Cell]], xlim: tuple[float, float]) -> None:
    """Draw the differences of `pairs` over steps with their 95% t interval, and zero."""
    reference, others = paired
    lines = [(*difference(cell, reference), look, label) for cell, look, label in styled(cells) if cell in others]
    over_zero(ax, lines, YLABEL, xlim)


def over_zero(ax: Axes, lines: list[tuple], ylabel: str, xlim: tuple[float, float], apart: float = 0.0) -> None:
    """Draw differences over steps and a line at zero.

    Args:
        ax: Where.
        lines: Of each line its steps, differences ``(S, seeds)``, style and label.
        ylabel: What is subtracted from what.
        xlim: Ends of the axis of steps.
        apart: By how much of their distance the markers of one line stand behind those of the one before.
    """
    ax.axhline(0, color="0.4", lw=0.8, ls=(0, (1, 2)), label="_reference")
    for i, (steps, values, look, label) in enumerate(lines):
        draw(ax, steps, values, look, label, i * apart)
    ax.set(xlabel="step", ylabel=ylabel, xlim=xlim)
    count_axis(ax.xaxis, xlim[1])
