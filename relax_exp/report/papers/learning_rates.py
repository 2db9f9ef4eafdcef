"""The grid of learning rates behind Table 1: the training bound at each rate that was tried."""

from __future__ import annotations

from typing import Any

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.papers.published import column_order, settings, short
from relax_exp.report.papers.table1 import TRAINING_BOUND, models
from relax_exp.report.statistics import interval


def learning_rates(cells: list[Cell]) -> Table | None:
    """Make a line for each estimator and number of steps for which several rates were run; None where none was.

    A rate whose run has not come to its end is shown with ‡.
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
            means = {lr: interval(cell.last(TRAINING_BOUND))[0] for lr, cell in groups[key].items()}
            marks = {lr: "" if cell.finished else " ‡" for lr, cell in groups[key].items()}
            best = max(means, key=lambda lr: means[lr])
            shown = [f"{means[lr]:.2f}{marks[lr]}" if lr in means else EMPTY for lr in rates]
            rows.append([task, key[1], short(key[2]), *shown, f"{best:g}"])
            records += [{"task": task, "estimator": key[1], "planned": key[2], "lr": lr, "steps": cell.steps,
                         "bound": means[lr], "status": cell.status} for lr, cell in groups[key].items()]  # fmt: skip
    headers = ["task", "estimator", "steps", *(f"{lr:g}" for lr in rates), "best"]
    return Table("learning_rates", "Training bounds by learning rate", headers, rows, NOTE, records)


NOTE = (
    "Training bound in nats per image at the last step, higher is better, mean over seeds; a column for each learning "
    "rate. The published grid is .005, .001, .0005, .0001, .00005 for REBAR; RELAX was run at REBAR's best rate and at "
    "the next larger one. Short runs favour large rates. ‡: unfinished."
)
