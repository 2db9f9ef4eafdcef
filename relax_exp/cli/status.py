"""``relax-exp-report --status``: how far runs are, what failed, what is missing."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from relax_exp.config import plans
from relax_exp.errors import ReportError
from relax_exp.report.runs import EMPTY_RUN, Run, find_folders, find_incomplete, read_run
from relax_exp.report.statistics import duration
from relax_exp.run_files import DONE, ERROR, FAILED, META, METRICS
from relax_exp.runs.folder import is_abandoned, is_locked

HEADERS = ("run", "task", "estimator", "status", "step", "last written")
NARROW = (0, 3, 4)  # of these, where all are too wide: the name of a folder says task and estimator too


class Line(NamedTuple):
    """A run's line in the list, why its replicas failed, and what could not be read of it."""

    cells: list[str]
    failures: list[str]
    left_out: list[str]


def status(paths: Sequence[str | Path], experiment: str | None = None, budget: str = "") -> tuple[str, list[str]]:
    """List every run: folder, estimator, status, step, when it last wrote; why replicas failed, and which runs crashed.

    With ``experiment`` these are its runs at that budget only, and the commands of those that are missing. A run that
    says "running" and whose process is gone is "killed"; its step is that of its checkpoint, from which it goes on.

    Returns:
        The list, and what was left out and why.

    Raises:
        ReportError: There are no runs.
        ConfigError: There is no such experiment or budget.
    """
    folders, missing = find_folders(paths if experiment is None else filter(os.path.exists, paths)), []
    left_out = find_incomplete(paths)
    if experiment is not None:
        hashes = {folder: _hash(folder) for folder in folders}
        wanted, missing = plans.compared(experiment, budget, hashes.values())
        folders = [folder for folder in folders if hashes[folder] in wanted]
    elif not folders:
        raise ReportError("\n".join([*left_out, f"no runs found in {', '.join(map(str, paths))}"]))
    lines = [line_of(folder) for folder in folders]
    crashed = crashes(paths, None if experiment is None else folders)
    reasons = [reason for line in lines for reason in line.failures] + crashed
    left_out += [text for line in lines for text in line.left_out]
    todo = [f"{len(missing)} runs are missing:", *missing] if missing else []
    listed = [shown([line.cells for line in lines])] if lines else []
    return "\n\n".join("\n".join(part) for part in (listed, reasons, todo) if part), left_out


def line_of(folder: Path) -> Line:
    """Return the line of the run in ``folder``; one of question marks where it cannot be read."""
    left_out: list[str] = []
    try:
        run = read_run(folder, left_out)
    except ReportError as error:
        return Line([str(folder), "?", "?", "unreadable"], [], [str(error)])
    replicas = run.replicas()
    failed = [replica for replica in replicas if replica.status == FAILED]
    what = "killed" if is_abandoned(folder) else run.status
    what += f" ({len(failed)} of {len(replicas)} replicas failed)" if failed else ""
    if run.empty:
        what = "done, but without metrics"
        left_out.append(f"{folder}: {EMPTY_RUN}")
    metrics = folder / METRICS
    age = f"{duration(max(0.0, time.time() - metrics.stat().st_mtime))} ago" if metrics.is_file() else "never"
    steps = f"{step_of(run):,} of {run.config.get('steps', 0):,}"
    failures = [f"{folder}: seed {r.seed}, lr {r.lr:g} failed: {r.reason or 'no reason given'}" for r in failed]
    return Line([str(folder), run.task, run.estimator, what, steps, age], failures, left_out)


def step_of(run: Run) -> int:
    """Return how far a run is: of one that stands still, the step of its checkpoint, behind which all is done again."""
    saved = run.meta.get("saved_step")
    if saved is not None and run.status not in (DONE, FAILED) and not is_locked(run.path):
        return saved
    return max(run.step, run.meta.get("step") or 0, saved or 0)


def crashes(paths: Iterable[str | Path], folders: Sequence[Path] | None) -> list[str]:
    """Return the last line of each traceback that jobs of a sweep left in ``folders``, or below ``paths`` if None."""
    return [
        f"{error.parent} crashed: {error.read_text().rstrip().splitlines()[-1]} ({error})"
        for error in sorted(error for path in paths for error in Path(path).rglob(ERROR))
        if folders is None or error.parent in folders
    ]


def shown(lines: list[list[str]]) -> str:
    """Lay the lines out as a table, with fewer columns where the terminal is too narrow for all."""
    table = tabulate(lines, HEADERS, disable_numparse=True)
    if sys.stdout.isatty() and max(map(len, table.split("\n"))) > shutil.get_terminal_size().columns:
        few = [[line[i] for i in NARROW if i < len(line)] for line in lines]
        table = tabulate(few, [HEADERS[i] for i in NARROW], disable_numparse=True)
    return table


def _hash(folder: Path) -> str | None:
    """Return the hash in the folder's meta.json; None where it cannot be read."""
    try:
        return json.loads((folder / META).read_text()).get("hash")
    except (OSError, ValueError):
        return None
