"""What a study leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from relax_exp.report import formats
from relax_exp.report.figures.axes import save
from relax_exp.report.runs import read_run
from relax_exp.report.studies import STUDIES


def leave(path: Path) -> str:
    """Write the tables and figures of the run in ``path``, from its JSON files, into it.

    Returns:
        The tables for standard output.
    """
    from relax_exp.runs.files import write_atomically

    run = read_run(path)
    study = STUDIES[run.task]
    tables = study.tables(run)
    write_atomically(path / "table.md", "\n".join(map(formats.markdown, tables)))
    for name, figure in study.figures(run).items():
        save(figure, path / name)
    return formats.printed(tables)


def said(path: Path) -> str:
    """Return the tables of a finished study for standard output."""
    run = read_run(path)
    return formats.printed(STUDIES[run.task].tables(run))
