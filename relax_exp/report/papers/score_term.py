"""What the score term of the direct gradient does to bounds: runs that differ in it alone, paired by their seeds."""

from __future__ import annotations

from typing import Any

from relax_exp.config.identity import group_key
from relax_exp.report.cells import Cell
from relax_exp.report.formats import Table
from relax_exp.report.papers.paired import SHOWN, differences, verdict
from relax_exp.report.papers.published import short
from relax_exp.report.statistics import interval

VALID = "valid/elbo"
WORDS = {"ahead": "better", "behind": "worse"}


def score_term(cells: list[Cell]) -> Table | None:
    """Show dropped minus kept at a few steps and at the last; None where no run has its counterpart."""
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for dropped, kept in _pairs(cells):
        steps, train, seeds = differences(dropped, kept)
        others, valid, _ = differences(dropped, kept, VALID)
        if not len(steps) or len(seeds) < 2:
            continue
        task = dropped.task.removesuffix(", score_term=dropped")
        rows += [None] * bool(rows)
        for at in (i for i, step in enumerate(steps) if step in SHOWN or step == steps[-1]):
            row, record = [task, dropped.name, short(int(steps[at])), str(len(seeds))], {}
            for part, values in (("train", train[at]), ("valid", valid[others.tolist().index(steps[at])])):
                mean, half = interval(values)
                said = verdict(values)
                row += [f"{mean:+.2f} ± {half:.2f}", WORDS.get(said, said)]
                record |= {f"{part} difference": mean, f"{part} difference ±": half, f"{part} verdict": row[-1]}
            rows.append(row)
            records.append({"task": task, "estimator": dropped.name, "step": int(steps[at]),
                            "seeds": " ".join(map(str, seeds)), "lr": dropped.lr, **record})  # fmt: skip
    headers = ["task", "estimator", "step", "seeds", "training bound, dropped − kept", "dropped is"]
    headers += ["validation bound, dropped − kept", "dropped is "]
    title = "The score term dropped against kept, paired"
    return Table("score_term", title, headers, rows, NOTE, records) if rows else None


def _pairs(cells: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Return the cells without and with the term that have all else in common."""
    of: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in cells:
        config = cell.runs[0].config
        if cell.kind in ("vae", "categorical_vae") and cell.steps:
            term = config["task"]["score_term"]
            alike = {**config, "task": {**config["task"], "score_term": "kept"}}
            of.setdefault((group_key(alike), cell.lr), {})[term] = cell
    return [(both["dropped"], both["kept"]) for both in of.values() if len(both) == 2]


NOTE = (
    "Differences of one-sample bounds in nats per image, positive where leaving the term out is better: mean over "
    "pairs of runs with the same seed, which start from the same weights and see the same images and noise, ± 95% t "
    "interval over seeds. Training: mean since the evaluation before. Validation: on the first 1,000 images. "
    "Undecided: the interval holds zero."
)
