"""Table 1: training bounds of the binary VAE beside those of the draft and of the published paper (published.yaml)."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, NOT_RUN, Table
from relax_exp.report.papers.published import COLUMNS, TUCKER, Chosen, chosen, column_order, published, short
from relax_exp.report.statistics import interval
from relax_exp.run_files import FAILED

MODELS = ("linear1", "linear2", "nonlinear")
TRAINING_BOUND = "train/elbo"
PRINTED = {TUCKER: "rebar_tucker"}  # names in published.yaml that are not a column's
BOUNDS = ("common", "highest")  # lines that are left out where they say the same as the one above


def models(cells: list[Cell]) -> list[tuple[str, str, list[str]]]:
    """Return (dataset, model, labels of tasks) of the papers' six models, in their order; none has grey pixels."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        if cell.kind == "vae":
            task = cell.runs[0].config["task"]
            if task.get("binarize") == "none":
                continue
            found.setdefault((task["dataset"], task["model"]), {})[cell.task] = None
    images = published()["vae"]["images"]
    return [(data, model, list(found.get((data, model), ()))) for data in images for model in MODELS]


def table1(cells: list[Cell]) -> Table | None:
    """Make Table 1 with the draft's, the published and our numbers; None where no model was trained.

    Its lines are those of the models that were trained; the records are of all six.
    """
    tasks = models(cells)
    if not any(labels for *_, labels in tasks):
        return None
    ours = chosen(cells, "vae")
    there = {label for *_, labels in tasks for task in labels for label in ours[task]}
    columns = sorted({*COLUMNS, *there}, key=column_order)
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for data, model, labels in tasks:
        block: list[list[str]] = []
        for source in ("draft", "published"):
            values = {c: published()["vae"][source][data][model].get(PRINTED.get(c, c)) for c in columns}
            block.append([data, model, source, *(EMPTY if v is None else f"{v:.2f}" for v in values.values())])
            records += [
                {"dataset": data, "model": model, "source": source, "estimator": column, "bound": value}
                for column, value in values.items()
                if value is not None
            ]
        for task in labels or [f"{data} {model}"]:
            lines, more = _ours(data, model, task, ours.get(task, {}), columns)
            block += lines
            records += more
        if labels:
            rows += [None] * bool(rows) + block
    headers = ["data", "model", "source", *(COLUMNS.get(column, column) for column in columns)]
    return Table("table1", "Table 1: training bounds", headers, rows, NOTE, records, words=3)


def _ours(data: str, model: str, task: str, of: dict[str, Chosen], columns: list[str]) -> tuple[list, list]:
    """Return the lines of one trained model, and their records."""
    planned = published()["vae"]["steps"]
    at = min((it.cell.steps for it in of.values() if it.cell.steps), default=0)
    source = "ours" + task.removeprefix(f"{data} {model}")
    texts: dict[str, list[str]] = {source: [], "highest": [], "common": [], "steps": [], "rate": []}
    records = []
    for column in columns:
        it = of.get(column)
        record = {"dataset": data, "model": model, "source": "ours", "estimator": column}
        if it is None or not len(it.cell.counted) or not it.cell.steps:
            state = NOT_RUN if it is None else FAILED if it.cell.status == FAILED else "no numbers yet"
            for name, line in texts.items():
                line.append(state if name in BOUNDS or name == source else EMPTY)
            records.append({**record, "status": state})
            continue
        cell, n = it.cell, len(it.cell.counted)
        last, common = cell.last(TRAINING_BOUND), np.array([r.value(TRAINING_BOUND, at) for r in cell.counted])
        highest = highest_of(cell)
        for name, values in ((source, last), ("highest", highest), ("common", common)):
            texts[name].append(_show(values) + ("" if cell.finished else " ‡"))
        texts["steps"].append(f"{short(cell.steps)} of {short(planned)}, {n} seed{'s' * (n > 1)}")
        texts["rate"].append(f"{cell.lr:g} ({len(it.tried)} tried)")
        (mean, half), (top, _) = interval(last), interval(highest)
        record |= {"bound": mean, "bound ±": half, "highest": top, "seeds": " ".join(str(r.seed) for r in cell.counted)}
        record |= {"steps": cell.steps, "planned": cell.planned, "published steps": planned, "lr": cell.lr}
        record |= {"decoder units": cell.runs[0].config["task"].get("decoder_hidden")}
        record |= {"lr chosen by": it.how, "status": cell.status, "runs": " ".join(run.label for run in cell.runs)}
        records.append(record)
    names = {source: source, "common": f"ours at step {short(at)}", "highest": "ours, highest"}
    names |= {"steps": "steps, seeds", "rate": "learning rate"}
    keep = [source, *(name for name in BOUNDS if texts[name] != texts[source])]
    keep += ["steps", "rate"] if of else []
    return [[data, model, names[name], *texts[name]] for name in keep], records


def highest_of(cell: Cell) -> np.ndarray:
    """Return the highest training bound of each seed over the evaluations."""
    _, values = cell.series(TRAINING_BOUND)
    return np.array([np.nanmax(v) if np.isfinite(v).any() else np.nan for v in values.T])


def _show(values: np.ndarray) -> str:
    mean, half = interval(values)
    if np.isnan(mean):
        return EMPTY
    return f"{mean:.2f}" + (f" ± {half:.2f}" if half is not None else "")


NOTE = (
    "Nats per image, higher is better. Draft: the submission of 2017; published: the final version (ICLR 2018), which "
    "moved some columns of the draft; both print the highest training bound of single runs of 2,000,000 steps. A "
    "third version, a revision between the two, prints the draft's Omniglot nonlinear row beside the final MNIST one. "
    "In the nonlinear rows the published code's decoder has hidden layers of 784 units, where the paper's text and "
    "Tucker et al. (NVIL, MuProp, Concrete and REBAR (Tucker)) have 200: decoder_hidden says which ours had. Ours: "
    "mean one-sample training bound since the evaluation before, at the last step, mean over seeds ± 95% t interval "
    "(one seed: no interval); highest: over all evaluations. At step: where estimators ran for different numbers of "
    "steps, the last one that all of them reached. The learning rate is the one with the best final 100-sample "
    "validation bound among those tried with most seeds. REBAR (Tucker): ours has one eta for each parameter tensor, "
    "tuned on the variance of the parameters' gradient. ‡: unfinished. –: not in that source. Models that none of "
    "these runs trained are left out."
)
