"""The frame of a study: measure once, leave tables and figures in the run's folder, show them again later."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relax_exp.config.identity import run_path
from relax_exp.errors import SettingError
from relax_exp.report import formats
from relax_exp.report.figures.axes import save
from relax_exp.report.runs import read_run
from relax_exp.report.studies import STUDIES
from relax_exp.run_files import DONE, TABLE
from relax_exp.runs.atomic_write import write_atomically
from relax_exp.runs.folder import RunFolder, shown
from relax_exp.tasks.registry import TASKS

Rows = list[dict[str, Any]]


def conduct(config: dict[str, Any], measure: Callable[[dict[str, Any]], dict[str, Rows]]) -> int:
    """Carry out a study: what ``measure(config)`` returns becomes ``table.json`` and, from it, tables and figures.

    A study that was carried out before is shown again, without measuring anything.

    Args:
        config: The resolved configuration.
        measure: What measures, and returns the rows of each table.

    Returns:
        The exit code, 0.

    Raises:
        SettingError: An estimator was chosen where none can be.
    """
    name, chosen = config["task"]["name"], config["estimator"]
    if (beside := TASKS[name].beside) and (chosen["name"] != "all" or chosen.get("path")):
        raise SettingError(f"task={name} sets {beside} beside each other: leave the estimator out")
    path = run_path(config)
    if (code := shown(path, config, said)) is not None:
        return code
    torch.set_num_threads(config["threads"])
    with RunFolder(path, config) as folder, torch.no_grad():
        write_atomically(path / TABLE, json.dumps(measure(config), indent=1))
        text = leave(path)
        folder.update_meta(status=DONE)
    print(text)
    print(f"tables and figures are in {path}", file=sys.stderr)
    return 0


def leave(path: Path) -> str:
    """Write the tables and figures of the run in ``path``, from its JSON files, into it.

    Returns:
        The tables for standard output.
    """
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
