"""Tables from cells, as Markdown and CSV: mean and 95% t interval over seeds, and what did not finish."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relax_exp.report.cells import FIXED_THETA, Cell, make_cells
from relax_exp.report.read import FAILED, NO_VARIANCE, read_run

NEAR = 0.1  # a toy replica found the optimum if every theta is this close to it
EMPTY = "–"


class Column(NamedTuple):
    """A column: its header, and of a cell the text for readers and the numbers for `table.csv`."""

    header: str
    of: Callable[[Cell], tuple[str, dict[str, float | int | str]]]


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float | None]:
    """Mean and half the width of its t interval; None with fewer than two values. NaNs are left out."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else float("nan")), None
    from scipy.stats import t

    return float(values.mean()), float(t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / n**0.5)


def show(values: np.ndarray, decimals: int = 2) -> str:
    """``mean ± half``, with the number of values where some are missing."""
    mean, half = interval(values)
    if np.isnan(mean):
        return EMPTY
    n, missing = len(values), int((~np.isfinite(values)).sum())
    text = f"{mean:.{decimals}f}" + (f" ± {half:.{decimals}f}" if half is not None else "")
    return f"{text} ({n - missing} of {n} seeds)" if missing else text


def numbers(key: str, values: np.ndarray) -> dict[str, float]:
    """Mean and half width for `table.csv`."""
    mean, half = interval(values)
    return {key: mean, f"{key} ±": float("nan") if half is None else half}


def average(header: str, key: str, of: Callable[[Cell], np.ndarray], scale: float = 1.0) -> Column:
    """The column of a number that every seed has; `scale` is for readers only."""
    return Column(header, lambda cell: (show(scale * of(cell)), numbers(key, of(cell))))


def final(header: str, metric: str, scale: float = 1.0) -> Column:
    """The column of a metric at the last step."""
    return average(header, metric, last(metric), scale)


def log_variance(header: str, key: str, of: Callable[[Cell], np.ndarray]) -> Column:
    """`average` of a log-variance, which is −∞ where the gradient has none."""

    def text(cell: Cell) -> str:
        values = of(cell)
        return "−∞" if len(values) and (values <= NO_VARIANCE).all() else show(values)

    return Column(header, lambda cell: (text(cell), numbers(key, of(cell))))


def over_the_run(metric: str) -> Callable[[Cell], np.ndarray]:
    """The metric's mean over all evaluations, for each seed."""

    def of(cell: Cell) -> np.ndarray:
        _, values = cell.series(metric)
        return np.array([v[np.isfinite(v)].mean() if np.isfinite(v).any() else np.nan for v in values.T])

    return of


def first(metric: str) -> Callable[[Cell], np.ndarray]:
    """The metric at the first evaluation, for each seed."""
    return lambda cell: next(iter(cell.series(metric)[1]), np.empty(0))


def last(metric: str) -> Callable[[Cell], np.ndarray]:
    """The metric at the last step, for each seed."""
    return lambda cell: cell.last(metric)


def theta(cell: Cell) -> tuple[str, dict]:
    """Median over seeds."""
    values = cell.last("theta")
    values = values[np.isfinite(values)]
    median = float(np.median(values)) if len(values) else float("nan")
    return (EMPTY if np.isnan(median) else f"{median:.3f}"), {"median theta": median}


def found(cell: Cell) -> tuple[str, dict]:
    """How many seeds have every theta near the optimum: 0, or 1 where t > 1/2."""
    optimum = float(cell.counted[0].run.config["task"].get("t", 0) > 0.5) if cell.counted else 0.0
    final = [np.atleast_1d(r.rows.get(cell.steps, {}).get("theta")) for r in cell.counted]
    final = [thetas.astype(float) for thetas in final if thetas[0] is not None]
    near = sum(bool((abs(thetas - optimum) < NEAR).all()) for thetas in final)
    return (f"{near} of {len(final)}" if final else EMPTY), {"seeds at the optimum": near}


def validation(header: str, metric: str) -> Column:
    """On all validation images where every seed has that at the last step, else on the first of them, marked †."""

    def of(cell: Cell) -> tuple[str, dict]:
        full, part = cell.last(f"{metric}_full"), cell.last(metric)
        csv = numbers(f"{metric}_full", full) | numbers(metric, part)
        if len(full) and np.isfinite(full).all():
            return show(full), csv
        return show(part) if show(part) == EMPTY else f"{show(part)} †", csv

    return Column(header, of)


def wall_time(cell: Cell) -> tuple[str, dict]:
    """Of the program, which trains all its replicas at once; the mean where there were several."""
    runs = {id(r.run): r.value("time/elapsed", cell.steps) for r in cell.counted}
    seconds, _ = interval(np.array(list(runs.values())))
    return duration(seconds), {"time/elapsed": seconds}


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if np.isnan(seconds):
        return EMPTY
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


LOG_VARIANCE, TIME = "grad/log_variance", Column("wall time", wall_time)
TITLES = {"toy": "Toy problem", FIXED_THETA: "Toy problem at fixed θ", "vae": "Binary VAE"}
COLUMNS: dict[str, list[Column]] = {
    "toy": [
        final("excess loss × 10⁴", "excess", 1e4),
        Column("median θ", theta),
        Column("seeds at optimum", found),
        log_variance("mean log-variance", "mean log-variance", over_the_run(LOG_VARIANCE)),
        TIME,
    ],
    FIXED_THETA: [
        log_variance("first log-variance", "first log-variance", first(LOG_VARIANCE)),
        log_variance("last log-variance", "last log-variance", last(LOG_VARIANCE)),
        TIME,
    ],
    "vae": [
        final("train ELBO", "train/elbo"),
        validation("valid ELBO", "valid/elbo"),
        validation("valid 100-sample bound", "valid/bound100"),
        log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
        TIME,
    ],
}
OTHER = [
    final("loss", "loss"),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    TIME,
]  # a task that has no columns of its own
COMMON = "Mean over seeds ± 95% t interval at the last step."
LOG = "Log-variance: natural log of the variance of the gradient"
NOTES = {
    "toy": f"{COMMON} Excess loss: exact expected loss above its minimum. Seeds at optimum: every θ within {NEAR:g} of "
    f"the best. {LOG}, mean over the run.",
    FIXED_THETA: f"{COMMON} Only the control variate is tuned. {LOG}, at the first and the last evaluation.",
    "vae": f"{COMMON} Nats per example, higher is better; the train ELBO is the mean since the evaluation before. "
    f"{LOG}. †: on the first 1,000 validation images.",
}
SHARED = "Wall time: of the whole run, all its seeds and learning rates."


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
