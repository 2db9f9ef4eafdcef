"""Means and intervals over seeds, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.runs import NO_VARIANCE


class Column(NamedTuple):
    """A column: its header, and a function from a cell to its text for readers and its numbers for `table.csv`.

    An ``optional`` column is left out of a table in which no cell has a value for it.
    """

    header: str
    of: Callable[[Cell], tuple[str, Mapping[str, float | int | str]]]
    optional: bool = False


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float | None]:
    """Return the mean and half the width of its t interval; None with fewer than two values. NaNs are left out."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else float("nan")), None
    from scipy.stats import t

    return float(values.mean()), float(t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / n**0.5)


def show(values: np.ndarray, decimals: int = 2) -> str:
    """Write ``mean ± half``, with the number of values where some are missing."""
    mean, half = interval(values)
    if np.isnan(mean):
        return EMPTY
    n, missing = len(values), int((~np.isfinite(values)).sum())
    text = f"{mean:.{decimals}f}" + (f" ± {half:.{decimals}f}" if half is not None else "")
    return f"{text} ({n - missing} of {n} seeds)" if missing else text


def numbers(key: str, values: np.ndarray) -> dict[str, float]:
    """Return mean and half width for `table.csv`."""
    mean, half = interval(values)
    return {key: mean, f"{key} ±": float("nan") if half is None else half}


def average(header: str, key: str, of: Callable[[Cell], np.ndarray], scale: float = 1.0, decimals: int = 2) -> Column:
    """Make the column of a number that every seed has; `scale` and `decimals` are for readers only."""
    return Column(header, lambda cell: (show(scale * of(cell), decimals), numbers(key, of(cell))))


def final(header: str, metric: str, scale: float = 1.0, decimals: int = 2) -> Column:
    """Make the column of a metric at the last step."""
    return average(header, metric, last(metric), scale, decimals)


def where_any(values: np.ndarray) -> np.ndarray:
    """Return log-variances with NaN for those of no variance at all; as they are where none has any.

    A gradient that is the same in all draws has a log-variance of −∞, and what is stored is a smallest float's: in a
    mean with others it would decide alone.
    """
    real = values > NO_VARIANCE
    return np.where(real, values, np.nan) if real.any() else values


def log_variance(header: str, key: str, of: Callable[[Cell], np.ndarray]) -> Column:
    """Make the column of a log-variance, the `average` over the seeds that have one; −∞ where none has."""
    return Column(header, lambda cell: (show_log_variance(of(cell)), numbers(key, where_any(of(cell)))))


def show_log_variance(values: np.ndarray) -> str:
    """Write mean and interval as `show` does, of seeds with any variance."""
    return "−∞" if len(values) and (values <= NO_VARIANCE).all() else show(where_any(values))


def over_the_run(cell: Cell) -> np.ndarray:
    """Return the mean log-variance of each seed over the evaluations at which it has any variance."""
    values = [where_any(v[np.isfinite(v)]) for v in cell.series(LOG_VARIANCE)[1].T]
    return np.array([np.nanmean(v) if len(v) else np.nan for v in values])


def mean_log_variance(cell: Cell) -> tuple[str, dict]:
    """Write the mean over the run, with the share of evaluations at which there was no variance, where that is some."""
    _, all_values = cell.series(LOG_VARIANCE)
    measured = all_values[np.isfinite(all_values)]
    none, values = float((measured <= NO_VARIANCE).mean()) if measured.size else 0.0, over_the_run(cell)
    text = show_log_variance(values) + (f", none in {_share(none)}" if 0 < none < 1 else "")
    csv = numbers("mean log-variance", where_any(values))
    return text, csv | ({"share without variance": none} if none else {})


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "less than 1%"


def first(metric: str) -> Callable[[Cell], np.ndarray]:
    """Return a function that takes the metric at the first evaluation, for each seed."""
    return lambda cell: next(iter(cell.series(metric)[1]), np.empty(0))


def last(metric: str) -> Callable[[Cell], np.ndarray]:
    """Return a function that takes the metric at the last step, for each seed."""
    return lambda cell: cell.last(metric)


def wall_time(cell: Cell) -> tuple[str, dict]:
    """Write the time of the program, which trains all its replicas at once; the mean where there were several."""
    runs = {id(r.run): r.value("time/elapsed", cell.steps) for r in cell.counted}
    seconds, _ = interval(np.array(list(runs.values())))
    return duration(seconds), {"time/elapsed": seconds}


def duration(seconds: float) -> str:
    """Write a time in seconds, minutes or hours."""
    if np.isnan(seconds):
        return EMPTY
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


LOG_VARIANCE, TIME = "grad/log_variance", Column("wall time", wall_time)
MEAN_LOG_VARIANCE = Column("mean log-variance", mean_log_variance)
