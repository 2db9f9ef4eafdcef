"""Runs in cells: replicas of one configuration share one, and different configurations never do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from relax_exp.config import identity
from relax_exp.errors import ReportError
from relax_exp.report import kinds
from relax_exp.report.cells import Cell
from relax_exp.report.runs import Replica, Run, series
from relax_exp.report.style import natural, order
from relax_exp.run_files import DONE, FAILED

# Seeds and learning rates make the replicas; the others do not change the numbers.
APART = ("seed", "seeds", "lr", "lrs", "track", *identity.MACHINE_KEYS)  # what rows of a table do not differ in
RATES = ("estimator.lr_scale",)  # keys that are tuned as the learning rate is
MEASURING = ("task.variance_every", "task.variance_draws", "task.bound_every")  # what changes no training


def make_cells(runs: Iterable[Run], by: Sequence[str] = ()) -> list[Cell]:
    """Sort the runs into cells. Keys named in `by` tell tasks apart too; other differences are refused, by name.

    Configurations are compared without seeds, learning rates and `MEASURING`. Where they differ in the task's keys the
    task's label says so, where they differ in the estimator's keys, the estimator's; keys that are null are not named.
    Where they differ in the number of steps, the estimator's label says that too. Of runs that repeat one another and
    differ in what they measured, one counts, see `_once`.

    Raises:
        ReportError: There is another difference inside a cell (batch size ...), or a seed is there twice. The message
            names the runs.
    """
    entries = [_Entry(run) for run in runs]
    for key in by:
        if not any(key in e.flat for e in entries):
            raise ReportError(f"no run has a key {key!r} in its configuration")
    for same in _groups(entries, lambda e: (e.kind, e.task)):
        own = kinds.of(same[0].kind).rows
        without = (*own, *MEASURING)
        keys = _differing(same, lambda key, but=without: (key.startswith("task.") and key not in but) or key in by)
        for e in same:
            e.task += e.options(keys, ", ")
    for same in _groups(entries, lambda e: (e.kind, e.task, e.estimator)):
        own = kinds.of(same[0].kind).rows
        keys = _differing(same, lambda key, own=own: key.startswith("estimator.") or key in own)
        for e in same:
            options, settings = e.options(keys, ""), e.options([k for k in keys if k not in RATES], "")
            e.family = f"{e.estimator} ({settings})" if settings else e.estimator
            e.estimator += f" ({options})" if options else ""
    for same in _groups(entries, lambda e: (e.kind, e.task, e.estimator)):
        for e in same if _differing(same, lambda key: key == "steps") else ():
            e.estimator = _also(e.estimator, f"steps={e.flat['steps']}")
    cells, problems = [], []
    for same in _groups(entries, lambda e: (e.kind, e.task, e.estimator)):
        first = same[0]
        for lr in sorted({r.lr for e in same for r in e.replicas}):
            replicas = _once([(e, r) for e in same for r in e.replicas if r.lr == lr])
            here = [e for e in same if any(r.run is e.run for r in replicas)]
            cell = Cell(first.kind, first.task, first.name, first.estimator, lr, tuple(replicas), first.family)
            problems += _problems(cell, here)
            cells.append(cell)
    if problems:
        raise ReportError("\n".join(dict.fromkeys(problems)))
    return sorted(cells, key=lambda c: (c.kind, natural(c.task), order(c.name), natural(c.estimator), c.lr))


def _also(label: str, option: str) -> str:
    """Return the label with one more option in its brackets."""
    return f"{label[:-1]}, {option})" if label.endswith(")") else f"{label} ({option})"


def best(cells: list[Cell]) -> tuple[list[Cell], str | None]:
    """Return one cell an estimator, see `longest` and `choose`, and the rule in words, where one was needed.

    Cells without an evaluation are left out. A longer run that has not ended goes before shorter ones that have, once
    it has come as far as they.
    """
    groups = _groups([c for c in cells if c.steps], lambda c: (c.kind, c.task, c.family or c.estimator))
    chosen = [choose(longest(same)) for same in groups]
    return [cell for cell, _ in chosen], next((rule for _, rule in chosen if rule), None)


def longest(cells: list[Cell]) -> list[Cell]:
    """Return the cells that were planned to be as long as the one that came furthest."""
    furthest = max(cells, key=lambda c: c.steps)
    return [c for c in cells if c.steps and c.planned == furthest.planned] or cells


def choose(cells: list[Cell]) -> tuple[Cell, str | None]:
    """Return the cell with the best final value, and the rule in words if there was a choice.

    Finished cells go first, among them those with most seeds, and among these the ones that have a value in the first
    of the rule's metrics; the next metrics choose among cells that are level.
    """
    cells = [c for c in cells if c.finished] or cells
    cells = [c for c in cells if len(c.replicas) == max(len(each.replicas) for each in cells)]
    if len(cells) == 1:
        return cells[0], None
    sign, metrics, rule = kinds.of(cells[0].kind).best
    for metric in metrics:
        scores = np.array([sign * _score(c, metric) for c in cells])
        if np.isfinite(scores).any():
            cells = [cell for cell, score in zip(cells, scores, strict=True) if score == np.nanmax(scores)]
    return cells[0], rule


def _score(cell: Cell, metric: str) -> float:
    """Return the mean over seeds at the last step, NaN if one has none; signs before the name are as in `Kind.best`."""
    values = cell.last(metric.lstrip("-#"))
    values = np.isfinite(values) if metric.startswith("#") else values
    return (-1 if metric.startswith("-") else 1) * float(values.mean()) if len(values) else float("nan")


def _once(found: list[tuple[_Entry, Replica]]) -> list[Replica]:
    """Return the replicas by seed, without those that another repeats.

    Runs that differ in nothing but `MEASURING` and eval_every train alike. Of their replicas of one seed the one counts
    that is done, then the one with most measurements of the variance, then of the bound on all validation images.
    """
    kept, measured = [], (*MEASURING, "eval_every")
    for same in _groups(found, lambda it: it[1].seed):
        others = _differing([e for e, _ in same], lambda key: key not in measured)
        ways = {tuple(e.flat.get(key) for key in measured) for e, _ in same}
        replicas = [r for _, r in same]
        kept += replicas if others or len(ways) < len(same) else [max(replicas, key=_progress)]
    return sorted(kept, key=lambda r: r.seed)


def _progress(replica: Replica) -> tuple[bool, bool, int, int, int]:
    measured = (series([replica], metric)[1] for metric in ("grad/log_variance", "valid/bound100_full"))
    variances, bounds = (int(np.isfinite(values).sum()) for values in measured)
    return replica.status == DONE, replica.status != FAILED, variances, bounds, replica.last_step


class _Entry:
    """A run on its way into cells: flat configuration and the labels so far."""

    def __init__(self, run: Run):
        self.run, self.replicas = run, run.replicas()
        self.flat = identity.flatten({k: v for k, v in run.config.items() if k not in APART})
        task = run.config["task"]
        kind = kinds.of_task(task)
        self.kind, named = kind.name, kind.label or run.task
        self.task = named.format_map(_Unset(task))
        self.estimator = self.name = kind.estimator(task) or run.estimator
        self.named = {f"task.{key}" for key in re.findall(r"{(\w+)}", named)}

    def options(self, keys: list[str], lead: str) -> str:
        """Write ``key=value`` of the keys that no label names yet and that are not null."""
        values = {key: self.flat.get(key) for key in keys if key not in self.named}
        parts = [f"{key.split('.', 1)[-1]}={text(value)}" for key, value in values.items() if value is not None]
        return lead + ", ".join(parts) if parts else ""


class _Unset(dict):
    def __missing__(self, key):
        return "?"


def _groups(items: list, key) -> list[list]:
    groups: dict[Any, list] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def text(value: Any) -> str:
    """Write a configured value as labels show it: 1 for 1.0, ``unset`` for null."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else "unset" if value is None else json.dumps(value)


def _differing(entries: list[_Entry], which) -> list[str]:
    """Return the keys that do not have one value in all entries."""
    keys = dict.fromkeys(key for e in entries for key in e.flat if which(key))
    return [key for key in keys if len({text(e.flat.get(key)) for e in entries}) > 1]


def _problems(cell: Cell, entries: list[_Entry]) -> list[str]:
    """Return why these runs may not share the cell."""
    where = f"{cell.task}, {cell.estimator}, lr {cell.lr:g}"
    paths = ", ".join(str(e.run.path) for e in entries)
    keys = _differing(entries, lambda key: key not in MEASURING)
    if keys:
        values = [f"{key}: {', '.join(dict.fromkeys(text(e.flat.get(key)) for e in entries))}" for key in keys]
        return [
            f"runs of different configurations in one cell ({where}): {paths} differ in {'; '.join(values)}. "
            f"Report on them separately, or tell them apart with --by {','.join(keys)}"
        ]
    seeds = [r.seed for r in cell.replicas]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return [f"seed {seed} is there twice ({where}): {paths}" for seed in twice]
