"""Cells: the replicas that one row of a table, or one curve, speaks for. Different configurations never share one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from relax_exp.errors import ReportError
from relax_exp.report.runs import DONE, FAILED, Replica, Run, series
from relax_exp.report.style import natural, order

# Seeds and learning rates make the replicas; the others do not change the numbers.
NOT_CONFIGURATION = ("seed", "seeds", "lr", "lrs", "out", "data_root", "device", "threads", "compile", "tf32", "track")
RATES = ("estimator.lr_scale",)  # keys that are tuned as the learning rate is
VARIANCES = ("task.variance_every", "task.variance_draws")  # keys that change what is measured and no training
OF_ESTIMATORS = {  # keys of a task that make rows of one table, as the estimator's own do
    "categorical_vae": ("task.relaxed",),
    "sequence": ("task.relaxed", "task.categories"),
    "continuous": ("task.surrogate_updates",),
}
NO_LATENTS = "no latents"
FIXED_THETA = "fixed_theta"
# What the learning rate is chosen by, where a figure has room for one: (sign, metrics, in words). Each metric chooses
# among those that are level in the ones before; "-": less is better, "#": the share of seeds that have a value.
BEST = {
    "toy": (-1, ("excess", "loss"), "final exact loss"),
    "vae": (1, ("valid/bound100_full", "valid/bound100", "valid/elbo", "train/elbo"), "final validation bound"),
    FIXED_THETA: (-1, ("grad/log_variance",), "final log-variance"),
}
BEST["sequence"] = (-1, ("valid/bpc100",), "final bits per character")
BEST |= {"categorical_toy": BEST["toy"], "lax_toy": BEST["toy"], "categorical_vae": BEST["vae"]}
BEST["cartpole"] = (
    1,
    ("-solved_episodes", "#solved_episodes", "return100"),
    "number of episodes to solve, of rates at which all seeds do; if there are none, number of seeds that solve it, "
    "then last mean return",
)
BEST["continuous"] = BEST["cartpole"]
BEST["atari"] = (1, ("eval/return", "return100"), "final score")
NAMED = {  # a task's label: words and configured values
    "toy": "toy t={t}",
    "vae": "{dataset} {model}",
    "categorical_toy": "{problem}",
    "lax_toy": "Gaussian, {problem}",
    "sequence": "text, order {order}",
    "cartpole": "{env}",
    "continuous": "{env}",
    "atari": "{env}",
    "categorical_vae": "{dataset} {layers}x{variables}x{categories}",
}


@dataclass(frozen=True, eq=False)
class Cell:
    """Replicas of one configuration at one learning rate. ``kind``: of table; ``task``, ``estimator``: labels."""

    kind: str
    task: str
    name: str
    estimator: str
    lr: float
    replicas: tuple[Replica, ...]
    family: str = ""  # the estimator's label without its rates: cells that differ in `RATES` and lr only share it

    @cached_property
    def counted(self) -> list[Replica]:
        """The replicas behind the numbers: those that are done, or while none is, those that have not failed."""
        done = [r for r in self.replicas if r.status == DONE]
        return done or [r for r in self.replicas if r.status != FAILED]

    @property
    def finished(self) -> bool:
        """Whether the numbers are those of finished replicas."""
        return any(r.status == DONE for r in self.replicas)

    @cached_property
    def steps(self) -> int:
        """The last step that all counted replicas have reached."""
        return min((r.last_step for r in self.counted), default=0)

    @property
    def planned(self) -> int:
        """The steps asked for."""
        return self.replicas[0].run.config.get("steps", 0)

    @property
    def runs(self) -> list[Run]:
        """The folders that the replicas come from."""
        return list({id(r.run): r.run for r in self.replicas}.values())

    def series(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(S,)`` and values ``(S, seeds)`` of the counted replicas."""
        return series(self.counted, metric, self.steps)

    def last(self, metric: str) -> np.ndarray:
        """The metric at the last step, one value a seed."""
        return np.array([r.value(metric, self.steps) for r in self.counted], dtype=float)

    @property
    def status(self) -> str:
        """``done``, or what is missing."""
        others = [r for r in self.replicas if r.status != DONE]
        if not others:
            return DONE
        parts = [f"{len(self.replicas) - len(others)} of {len(self.replicas)} done"] if self.finished else []
        for status in dict.fromkeys(r.status for r in others):
            which = [r for r in others if r.status == status]
            seeds = f"seed{'s' * (len(which) > 1)} {', '.join(str(r.seed) for r in which)} "
            at = "" if status == FAILED else f" at {max(r.last_step for r in which):,} of {self.planned:,}"
            parts.append(f"{seeds if self.finished or len(which) < len(others) else ''}{status}{at}")
        return "; ".join(parts)


def make_cells(runs: Iterable[Run], by: Sequence[str] = ()) -> list[Cell]:
    """Cells of the runs, sorted. Keys named in `by` tell tasks apart too; other differences are refused, by name.

    Configurations are compared without seeds, learning rates and `VARIANCES`. Where they differ in the task's keys the
    task's label says so, where they differ in the estimator's keys, the estimator's; keys that are null are not named.
    Any other difference inside a cell (steps, batch size ...), or a seed that is there twice, is a `ReportError` that
    names the runs. Of runs that repeat one another and differ in what they measured, one counts, see `_once`.
    """
    entries = [_Entry(run) for run in runs]
    for key in by:
        if not any(key in e.flat for e in entries):
            raise ReportError(f"no run has a key {key!r} in its configuration")
    for same in _groups(entries, lambda e: (e.kind, e.task)):
        own = OF_ESTIMATORS.get(same[0].kind, ())
        without = (*own, *VARIANCES)
        keys = _differing(same, lambda key, but=without: (key.startswith("task.") and key not in but) or key in by)
        for e in same:
            e.task += e.options(keys, ", ")
    for same in _groups(entries, lambda e: (e.kind, e.task, e.estimator)):
        own = OF_ESTIMATORS.get(same[0].kind, ())
        keys = _differing(same, lambda key, own=own: key.startswith("estimator.") or key in own)
        for e in same:
            options, settings = e.options(keys, ""), e.options([k for k in keys if k not in RATES], "")
            e.family = f"{e.estimator} ({settings})" if settings else e.estimator
            e.estimator += f" ({options})" if options else ""
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


