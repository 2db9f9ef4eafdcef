"""A folder of results as a source of runs: evaluations and provenance, written from run folders and read back as runs.

    curves.csv        one line for each run, replica and evaluation: run, seed, lr, step, failed, then the metrics
    provenance.json   experiment, budget, what was not run; of every run its configuration and meta.json
    relaxations.json  c(z(u)) of the toy's estimators, for Figure 1; where there are any

Tables and figures are made from what `read` gives, never from the run folders, so they can be made again from these
files alone. Numbers are kept to nine digits; of a run with more than `EVALUATIONS` evaluations every n-th and the last
stay. Paths of a machine are left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relax_exp.config.added_keys import completed
from relax_exp.config.identity import PATH_KEYS
from relax_exp.errors import ReportError
from relax_exp.report.runs import (
    CURVES,
    EMPTY_RUN,
    PROVENANCE,
    RELAXATIONS,
    Run,
    find_folders,
    find_incomplete,
    find_results,
    read_json,
    read_run,
)

KEYS = ("run", "seed", "lr", "step", "failed")
WORDS = ("run", "failed", "part", "estimator", "schedule", "problem", "verdict", "needs")  # columns that hold text
UNUSED = re.compile(r"estimator/(?!eta$|penalty$).*|train/loss|grad/mean_log_variance")  # by tables and figures
EVALUATIONS = 200


def write(runs: Sequence[Run], folder: Path, **about: Any) -> list[Path]:
    """Write the runs into ``folder``, with ``about`` at the head of its provenance, and return the paths written.

    Raises:
        ReportError: Two runs have one label.
    """
    labels = [run.label for run in runs]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ReportError(f"two runs are called {', '.join(sorted(twice))}: rename one of the folders")
    runs = sorted(runs, key=lambda run: run.label)
    provenance = {
        **about,
        "runs": {run.label: {"config": without_paths(run.config), "meta": _meta(run.meta)} for run in runs},
    }
    texts = {CURVES: _csv(runs), PROVENANCE: json.dumps(provenance, indent=1) + "\n"}
    relaxations = {run.label: _short(run.curves, 6) for run in runs if run.curves}
    if relaxations:
        texts[RELAXATIONS] = json.dumps(relaxations) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELAXATIONS).unlink(missing_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def read(folder: Path) -> tuple[dict[str, Any], list[Run]]:
    """Return what is said about the results in ``folder``, and their runs.

    Raises:
        ReportError: A file is damaged. The message names it.
    """
    about = read_json(folder / PROVENANCE)
    relaxations = read_json(folder / RELAXATIONS) if (folder / RELAXATIONS).is_file() else {}
    rows: dict[str, list[dict[str, Any]]] = {label: [] for label in about.get("runs", {})}
    try:
        with open(folder / CURVES, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows[row.pop("run")].append({k: _value(k, text) for k, text in row.items() if text != ""})
        runs = [
            Run(folder / label, completed(known["config"]), known["meta"], rows[label], relaxations.get(label, {}))
            for label, known in about.pop("runs").items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"cannot read {folder / CURVES}: {type(error).__name__}: {error}") from None
    return about, runs


def _csv(runs: list[Run]) -> str:
    rows = [{"run": run.label, **row} for run in runs for row in _thinned(run.rows)]
    metrics = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in KEYS]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = [*KEYS, *(key for key in metrics if not UNUSED.fullmatch(key))]
    writer.writerow(fields)
    writer.writerows([_text(row.get(key)) if key != "lr" else row.get(key, "") for key in fields] for row in rows)
    return out.getvalue()


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `EVALUATIONS` steps, the last of each replica, and rows that say why a replica failed."""
    steps = sorted({row["step"] for row in rows if "step" in row})
    every = -(-len(steps) // EVALUATIONS) or 1
    kept = set(steps[every - 1 :: every])
    last = {_curve(row): i for i, row in enumerate(rows)}.values()
    ends = {*last, *(i for i, row in enumerate(rows) if "failed" in row or "step" not in row)}
    return [row for i, row in enumerate(rows) if i in ends or row["step"] in kept]


def _curve(row: dict[str, Any]) -> tuple:
    return tuple(row.get(key) for key in ("seed", "lr", *WORDS))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(_short(value))
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _value(key: str, text: str) -> Any:
    if key in WORDS:
        return text
    if key in ("seed", "step"):
        return int(text)
    return json.loads(text) if text.startswith("[") else float(text)


def _short(value: Any, digits: int = 9) -> Any:
    """Return the value with every float in it rounded to so many digits."""
    if isinstance(value, dict):
        return {k: _short(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration without paths of the machine: of an estimator's file elsewhere, its name stays."""
    kept = {**config, **{key: None for key in PATH_KEYS if key in config}}
    path = Path(config["estimator"].get("path") or "")
    return {**kept, "estimator": {**config["estimator"], "path": path.name}} if _elsewhere(str(path)) else kept


def _elsewhere(path: str) -> bool:
    """Tell whether a path says where on a machine it is."""
    return path.startswith(("/", "~"))


def _meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Return meta.json without absolute paths in the command."""
    words = meta.get("command") or ""
    words = words if isinstance(words, list) else shlex.split(words)
    keys = "|".join(map(re.escape, PATH_KEYS))
    typed = [(word, re.fullmatch(rf"\+*({keys})=[\"']?(.*?)[\"']?", word)) for word in words]
    kept = [
        word if not key or not _elsewhere(key[2]) else f"{key[1]}={Path(key[2]).name}"
        for word, key in typed
        if not key or not _elsewhere(key[2]) or key[1] == "estimator.path"
    ]
    kept = [re.sub(r"^\S*/(?=relax-exp$)", "", kept[0]), *kept[1:]] if kept else kept
    return {**meta, **({"command": shlex.join(kept)} if kept else {})}


def gather(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Return the runs at the paths or below, and a sentence for each that was left out, with the reason.

    Where a path has no run folders, the runs of its folders of results are meant.

    Raises:
        ReportError: A path does not exist, or a folder of results is damaged.
    """
    runs, left_out = [], []
    for path in paths:
        folders = find_folders([path])
        for folder in folders:
            try:
                run = read_run(folder, left_out)
            except ReportError as error:
                left_out.append(f"left out {folder}: {error}")
                continue
            if run.empty:
                left_out.append(f"left out {folder}: {EMPTY_RUN}")
            else:
                runs.append(run)
        if not folders:
            runs += [run for folder in find_results([path]) for run in read(folder)[1]]
    return list({run.path.resolve(): run for run in runs}.values()), list(
        dict.fromkeys([*left_out, *find_incomplete(paths)])
    )
