"""The VAE of ReinMax beside the published means over seeds, epoch by epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import Table
from relax_exp.report.papers.published import published
from relax_exp.report.statistics import interval, show

EPOCH = 600  # updates: batches of 100 of 60,000 images
WITHIN = 0.5  # nats by which means may differ where two joint standard errors are less
THEIR_SEEDS = 10
BOUNDS = {"train": "train/relaxed_kl", "test": "test/elbo_full"}


def reinmax(cells: list[Cell]) -> Table | None:
    """Make a line for each published epoch of the runs on its model; None where there is none."""
    known = published()["reinmax_vae"]
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for cell in cells:
        theirs = known["cells"].get(_shape(cell), {}).get(cell.name)
        if not theirs or not _alike(cell, theirs["settings"]):
            continue
        series = {part: dict(zip(*cell.series(metric), strict=True)) for part, metric in BOUNDS.items()}
        lines = []
        for i, epoch in enumerate(known["epochs"]):
            if all(EPOCH * epoch in values for values in series.values()):
                ours = {part: values[EPOCH * epoch] for part, values in series.items()}
                lines.append(_line(cell, epoch, {part: -theirs[part][i] for part in BOUNDS}, ours))
        rows += [None] * bool(rows and lines) + [row for row, _ in lines]
        records += [record for _, record in lines]
    headers = ["categories x variables", "estimator", "epoch", "seeds"]
    headers += [f"{part}, {what}" for part in BOUNDS for what in ("published", "ours", "difference", "within")]
    return (
        Table("reinmax", "ReinMax's VAE beside the published means of ten seeds", headers, rows, NOTE, records)
        if rows
        else None
    )


def _line(cell: Cell, epoch: int, theirs: dict[str, float], ours: dict[str, np.ndarray]) -> tuple[list[str], dict]:
    """Return the row of an epoch and its record."""
    row, count = [_shape(cell), cell.name, str(epoch)], len(ours["train"])
    record: dict[str, Any] = {"task": _shape(cell), "estimator": cell.name, "epoch": epoch, "step": EPOCH * epoch}
    row.append(str(count))
    for part, values in ours.items():
        mean, half = interval(values)
        joint = float(np.std(values, ddof=1)) * math.sqrt(1 / count + 1 / THEIR_SEEDS) if count > 1 else 0.0
        difference = mean - theirs[part]
        said = "yes" if abs(difference) <= max(WITHIN, 2 * joint) else "no"
        row += [f"{theirs[part]:.2f}", show(values), f"{difference:+.2f}", said]
        record |= {f"{part} published": theirs[part], part: mean, f"{part} ±": half, f"{part} within": said}
    return row, record


def _shape(cell: Cell) -> str:
    task = cell.runs[0].config["task"]
    return f"{task.get('categories')}x{task.get('variables')}"


def _alike(cell: Cell, settings: dict[str, Any]) -> bool:
    """Tell whether the cell trains the published model as published, and averages over epochs."""
    if cell.kind != "categorical_vae" or not cell.steps:
        return False
    config = cell.runs[0].config
    chosen = {"optimizer": config["task"].get("optimizer"), "lr": cell.lr}
    chosen["temperature"] = config["estimator"].get("temperature")
    if chosen != settings or config["estimator"].get("draws", 100) != 100:
        return False
    wanted = {"dataset": "mnist", "binarize": "none", "train_images": "all", "initial_weights": "torch",
              "activation": "relu", "relaxed": "kl", "hidden": [512, 256], "layers": 1, "centred": False,
              "learned_prior": False, "pinned": False}  # fmt: skip
    return (config["batch_size"], config["eval_every"]) == (100, EPOCH) and wanted.items() <= config["task"].items()


NOTE = (
    "Nats per image, higher is better; grey pixels with their cross-entropy, so no likelihoods. Train: mean over the "
    "epoch of the objective, with the exact KL, while the weights move. Test: one sample for each of 10,000 images (at "
    "the end a hundred). Published: means of ten seeds at the same rate, optimiser and temperature (runs of arXiv "
    "2603.08257). Within: half a nat or two joint standard errors, whichever is more; the spread over seeds is taken "
    "from ours."
)