def best(cells: list[Cell]) -> tuple[list[Cell], str | None]:
    """One cell an estimator, see `choose`; and the rule in words, where one was needed. Cells without an evaluation
    are left out."""
    groups = _groups([c for c in cells if c.steps], lambda c: (c.kind, c.task, c.family or c.estimator))
    chosen = [choose(same) for same in groups]
    return [cell for cell, _ in chosen], next((rule for _, rule in chosen if rule), None)


def choose(cells: list[Cell]) -> tuple[Cell, str | None]:
    """The cell with the best final value, and the rule in words if there was a choice.

    Finished cells go first, and so do those that have a value in the first of the rule's metrics; the next metrics
    choose among cells that are level.
    """
    cells = [c for c in cells if c.finished] or cells
    if len(cells) == 1:
        return cells[0], None
    sign, metrics, rule = BEST.get(cells[0].kind, (-1, ("loss",), "final loss"))
    for metric in metrics:
        scores = np.array([sign * _score(c, metric) for c in cells])
        if np.isfinite(scores).any():
            cells = [cell for cell, score in zip(cells, scores, strict=True) if score == np.nanmax(scores)]
    return cells[0], rule


def _score(cell: Cell, metric: str) -> float:
    """The mean over seeds at the last step, NaN if one has none; signs before the name as in `BEST`."""
    values = cell.last(metric.lstrip("-#"))
    values = np.isfinite(values) if metric.startswith("#") else values
    return (-1 if metric.startswith("-") else 1) * float(values.mean()) if len(values) else float("nan")


def _once(found: list[tuple[_Entry, Replica]]) -> list[Replica]:
    """The replicas by seed, those left out that another repeats.

    Runs that differ in nothing but `VARIANCES` and eval_every train alike. Of their replicas of one seed the one counts
    that is done, then the one with most measurements of the variance.
    """
    kept, measured = [], (*VARIANCES, "eval_every")
    for same in _groups(found, lambda it: it[1].seed):
        others = _differing([e for e, _ in same], lambda key: key not in measured)
        ways = {tuple(e.flat.get(key) for key in measured) for e, _ in same}
        replicas = [r for _, r in same]
        kept += replicas if others or len(ways) < len(same) else [max(replicas, key=_progress)]
    return sorted(kept, key=lambda r: r.seed)


def _progress(replica: Replica) -> tuple[bool, bool, int, int]:
    _, variances = series([replica], "grad/log_variance")
    status = replica.status
    return status == DONE, status != FAILED, int(np.isfinite(variances).sum()), replica.last_step


class _Entry:
    """A run on its way into cells: flat configuration and the labels so far."""

    def __init__(self, run: Run):
        self.run, self.replicas, self.flat = run, run.replicas(), flatten(run.config)
        task = run.config["task"]
        frozen = run.task == "toy" and bool(task.get("freeze"))
        self.kind = FIXED_THETA if frozen else run.task
        named = NAMED.get(run.task, run.task)
        self.task = named.format_map(_Unset(task))
        empty = run.task == "sequence" and task.get("categories") == 1
        self.estimator = self.name = NO_LATENTS if empty else run.estimator
        self.named = {f"task.{key}" for key in re.findall(r"{(\w+)}", named)}

    def options(self, keys: list[str], lead: str) -> str:
        """``key=value`` of the keys that no label names yet and that are not null."""
        values = {key: self.flat.get(key) for key in keys if key not in self.named}
        parts = [f"{key.split('.', 1)[-1]}={text(value)}" for key, value in values.items() if value is not None]
        return lead + ", ".join(parts) if parts else ""


class _Unset(dict):
    def __missing__(self, key):
        return "?"


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration as ``{"task.t": 0.499}``, without what `NOT_CONFIGURATION` lists."""
    flat = {}
    for key, value in config.items():
        if not prefix and key in NOT_CONFIGURATION:
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _groups(items: list, key) -> list[list]:
    groups: dict[Any, list] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def text(value: Any) -> str:
    """A configured value as labels show it: 1 for 1.0, ``unset`` for null."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else "unset" if value is None else json.dumps(value)


def _differing(entries: list[_Entry], which) -> list[str]:
    """The keys that do not have one value in all entries."""
    keys = dict.fromkeys(key for e in entries for key in e.flat if which(key))
    return [key for key in keys if len({text(e.flat.get(key)) for e in entries}) > 1]


def _problems(cell: Cell, entries: list[_Entry]) -> list[str]:
    """Why these runs may not share the cell."""
    where = f"{cell.task}, {cell.estimator}, lr {cell.lr:g}"
    paths = ", ".join(str(e.run.path) for e in entries)
    keys = _differing(entries, lambda key: key not in VARIANCES)
    if keys:
        values = [f"{key}: {', '.join(dict.fromkeys(text(e.flat.get(key)) for e in entries))}" for key in keys]
        return [
            f"runs of different configurations in one cell ({where}): {paths} differ in {'; '.join(values)}. "
            f"Report on them separately, or tell them apart with --by {','.join(keys)}"
        ]
    seeds = [r.seed for r in cell.replicas]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return [f"seed {seed} is there twice ({where}): {paths}" for seed in twice]
