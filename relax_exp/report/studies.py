"""Runs that measure and leave no curves: a module each, with ``tables(run)``, ``figures(run)`` and ``label(run)``."""

from __future__ import annotations

from pathlib import Path

from relax_exp.report import markup, temperature, verification
from relax_exp.report.drawing import save
from relax_exp.report.read import read_run

STUDIES = {"temperature": temperature, "verify": verification}


def leave(path: Path) -> str:
    """Write the tables and figures of the run in ``path``, from its JSON files, into it; the tables as Markdown."""
    from relax_exp.folder import write_atomically

    run = read_run(path)
    study = STUDIES[run.task]
    text = "\n".join(map(markup.markdown, study.tables(run)))
    write_atomically(path / "table.md", text)
    for name, figure in study.figures(run).items():
        save(figure, path / name)
    return text
