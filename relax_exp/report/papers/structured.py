"""Structured prediction beside the tables of MuProp, Gumbel-Softmax and ARM."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp import estimators
from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, NOT_RUN, Table
from relax_exp.report.papers.published import chosen, published
from relax_exp.report.statistics import interval, show
from relax_exp.report.style import order

EPOCH = 500  # updates: batches of 100 of 50,000 images
LATENTS = {"structured": "200-200 bits", "structured_categorical": "(20 x 10) x 2"}
MODEL = {
    "structured": {"layers": 2, "variables": 200, "categories": None},
    "structured_categorical": {"layers": 2, "variables": 20, "categories": 10},
}
ANNEALED = "annealed ST"  # of Jang et al.: our straight_through with schedule=annealed
BOUNDS = {"test/bound1000": "1,000", "test/bound100": "100"}  # the first that was measured counts


def structured(cells: list[Cell]) -> Table | None:
    """Make a line for each estimator of the papers or of ours on their two networks; None where none was trained."""
    papers = published()["structured"]["papers"]
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for kind, latents in LATENTS.items():
        ours = _lines([cell for cell in cells if _alike(cell, kind)], kind)
        if not ours:
            continue
        theirs = {paper: values["test"].get(kind, {}) for paper, values in papers.items()}
        rows += [None] * bool(rows)
        for name in sorted({*ours, *(key for values in theirs.values() for key in values)}, key=order):
            printed = {paper: values.get(name) for paper, values in theirs.items()}
            for label, cell in ours.get(name, {name: None}).items():
                row, record = _ours(name, cell)
                rows.append([latents, label, *(EMPTY if v is None else f"{v:.1f}" for v in printed.values()), *row])
                records.append({"latents": latents, "estimator": label, **printed, **record})
    headers = ["latents", "estimator", *(paper["label"] for paper in papers.values())]
    headers += ["ours", "samples m", "epochs", "lr", "seeds"]
    title = "Structured prediction: -log p(lower half | upper half) of test images"
    return Table("structured_published", title, headers, rows, NOTE, records) if rows else None


def _lines(cells: list[Cell], kind: str) -> dict[str, dict[str, Cell]]:
    """Return the cells at their best rates by estimator, and by label with the settings in which some differ."""
    lines: dict[str, dict[str, Cell]] = {}
    for task, of in chosen(cells, kind).items():
        _, comma, settings = task.partition(", ")  # of the task, such as its optimiser
        for label, it in of.items():
            estimator = it.cell.runs[0].config["estimator"]
            annealed = it.cell.name == "straight_through" and estimator["schedule"] == "annealed"
            name = ANNEALED if annealed else it.cell.name
            lines.setdefault(name, {})[label + comma + settings] = it.cell
    return lines


def _ours(name: str, cell: Cell | None) -> tuple[list[str], dict[str, Any]]:
    """Return our part of a line, with the papers' sign, and of its record."""
    if cell is None:
        offered = name in estimators.REGISTRY or name == ANNEALED
        return [NOT_RUN if offered else "not offered", *[EMPTY] * 4], {}
    metric = next((m for m in BOUNDS if np.isfinite(cell.last(m)).any()), None)
    if metric is None:
        return ["no numbers yet", *[EMPTY] * 4], {}
    values, epochs = -cell.last(metric), cell.steps / EPOCH
    mean, half = interval(values)
    row = [show(values), BOUNDS[metric], f"{epochs:g}", f"{cell.lr:g}", str(len(cell.counted))]
    record = {"ours": mean, "ours ±": half, "samples": int(BOUNDS[metric].replace(",", "")), "epochs": epochs}
    record |= {"lr": cell.lr, "optimizer": cell.runs[0].config["task"]["optimizer"]}
    return row, record | {"seeds": " ".join(str(r.seed) for r in cell.counted)}


def _alike(cell: Cell, kind: str) -> bool:
    """Tell whether the cell trains one of the papers' networks on binarised MNIST, in batches of 100."""
    if cell.kind != kind or not cell.steps:
        return False
    config = cell.runs[0].config
    task = config["task"]
    known = MODEL[kind] | {"dataset": "mnist"}
    if f"test/bound{task['test_samples']}" not in BOUNDS:
        return False
    return known.items() <= task.items() and task["binarize"] != "none" and config["batch_size"] == 100


NOTE = (
    "Nats per image (of its lower half), lower is better: the negative of our bounds. Published: at the end of runs "
    "many times as long as ours (ARM: 2,000 epochs), -log (1/m) sum_i p(lower | b^i) with m = 1,000 (MuProp: 100), "
    "each method at a rate of its own. Ours: of all 10,000 test images at the last step, of the last parameters, "
    "after so many epochs as the column says, mean over seeds ± 95% t interval (one seed: no interval), so it says "
    "how far the estimators come in that time and not what they reach. SF, the score function of Jang et al., stands "
    "in the line of reinforce, though it may have had a baseline. LR-C-VN-IDB of Gu et al., the score function with "
    "an input-dependent baseline, centred and normalised, stands in the line of nvil, and MuProp-C (57.7; normalised "
    "56.7) in that of muprop. Concrete is trained on relaxed samples, as Gumbel-Softmax is, and evaluated on discrete "
    "ones. Annealed ST is straight_through with estimator.schedule=annealed. DARN and 1/2 are estimators of the papers "
    "that are not offered here. –: not in that source."
)
