"""The grid of learning rates behind Table 1: training and validation bounds at each rate that was tried."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.papers.bounds import WHOLE
from relax_exp.report.papers.published import column_order, settings, short
from relax_exp.report.papers.table1 import TRAINING_BOUND, models
from relax_exp.report.statistics import interval

BOUNDS = {TRAINING_BOUND: "training", WHOLE: "validation"}


def learning_rates(cells: list[Cell]) -> Table | None:
    """Make two lines for each estimator and number of steps for which several rates were run; None where none was.

    They are of the training bound and, where it was measured, of the bound on all validation images. A rate whose run
    has not come to its end is shown with ‡.
    """
    cells = [cell for cell in cells if cell.kind == "vae" and cell.steps]
    labels = settings(cells)
    groups: dict[tuple[str, str, int], dict[float, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, labels[id(cell)], cell.planned), {})[cell.lr] = cell
    groups = {key: of for key, of in groups.items() if len(of) > 1}
    if not groups:
        return None
    rates = sorted({lr for of in groups.values() for lr in of}, reverse=True)
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for task in [task for *_, tasks in models(cells) for task in tasks]:
        mine = sorted((key for key in groups if key[0] == task), key=lambda key: (column_order(key[1]), key[2]))
        rows += [None] * bool(rows and mine)
        for key in mine:
            of = groups[key]
            come = {cell.steps for cell in of.values()}
            planned = short(key[2]) if come == {key[2]} else f"{_range(come)} of {short(key[2])}"
            for metric, name in BOUNDS.items():
                means = {lr: interval(cell.last(metric))[0] for lr, cell in of.items()}
                means = {lr: mean for lr, mean in means.items() if np.isfinite(mean)}
                if not means:
                    continue
                best = max(means, key=lambda lr: means[lr])
                marks = {lr: "" if of[lr].finished else " ‡" for lr in means}
                shown = [f"{means[lr]:.2f}{marks[lr]}" if lr in means else EMPTY for lr in rates]
                rows.append([task, key[1], planned, name, *shown, f"{best:g}"])
                records += [{"task": task, "estimator": key[1], "planned": key[2], "metric": metric, "lr": lr,
                             "steps": of[lr].steps, "bound": mean, "status": of[lr].status}
                            for lr, mean in means.items()]  # fmt: skip
    headers = ["task", "estimator", "steps", "bound", *(f"{lr:g}" for lr in rates), "best"]
    return Table("learning_rates", "Bounds by learning rate", headers, rows, NOTE, records)


def _range(steps: set[int]) -> str:
    """Write the numbers of steps that a line's cells have come to, which is one or lies between two."""
    return " to ".join(short(step) for step in sorted({min(steps), max(steps)}))


NOTE = (
    "One-sample bounds in nats per image at the last step, higher is better, mean over seeds, in training and on all "
    "validation images; a column for each learning rate. The published grid is .005, .001, .0005, .0001, .00005 for "
    "REBAR; RELAX was run at REBAR's best rate and at the next larger one. Short runs favour large rates. ‡: "
    "unfinished."
)
