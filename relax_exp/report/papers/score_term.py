"""What the score term of the direct gradient does to bounds: runs that differ in it alone, paired by their seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from relax_exp.config.identity import group_key
from relax_exp.report.cells import Cell, differences
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.papers.bounds import VALIDATION_BOUND
from relax_exp.report.papers.paired import SHOWN, verdict
from relax_exp.report.papers.published import short
from relax_exp.report.papers.table1 import TRAINING_BOUND
from relax_exp.report.statistics import interval
from relax_exp.report.style import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {"training": TRAINING_BOUND, "validation": VALIDATION_BOUND}
WORDS = {"ahead": "better", "behind": "worse"}
MEASURES = ("eval_every", "track")  # keys of a run that change none of these bounds; of a task: variance_draws


def score_term(cells: list[Cell]) -> Table | None:
    """Show dropped minus kept at a few steps and at the last; None where no run has its counterpart."""
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for dropped, kept in _pairs(cells):
        measured = {part: differences(dropped, kept, metric) for part, metric in PARTS.items()}
        steps, _, seeds = measured["training"]
        if not len(steps) or len(seeds) < 2:
            continue
        task = _task(dropped)
        rows += [None] * bool(rows)
        for step in (int(step) for step in steps if step in SHOWN or step == steps[-1]):
            row, record = [task, dropped.estimator, f"{dropped.lr:g}", short(step), str(len(seeds))], {}
            for part, (at, values, _) in measured.items():
                mean, half = interval(values[at == step].ravel())
                said = EMPTY if np.isnan(mean) else verdict(values[at == step].ravel())
                row += [EMPTY if half is None else f"{mean:+.2f} ± {half:.2f}", WORDS.get(said, said)]
                record |= {f"{part} difference": mean, f"{part} difference ±": half, f"{part} verdict": row[-1]}
            rows.append(row)
            records.append({"task": task, "estimator": dropped.estimator, "lr": dropped.lr, "step": step,
                            "seeds": " ".join(map(str, seeds)), **record})  # fmt: skip
    headers = ["task", "estimator", "lr", "step", "seeds"]
    headers += [text for part in PARTS for text in (f"{part} bound, dropped − kept", f"{part}: dropped is")]
    title = "The score term dropped against kept, paired"
    return Table("score_term", title, headers, rows, NOTE, records) if rows else None


def figure(cells: list[Cell]) -> Figure | None:
    """Draw dropped minus kept over steps: a row for each task, a column for each bound, a line for each estimator."""
    from matplotlib.lines import Line2D

    from relax_exp.report.figures.axes import figure as canvas
    from relax_exp.report.figures.axes import letters, look, seeds, styled
    from relax_exp.report.figures.differences import over_zero
    from relax_exp.report.figures.legend import below

    of: dict[str, list[tuple[Cell, Cell]]] = {}
    counts: set[int] = set()
    for dropped, kept in _pairs(cells):
        if (count := len(differences(dropped, kept, TRAINING_BOUND)[2])) > 1:
            counts.add(count)
            of.setdefault(_task(dropped), []).append((dropped, kept))
    if not of:
        return None
    handles: dict[str, Line2D] = {}
    with look():
        fig = canvas(7.2, 2.6 * len(of) + 0.5)
        grid = fig.subplots(len(of), len(PARTS), squeeze=False)
        for row, (task, pairs) in zip(grid, of.items(), strict=True):
            looks = styled([dropped for dropped, _ in pairs])
            handles |= {label: Line2D([], [], **its.keywords, label=label) for _, its, label in looks}
            xlim = 0, 1.02 * max(dropped.steps for dropped, _ in pairs)
            for ax, (part, metric) in zip(row, PARTS.items(), strict=True):
                lines = [
                    (*differences(*pair, metric)[:2], its, label)
                    for pair, (_, its, label) in zip(pairs, looks, strict=True)
                ]
                over_zero(ax, lines, f"{part} bound,\ndropped minus kept (nats)", xlim, 1 / len(pairs))
                ax.set_title(words(task))
        letters(grid.flatten())
        fig.suptitle("score term of the direct gradient")
        notes = [f"mean over {seeds(max(counts)) if len(counts) == 1 else 'the seeds'} that ran with and without it"]
        notes += ["band: 95% t interval"] * (max(counts) > 2)
        below(fig, handles.values(), [*notes, "above zero: dropped is better"])
    return fig


def _task(dropped: Cell) -> str:
    """Return the task of a cell without the term, in words that do not say so."""
    return dropped.task.replace(", score_term=dropped", "")


def _pairs(cells: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Return the cells without and with the term that have all else in common, but for what they measure besides."""
    of: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in cells:
        config = cell.runs[0].config
        if cell.kind in ("vae", "categorical_vae") and cell.steps:
            task = {**config["task"], "score_term": "kept", "variance_draws": 0}
            alike = {**config, "task": task, "lrs": [], **dict.fromkeys(MEASURES)}
            of.setdefault((group_key(alike), cell.lr), {})[config["task"]["score_term"]] = cell
    return [(both["dropped"], both["kept"]) for both in of.values() if len(both) == 2]


NOTE = (
    "Differences of one-sample bounds in nats per image, positive where leaving the term out is better: mean over "
    "pairs of runs with the same seed, which start from the same weights and see the same images and noise, ± 95% t "
    "interval over seeds. Training: mean since the evaluation before. Validation: on the first 1,000 images. "
    "Undecided: the interval holds zero."
)
