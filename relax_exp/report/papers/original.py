"""The first epochs of the binary VAE beside those of the original code, run by us."""

from __future__ import annotations

from typing import Any

from relax_exp.config.identity import flatten
from relax_exp.report.cells import Cell
from relax_exp.report.formats import Table
from relax_exp.report.papers.published import published
from relax_exp.report.papers.table1 import TRAINING_BOUND
from relax_exp.report.statistics import interval, show

WITHIN = 0.5  # nats by which a mean over an epoch may differ: seeds differ by .02 to .18


def original(cells: list[Cell]) -> Table | None:
    """Make a line an epoch of the runs that are as long as those of the original code; None where none is."""
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for known in published()["vae"]["original"]:
        for cell in cells:
            if not _alike(cell, known):
                continue
            rows += [None] * bool(rows)
            steps, values = cell.series(TRAINING_BOUND)
            for epoch, (expected, step) in enumerate(zip(known["epochs"], steps, strict=False)):
                ours = values[epoch]
                mean, half = interval(ours)
                said = "yes" if abs(mean - expected) <= WITHIN else "no"
                rows.append([cell.task, cell.name, f"{cell.lr:g}", str(epoch), str(len(ours)), f"{expected:.2f}",
                             show(ours), f"{mean - expected:+.2f}", said])  # fmt: skip
                records.append({"task": cell.task, "estimator": cell.name, "lr": cell.lr, "epoch": epoch,
                                "seeds": len(ours), "step": int(step), "original": expected, "bound": mean,
                                "bound ±": half, "within": said})  # fmt: skip
    headers = ["task", "estimator", "lr", "epoch", "seeds", "original code", "ours", "difference", "within half a nat"]
    return Table("original", "Beside the original code", headers, rows, NOTE, records) if rows else None


def of_original(cell: Cell) -> dict[str, Any] | None:
    """Return what the original code gave where the cell is a run to be set beside it, and no cell of Table 1."""
    return next((known for known in published()["vae"]["original"] if _alike(cell, known)), None)


def _alike(cell: Cell, known: dict[str, Any]) -> bool:
    """Tell whether the cell trains what was trained with the original code, for as long."""
    if cell.kind != "vae" or not cell.steps:
        return False
    config = cell.runs[0].config
    same = (config["task"].get("dataset"), config["task"].get("model"), cell.name, cell.lr)
    epoch = published()["vae"]["images"]["mnist"] // config["batch_size"]
    epochs, flat = len(known["epochs"]), flatten(config)
    if any(flat.get(key, value) != value for key, value in known["settings"].items()):
        return False
    return same == ("mnist", known["model"], known["estimator"], known["lr"]) and (
        (config["steps"], config.get("eval_every")) == (epochs * epoch, epoch)
    )


NOTE = (
    "Mean one-sample training bound over an epoch, in nats per image, while the weights move: epoch 0 has the images "
    "in file order, epoch 1 is shuffled. Original code: duvenaud/relax, run by us on the same statically binarised "
    "images; two of its runs differ by .02 to .22."
)
