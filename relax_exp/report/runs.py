"""Run folders, read as plain data. Nothing here writes, and nothing imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from relax_exp.config.added_keys import completed
from relax_exp.errors import ReportError
from relax_exp.run_files import CONFIG, DONE, FAILED, M_SAMPLE_LAW, META, METRICS, RELAXATION, TABLE, TUNED

MEASURED = TABLE, M_SAMPLE_LAW, TUNED  # rows of a run that measures, and may train on the side
CURVES, PROVENANCE, RELAXATIONS = "curves.csv", "provenance.json", "relaxations.json"  # of a folder of results
EMPTY_RUN = "it says that it is done, but has no evaluations"
NO_VARIANCE = -80.0  # a log-variance below stands for none at all: the logarithm of the smallest float32 is -87.3


@dataclass(frozen=True, eq=False)
class Replica:
    """One seed at one learning rate of a run: its status, and its rows of `metrics.jsonl` by step."""

    run: Run
    seed: int
    lr: float
    status: str
    reason: str | None
    rows: dict[int, dict[str, Any]]

    @property
    def last_step(self) -> int:
        """The step of the last evaluation; 0 before the first."""
        return max(self.rows, default=0)

    def value(self, metric: str, step: int) -> float:
        """Return the metric at that step, the mean where it is a list, NaN where it is null or missing."""
        value = self.rows.get(step, {}).get(metric)
        if isinstance(value, list):
            value = sum(value) / len(value) if value and None not in value else None
        return float("nan") if value is None else float(value)


@dataclass(frozen=True, eq=False)
class Run:
    """A run: its folder, resolved configuration, `meta.json` and evaluations.

    ``curves`` is `curves.json` of a toy run, with u, theta, f and the learned relaxation of each replica; empty where
    absent.
    """

    path: Path
    config: dict[str, Any]
    meta: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name for tables: the last two parts of the path."""
        return "/".join(self.path.resolve().parts[-2:])

    @property
    def task(self) -> str:
        """The task's name."""
        return self.config["task"]["name"]

    @property
    def estimator(self) -> str:
        """The estimator's name."""
        return self.config["estimator"]["name"]

    @property
    def status(self) -> str:
        """What meta.json says: running, interrupted, done or failed."""
        return self.meta.get("status", "unknown")

    @property
    def step(self) -> int:
        """The last step that has an evaluation."""
        return max((row["step"] for row in self.rows if "step" in row), default=0)

    @property
    def trained_at_once(self) -> int:
        """How many replicas share the time of the run: its own, and those of the runs trained together with it."""
        return len(self.replicas()) * len(self.meta.get("trained_together", ["itself"]))

    @property
    def empty(self) -> bool:
        """True where it says that it is done, but has no evaluations."""
        return self.status == DONE and not self.rows

    def replicas(self) -> list[Replica]:
        """Return every replica as `meta.json` lists them, else the configuration's grid of seeds and rates."""
        grid = [{"seed": s, "lr": lr} for s in self.config.get("seeds", []) for lr in self.config.get("lrs", [])]
        rows: dict[tuple[int, float], dict[int, dict]] = {}
        for row in filter(lambda row: {"seed", "lr"} <= row.keys(), self.rows):  # those of a study belong to no replica
            rows.setdefault((row["seed"], float(row["lr"])), {})[row["step"]] = row
        out = []
        for entry in self.meta.get("replicas") or grid:
            seed, lr, status = entry["seed"], float(entry["lr"]), entry.get("status") or self.status
            if status not in (DONE, FAILED):
                status = self.status if self.status != DONE else status  # a replica runs no longer than its run
            reason = entry.get("reason") or (self.meta.get("reason") if status == FAILED else None)
            out.append(Replica(self, seed, lr, status, reason, rows.get((seed, lr), {})))
        return out


def find_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Return the run folders among the paths and anywhere below them, each once, sorted.

    Raises:
        ReportError: A path does not exist.
    """
    return _find(paths, CONFIG, META)


def _find(paths: Iterable[str | Path], *marks: str) -> list[Path]:
    """Return the folders that hold these files."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise ReportError(f"no such folder: {path}")
        for folder, below, files in os.walk(path):
            if set(marks) <= set(files):
                found.setdefault(Path(folder).resolve(), Path(folder))
                below.clear()
    return sorted(found.values())


def find_results(paths: Iterable[str | Path]) -> list[Path]:
    """Return the folders of results (`relax_exp.report.archive`) among the paths and below.

    Raises:
        ReportError: A path does not exist.
    """
    return _find(paths, PROVENANCE, CURVES)


def find_incomplete(paths: Iterable[str | Path]) -> list[str]:
    """Say of every folder at the paths or below that it is a run's, but has no configuration or no status."""
    folders = {file.parent for path in paths for name in (METRICS, META) for file in Path(path).rglob(name)}
    missing = {folder: [name for name in (CONFIG, META) if not (folder / name).is_file()] for folder in sorted(folders)}
    return [f"left out {folder}: it has no {' and no '.join(names)}" for folder, names in missing.items() if names]


def read_run(path: str | Path, left_out: list[str] | None = None) -> Run:
    """Read one run folder; a torn last line is left out, and so are damaged ones where ``left_out`` is to name them.

    Raises:
        ReportError: A file cannot be read. The message names it.
    """
    path = Path(path)
    try:
        config = completed(yaml.safe_load((path / CONFIG).read_text(encoding="utf-8")))
        _ = config["task"]["name"], config["estimator"]["name"]
    except Exception as error:
        problem = " ".join(str(error).split())
        raise ReportError(f"cannot read {path / CONFIG}: {type(error).__name__}: {problem}") from None
    curves = path / RELAXATION
    rows = _rows(path / METRICS, left_out) or [row for name in MEASURED for row in _measured(path / name)]
    return Run(path, config, read_json(path / META), rows, read_json(curves) if curves.is_file() else {})


def read_json(path: Path, kind: type | tuple[type, ...] = dict) -> Any:
    """Return the object (or what ``kind`` says) in a JSON file.

    Raises:
        ReportError: There is none. The message names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"cannot read {path}: {error}") from None
    if not isinstance(value, kind):
        raise ReportError(f"cannot read {path}: expected an object")
    return value


def _rows(path: Path, left_out: list[str] | None) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`; none where there is no file yet. See `read_run` for damaged ones."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # the last is empty, or being written
        try:
            row = json.loads(line)
            _ = row["step"], row["seed"], row["lr"]
        except (ValueError, KeyError, TypeError):
            if left_out is None:
                raise ReportError(f"cannot read {path}: line {number} is damaged") from None
            left_out.append(f"left out line {number} of {path}: it is damaged")
            continue
        rows.append(row)
    return rows


def _measured(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a study's file, with the name of their table as ``part``; none where there is no file."""
    if not path.is_file():
        return []
    tables = read_json(path, (dict, list))
    if isinstance(tables, list):
        tables = {path.stem: tables}
    if path.name == M_SAMPLE_LAW:
        tables = {"law": [{"samples": int(m), "variance": variance} for m, variance in tables.items()]}
    return [{"part": part, **row} for part, rows in tables.items() for row in rows]


def series(replicas: list[Replica], metric: str, until: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return steps ``(S,)`` and values ``(S, replicas)`` of a metric up to a step; NaN where a replica has no value."""
    steps = sorted({step for replica in replicas for step in replica.rows if until is None or step <= until})
    values = [[replica.value(metric, step) for replica in replicas] for step in steps]
    return np.array(steps, dtype=int), np.array(values, dtype=float).reshape(len(steps), len(replicas))
