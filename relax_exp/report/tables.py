"""The table of each kind of cells: a line for each, mean and 95% t interval over seeds, and what did not finish."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from relax_exp.report import formats, kinds
from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.groups import make_cells
from relax_exp.report.runs import Run, read_run
from relax_exp.report.statistics import Column, numbers, show, where_any
from relax_exp.run_files import FAILED

SHARED = "Wall time: of the whole run, all its seeds and learning rates."


def row(cell: Cell, columns: Sequence[Column] | None = None) -> tuple[list[str], dict[str, Any]]:
    """Return the texts of one cell in the order of the headers, and the record for `table.csv`."""
    columns = columns or kinds.of(cell.kind).columns
    made = [column.of(cell) for column in columns]
    texts = [cell.task, cell.estimator, f"{cell.lr:g}", f"{cell.steps:,}", str(len(cell.counted))]
    texts += [text for text, _ in made] + [cell.status]
    record = {"kind": cell.kind, "task": cell.task, "estimator": cell.estimator, "lr": cell.lr, "steps": cell.steps}
    record |= {"seeds": " ".join(str(r.seed) for r in cell.counted), "status": cell.status}
    for column, (text, values) in zip(columns, made, strict=True):
        if not (column.optional and text == EMPTY):
            record |= values
    return texts, record | {"runs": " ".join(run.label for run in cell.runs)}


def of_kind(kind: str, cells: list[Cell]) -> Table:
    """Make the table of cells of one kind, without the optional columns that would be empty."""
    its = kinds.of(kind)
    columns = [c for c in its.columns if not c.optional or any(c.of(cell)[0] != EMPTY for cell in cells)]
    headers = ["task", "estimator", "lr", "steps", "seeds", *(column.header for column in columns), "status"]
    rows, records = zip(*(row(cell, columns) for cell in cells), strict=True)
    return Table(kind, its.title, headers, rows, f"{its.note} {SHARED}", records)


def of_kinds(cells: list[Cell]) -> list[Table]:
    """Make a table for each kind of cells."""
    names = sorted({cell.kind for cell in cells}, key=lambda kind: ([*kinds.KINDS, kind].index(kind), kind))
    made = [of_kind(name, [cell for cell in cells if cell.kind == name]) for name in names]
    return [*made, *([along] if (along := tracked(cells)) else [])]


def tracked(cells: list[Cell]) -> Table | None:
    """Make the table of the variances that ``track=[...]`` measured along runs; None where nothing was tracked."""
    rows, records = [], []
    for cell in cells:
        keys = {key for replica in cell.counted for row in replica.rows.values() for key in row}
        for key in sorted(key for key in keys if re.fullmatch(r"track/.+/log_variance", key)):
            name = key.split("/")[1]
            alone, costed = (where_any(cell.last(metric)) for metric in (key, f"{key}_x_evaluations"))
            texts = [show(alone), show(costed)]
            rows.append([cell.task, cell.estimator, name, f"{cell.steps:,}", *texts])
            record = {"task": cell.task, "estimator": cell.estimator, "measured": name, "steps": cell.steps}
            records.append(record | numbers("log_variance", alone) | numbers("x evaluations", costed))
    headers = ["task", "trained", "measured", "step", "log-variance", "plus log evaluations of f"]
    note = (
        "Natural log of the variance of each estimator's gradient at the parameters that the run had at this step, "
        "mean over seeds ± 95% t interval; the last column adds the log of the evaluations of f, for equal cost."
    )
    return Table("tracked", "Variances along the trajectory", headers, rows, note, records, words=3) if rows else None


def markdown(cells: list[Cell]) -> str:
    """Write all tables, and below them why replicas failed."""
    return "\n".join([*map(formats.markdown, of_kinds(cells)), *failures(cells)])


def failures(cells: list[Cell]) -> list[str]:
    """Write a section with one line for each replica that failed, with the reason; empty where none has."""
    lines = [
        f"- {cell.task}, {cell.estimator}, lr {cell.lr:g}, seed {r.seed}: {r.reason or 'unknown'} ({r.run.label})"
        for cell in cells
        for r in cell.replicas
        if r.status == FAILED
    ]
    return ["## Failed\n\n" + "\n".join(lines) + "\n"] if lines else []


def run_table(path: str | Path) -> str:
    """Write the tables of one run folder."""
    return markdown(make_cells([read_run(path)])).rstrip()


def run_printed(path: str | Path) -> str:
    """Write the same for standard output, see `relax_exp.report.formats.printed`."""
    cells = make_cells([read_run(path)])
    return formats.printed(of_kinds(cells), failures(cells))


def commands(runs: Iterable[Run]) -> str:
    """Write the command and the commit behind every number, as Markdown."""
    lines = []
    for run in sorted(runs, key=lambda run: run.label):
        command, git = run.meta.get("command"), run.meta.get("git") or {}
        command = " ".join(command) if isinstance(command, list) else command
        commit = str(git.get("commit") or "")[:10] + (" + changes" if git.get("dirty") else "")
        lines.append(f"- {run.label}: `{command or 'unknown'}`" + (f" (commit {commit})" if commit else ""))
    return "## Commands\n\n" + "\n".join(lines) + "\n"
