"""What a kind of cell declares to tables and figures, and the words that kinds share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relax_exp.report.statistics import LOG_VARIANCE, TIME, Column, final, last, log_variance

Panel = list[tuple[str, str]]  # metrics with their labels; the first that has values is drawn

COMMON = "Mean over seeds ± 95% t interval at the last step."
LOG = "Log-variance: natural log of the variance of the gradient"
RUN = (
    'mean over the run; "none in n%": in so many evaluations all draws gave the same gradient, and these are left out.'
)
LAST_LOG_VARIANCE = log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE))
VARIANCE_PANEL: Panel = [(LOG_VARIANCE, "natural log of the gradient's variance")]


@dataclass(frozen=True)
class Kind:
    """A kind of cell. Everything has a default, so that a task without a kind of its own has a table and curves too.

    name: the task's, or of a variety of it.
    label: of a cell's task, words and ``{keys}`` of its configuration; empty: the task's name.
    best: what the learning rate is chosen by where there is room for one: sign, metrics, and the rule in words. Each
        metric chooses among the cells that are level in the ones before; "-" before it: less is better, "#": the share
        of seeds that have a value.
    rows: keys of the task that make rows of one table, as the estimator's own do.
    columns, note, panels: of its table and of its figure.
    relaxations: whether its figure is Figure 1, which shows what was learned as a function of the noise.
    by_name: whether the name of its figure says the task even where there is one only.
    remark: behind the title of its figure.
    estimator: of a task's configuration, the name that takes the place of the estimator's; empty: none does.
    variety: of a task's configuration, the kind that takes the place of this one; None: none does.
    paired: whether its figure has a panel of differences paired by seed.
    by_episodes: of a task's configuration, whether its curves are drawn over episodes and not over frames.
    """

    name: str
    title: str = ""
    label: str = ""
    best: tuple[int, tuple[str, ...], str] = (-1, ("loss",), "final loss")
    rows: tuple[str, ...] = ()
    columns: tuple[Column, ...] = (final("loss", "loss"), LAST_LOG_VARIANCE, TIME)
    note: str = COMMON
    panels: tuple[Panel, ...] = ([("loss", "loss")], VARIANCE_PANEL)
    relaxations: bool = False
    by_name: bool = False
    remark: str = ""
    estimator: Callable[[dict[str, Any]], str] = lambda task: ""
    variety: Callable[[dict[str, Any]], Kind | None] = lambda task: None
    paired: bool = False
    by_episodes: Callable[[dict[str, Any]], bool] = lambda task: False
