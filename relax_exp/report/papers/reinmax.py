"""The VAE of ReinMax beside the published means over seeds, epoch by epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.papers.published import published
from relax_exp.report.statistics import interval, show

EPOCH = 600  # updates: batches of 100 of 60,000 images
WITHIN = 0.5  # nats by which means may differ where two joint standard errors are less
THEIR_SEEDS = 10
BOUNDS = {"train": "train/relaxed_kl", "test": "test/elbo_full"}
SILENT = -206.03  # the objective of the best model whose latents say nothing: pixels with the training mean


def reinmax(cells: list[Cell]) -> Table | None:
    """Make a line for each published epoch of the runs on its model; None where there is none."""
    known = published()["reinmax_vae"]
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    longest: dict[tuple[str, str], Cell] = {}
    for cell in filter(published_of, cells):
        of = _shape(cell), cell.name
        longest[of] = max(longest.get(of, cell), cell, key=lambda each: each.steps)
    for (shape, name), cell in longest.items():
        theirs = known["cells"][shape][name]
        series = {part: dict(zip(*cell.series(metric), strict=True)) for part, metric in BOUNDS.items()}
        lines = []
        for i, epoch in enumerate(known["epochs"]):
            if all(EPOCH * epoch in values for values in series.values()):
                ours = {part: values[EPOCH * epoch] for part, values in series.items()}
                collapsed = _collapsed(series["train"], epoch)
                lines.append(_line(cell, epoch, _means(theirs, i), ours, collapsed))
        rows += [None] * bool(rows and lines) + [row for row, _ in lines]
        records += [record for _, record in lines]
    headers = ["categories x variables", "estimator", "epoch", "seeds"]
    headers += [f"{part}, {what}" for part in BOUNDS for what in ("published", "ours", "difference", "within")]
    return (
        Table("reinmax", "ReinMax's VAE beside the published means of ten seeds", headers, rows, NOTE, records)
        if rows
        else None
    )


def published_of(cell: Cell) -> dict[str, Any] | None:
    """Return what `published.yaml` has of the model, estimator and settings of the cell."""
    theirs = published()["reinmax_vae"]["cells"].get(_shape(cell), {}).get(cell.name)
    return theirs if theirs and _alike(cell, theirs["settings"]) else None


def points(cell: Cell, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and published means of a bound over all ten seeds, collapsed ones too; empty where none is known."""
    theirs, part = published_of(cell), next((part for part, name in BOUNDS.items() if name == metric), None)
    if theirs is None or part is None:
        return np.empty(0), np.empty(0)
    means = -np.array(theirs[part])
    return EPOCH * np.array(published()["reinmax_vae"]["epochs"][: len(means)]), means


def _means(theirs: dict[str, Any], i: int) -> tuple[dict[str, float], int]:
    """Return the published means at the epoch with that index over the seeds that had not collapsed; how many."""
    sums, count = {part: -THEIR_SEEDS * theirs[part][i] for part in BOUNDS}, THEIR_SEEDS
    if "collapsed" in theirs and i < len(theirs["collapsed"]["train"]):
        sums, count = {part: value + theirs["collapsed"][part][i] for part, value in sums.items()}, count - 1
    return {part: value / count for part, value in sums.items()}, count


def _collapsed(train: dict[int, np.ndarray], epoch: int) -> np.ndarray:
    """Tell of which seeds the latents say nothing; over the first epoch all start so, and the second one tells."""
    return train.get(EPOCH * max(epoch, 2), np.zeros(1)) < SILENT


def _line(
    cell: Cell, epoch: int, theirs: tuple[dict[str, float], int], ours: dict[str, np.ndarray], collapsed: np.ndarray
) -> tuple[list[str], dict]:
    """Return the row of an epoch and its record."""
    lost, (means, their_seeds) = int(collapsed.sum()), theirs
    count = len(ours["train"]) - lost
    row = [_shape(cell), cell.name, str(epoch), str(count) + (f" (and {lost} collapsed)" if lost else "")]
    record: dict[str, Any] = {"task": _shape(cell), "estimator": cell.name, "epoch": epoch, "step": EPOCH * epoch}
    record |= {"seeds": count, "collapsed": lost}
    for part, values in ours.items():
        learnt = values[~np.broadcast_to(collapsed, values.shape)]
        mean, half = interval(learnt)
        joint = float(np.std(learnt, ddof=1)) * math.sqrt(1 / count + 1 / their_seeds) if count > 1 else 0.0
        difference = mean - means[part]
        said = ("yes" if abs(difference) <= max(WITHIN, 2 * joint) else "no") if count else EMPTY
        shown = f"{difference:+.2f}" if count else EMPTY
        row += [f"{means[part]:.2f}", show(learnt), shown, said]
        record |= {f"{part} published": means[part], part: mean, f"{part} ±": half, f"{part} within": said}
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
    "from ours. A seed has collapsed where the objective is below -206.03, which pixels with the mean image reach "
    "without latents; over the first epoch the second one decides. Such seeds are counted and left out of the means, "
    "of the published as of ours: of the published, seed 1 of straight-through with 8x4 to epoch 20."
)
