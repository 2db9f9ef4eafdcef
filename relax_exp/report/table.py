"""Tables from cells, as Markdown and CSV: mean and 95% t interval over seeds, and what did not finish."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from relax_exp.report.cells import Cell, make_cells
from relax_exp.report.columns import COLUMNS, COMMON, NOTES, OTHER, SHARED, TITLES
from relax_exp.report.read import FAILED, read_run


def row(cell: Cell) -> tuple[list[str], dict]:
    """One cell: texts in the order of the headers, and the record for `table.csv`."""
    columns = [column.of(cell) for column in COLUMNS.get(cell.kind, OTHER)]
    texts = [cell.task, cell.estimator, f"{cell.lr:g}", f"{cell.steps:,}", str(len(cell.counted))]
    texts += [text for text, _ in columns] + [cell.status]
    record = {"kind": cell.kind, "task": cell.task, "estimator": cell.estimator, "lr": cell.lr, "steps": cell.steps}
    record |= {"seeds": " ".join(str(r.seed) for r in cell.counted), "status": cell.status}
    for _, values in columns:
        record |= values
    return texts, record | {"runs": " ".join(run.label for run in cell.runs)}


def section(kind: str, cells: list[Cell]) -> str:
    """Title, table and notes of one kind of cells."""
    from tabulate import tabulate

    headers = ["task", "estimator", "lr", "steps", "seeds"]
    headers += [column.header for column in COLUMNS.get(kind, OTHER)] + ["status"]
    texts = [row(cell)[0] for cell in cells]
    align = ("left", "left", *["right"] * (len(headers) - 3), "left")
    body = tabulate(
        [[text.replace("|", "\\|") for text in line] for line in texts],
        headers,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=align,
    )
    return f"## {TITLES.get(kind, kind)}\n\n{body}\n\n{NOTES.get(kind, COMMON)} {SHARED}\n"


def markdown(cells: list[Cell]) -> str:
    """All tables, and below them why replicas failed."""
    kinds = sorted({cell.kind for cell in cells}, key=lambda kind: ([*TITLES, kind].index(kind), kind))
    parts = [section(kind, [cell for cell in cells if cell.kind == kind]) for kind in kinds]
    failures = [f"- {text}" for cell in cells for text in failed(cell)]
    if failures:
        parts.append("## Failed\n\n" + "\n".join(failures) + "\n")
    return "\n".join(parts)


def failed(cell: Cell) -> list[str]:
    """One line for each replica that failed, with the reason."""
    where = f"{cell.task}, {cell.estimator}, lr {cell.lr:g}"
    return [
        f"{where}, seed {r.seed}: {r.reason or 'no reason given'} ({r.run.label})"
        for r in cell.replicas
        if r.status == FAILED
    ]


def run_table(path: str | Path) -> str:
    """The tables of one run folder."""
    return markdown(make_cells([read_run(path)])).rstrip()


def commands(cells: list[Cell]) -> str:
    """The command and the commit behind every number, as Markdown."""
    runs = {id(run): run for cell in cells for run in cell.runs}.values()
    lines = []
    for run in sorted(runs, key=lambda run: run.label):
        command, git = run.meta.get("command"), run.meta.get("git") or {}
        command = " ".join(command) if isinstance(command, list) else command
        commit = str(git.get("commit") or "")[:10] + (" + changes" if git.get("dirty") else "")
        lines.append(f"- {run.label}: `{command or 'unknown'}`" + (f" (commit {commit})" if commit else ""))
    return "## Commands\n\n" + "\n".join(lines) + "\n"


def to_csv(cells: list[Cell]) -> str:
    """One line a cell; columns that a kind of task does not have stay empty, and so do missing numbers."""
    records = [row(cell)[1] for cell in cells]
    fields = [*dict.fromkeys(key for record in records for key in record if key != "runs"), "runs"]
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: "" if v != v else f"{v:.8g}" if isinstance(v, float) else v for k, v in record.items()})
    return out.getvalue()
