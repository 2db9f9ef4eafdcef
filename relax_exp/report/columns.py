"""Columns of the tables, by kind of cell: what is averaged over seeds, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from relax_exp.report.cells import FIXED_THETA, Cell
from relax_exp.report.markup import EMPTY
from relax_exp.report.read import NO_VARIANCE
from relax_exp.report.solving import solved

NEAR = 0.1  # a toy replica found the optimum if every theta is this close to it


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


def average(header: str, key: str, of: Callable[[Cell], np.ndarray], scale: float = 1.0, decimals: int = 2) -> Column:
    """The column of a number that every seed has; `scale` and `decimals` are for readers only."""
    return Column(header, lambda cell: (show(scale * of(cell), decimals), numbers(key, of(cell))))


def final(header: str, metric: str, scale: float = 1.0, decimals: int = 2) -> Column:
    """The column of a metric at the last step."""
    return average(header, metric, last(metric), scale, decimals)


def where_any(values: np.ndarray) -> np.ndarray:
    """Log-variances with NaN for those of no variance at all; as they are where none has any.

    A gradient that is the same in all draws has a log-variance of −∞, and what is stored is a smallest float's: in a
    mean with others it would decide alone.
    """
    real = values > NO_VARIANCE
    return np.where(real, values, np.nan) if real.any() else values


def log_variance(header: str, key: str, of: Callable[[Cell], np.ndarray]) -> Column:
    """`average` of a log-variance over the seeds that have one; −∞ where none has."""
    return Column(header, lambda cell: (show_log_variance(of(cell)), numbers(key, where_any(of(cell)))))


def show_log_variance(values: np.ndarray) -> str:
    """As `show`, of seeds with any variance."""
    return "−∞" if len(values) and (values <= NO_VARIANCE).all() else show(where_any(values))


def over_the_run(cell: Cell) -> np.ndarray:
    """The mean log-variance of each seed over the evaluations at which it has any variance."""
    values = [where_any(v[np.isfinite(v)]) for v in cell.series(LOG_VARIANCE)[1].T]
    return np.array([np.nanmean(v) if len(v) else np.nan for v in values])


def mean_log_variance(cell: Cell) -> tuple[str, dict]:
    """Over the run, with the share of evaluations at which the gradient had none, where that is some."""
    _, all_values = cell.series(LOG_VARIANCE)
    measured = all_values[np.isfinite(all_values)]
    none, values = float((measured <= NO_VARIANCE).mean()) if measured.size else 0.0, over_the_run(cell)
    text = show_log_variance(values) + (f", none in {none:.0%}" if 0 < none < 1 else "")
    csv = numbers("mean log-variance", where_any(values))
    return text, csv | ({"share without variance": none} if none else {})


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


def relaxed(cell: Cell) -> tuple[str, dict]:
    """The relaxed objective that was trained, with its name; empty for estimators that train none."""
    for kind in ("elbo", "kl", "density"):
        values = cell.last(f"train/relaxed_{kind}")
        if np.isfinite(values).any():
            return f"{show(values)} ({kind})", numbers(f"train/relaxed_{kind}", values)
    return EMPTY, {}


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
MEAN_LOG_VARIANCE = Column("mean log-variance", mean_log_variance)
TITLES = {
    "toy": "Toy problem",
    FIXED_THETA: "Toy problem at fixed θ",
    "vae": "Binary VAE",
    "categorical_toy": "Categorical toy problem",
    "lax_toy": "Continuous toy problem",
    "categorical_vae": "Categorical VAE",
    "sequence": "Text with latents over time",
    "cartpole": "Control with few actions",
    "continuous": "Control with continuous actions",
    "atari": "Atari games",
}
COLUMNS: dict[str, list[Column]] = {
    "toy": [
        final("excess loss × 10⁴", "excess", 1e4),
        Column("median θ", theta),
        Column("seeds at optimum", found),
        MEAN_LOG_VARIANCE,
        TIME,
    ],
    FIXED_THETA: [
        log_variance("first log-variance", "first log-variance", first(LOG_VARIANCE)),
        log_variance("last log-variance", "last log-variance", last(LOG_VARIANCE)),
        TIME,
    ],
    "categorical_toy": [
        final("excess loss × 10³", "excess", 1e3),
        final("exact loss", "loss", decimals=4),
        final("p(best)", "p_best", decimals=3),
        MEAN_LOG_VARIANCE,
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
COLUMNS["categorical_vae"] = [
    COLUMNS["vae"][0],
    Column("train relaxed", relaxed),
    *COLUMNS["vae"][1:3],
    final("valid KL form †", "valid/relaxed_kl"),
    final("valid density form †", "valid/relaxed_density"),
    *COLUMNS["vae"][3:],
]
COLUMNS["sequence"] = [
    final("train bpc", "train/bpc", decimals=3),
    final("held-out bpc", "valid/bpc", decimals=3),
    final("held-out bpc, 100 samples", "valid/bpc100", decimals=3),
    final("order-2 counts", "valid/bpc_counts", decimals=3),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    TIME,
]
COLUMNS["lax_toy"] = [
    final("excess loss × 10³", "excess", 1e3),
    final("mean", "mean", decimals=3),
    final("std", "std", decimals=3),
    MEAN_LOG_VARIANCE,
    TIME,
]
COLUMNS["cartpole"] = [
    final("episodes to solve", "solved_episodes", decimals=0),
    final("frames to solve", "solved_frames", decimals=0),
    Column("seeds that solve it", solved),
    final("mean return of the last 100", "return100", decimals=1),
    MEAN_LOG_VARIANCE,
    TIME,
]
COLUMNS["continuous"] = COLUMNS["cartpole"]
COLUMNS["atari"] = [
    final("million frames", "frames", 1e-6),
    final("score", "eval/return", decimals=1),
    final("human-normalised score", "eval/human_normalised"),
    final("training score", "return100", decimals=1),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    final("frames/s", "time/frames_per_second", decimals=0),
    TIME,
]
OTHER = [
    final("loss", "loss"),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    TIME,
]  # a task that has no columns of its own
COMMON = "Mean over seeds ± 95% t interval at the last step."
LOG = "Log-variance: natural log of the variance of the gradient"
RUN = (
    'mean over the run; "none in n%": in so many evaluations all draws gave the same gradient, and these are left out.'
)
NOTES = {
    "toy": f"{COMMON} Excess loss: exact expected loss above its minimum. Seeds at optimum: every θ within {NEAR:g} of "
    f"the best. {LOG}, {RUN}",
    FIXED_THETA: f"{COMMON} Only the control variate is tuned. {LOG}, at the first and the last evaluation.",
    "vae": f"{COMMON} Nats per example, higher is better; the train ELBO is the mean since the evaluation before. "
    f"{LOG}. †: on the first 1,000 validation images.",
}
NOTES["categorical_toy"] = (
    f"{COMMON} Exact loss, its excess over the minimum, and the probability of the best category: all exact. {LOG}, "
    f"{RUN}"
)
NOTES["lax_toy"] = (
    f"{COMMON} Excess loss: exact expected loss above its infimum; mean and standard deviation of the Gaussian. {LOG}, "
    f"{RUN}"
)
NOTES["categorical_vae"] = (
    f"{NOTES['vae']} Bounds are those of the discrete model at hard samples. Train relaxed: minus the objective that "
    "was trained at relaxed samples, in the form that is named; KL and density form: what these objectives say of the "
    "same model, of which the KL form bounds no likelihood."
)
NOTES["sequence"] = (
    f"{COMMON} Bits per character of the discrete bound, lower is better; with one category the model has no latents. "
    f"Counts: an order-2 count model on the same held-out characters. {LOG}."
)
NOTES["cartpole"] = (
    f"{COMMON} Solved: the mean return of the last 100 episodes, of a full hundred, has reached the threshold, where "
    "the environment has one; "
    f"episodes and frames until then are means over the seeds that get there. {LOG} of an update, {RUN}"
)
NOTES["continuous"] = NOTES["cartpole"]
NOTES["atari"] = (
    f"{COMMON} Score: of the evaluation's episodes; human-normalised: 0 is an agent that acts at random, 1 a human "
    "(Wang et al. 2016), – where nobody measured; training score: of the last 100 episodes. "
    f"{LOG} on the last rollout."
)
SHARED = "Wall time: of the whole run, all its seeds and learning rates."
