"""Control from whole episodes: whether environments can be solved, and how many seeds solve them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.runs import Replica
from relax_exp.report.statistics import MEAN_LOG_VARIANCE, TIME, Column, final, interval
from relax_exp.report.survival import Survival, survival


def solvable(cell: Cell) -> bool:
    """Tell whether there is a return that counts as solved: gymnasium says none for Pendulum, for instance."""
    task = cell.runs[0].config["task"]
    if task.get("threshold") is not None:
        return True
    if np.isfinite(cell.last("solved_episodes")).any():
        return True
    import gymnasium

    spec = gymnasium.registry.get(task["env"])
    return spec is not None and spec.reward_threshold is not None


def solved(cell: Cell) -> tuple[str, dict]:
    """Show how many seeds solved the environment, for a column; empty where none could."""
    episodes = cell.last("solved_episodes")
    count = int(np.isfinite(episodes).sum())
    if not len(episodes) or not solvable(cell):
        return EMPTY, {}
    return f"{count} of {len(episodes)}", {"seeds that solve it": count}


def observed(replicas: Iterable[Replica], what: str = "episodes") -> Survival:
    """Return of each replica the episodes or frames until it solved its environment, or those without doing so."""
    last = [r.rows[r.last_step] for r in replicas if r.rows]
    solved = [row.get(f"solved_{what}") for row in last]
    times = [row[what] if at is None else at for row, at in zip(last, solved, strict=True)]
    return survival(np.array(times), np.array([at is not None for at in solved]))


class TimeToSolve(NamedTuple):
    """A mean time until an environment is solved, half of its interval, and whether it is only a lower bound."""

    mean: float
    half: float | None
    least: bool

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return EMPTY
        return ("≥ " if self.least else "") + f"{self.mean:.0f}" + ("" if self.half is None else f" ± {self.half:.0f}")


def time_to_solve(cell: Cell, what: str) -> TimeToSolve:
    """Return the mean "episodes" or "frames" until the environment is solved; NaN where no seed solves it.

    Where some seeds do not, their time without counts too: it is then the product-limit estimate.
    """
    values = cell.last(f"solved_{what}")
    if np.isfinite(values).all() or not np.isfinite(values).any():
        return TimeToSolve(*interval(values), False)
    of = observed(cell.counted, what)
    return TimeToSolve(*of.mean, not of.complete)


def solving_time(header: str, what: str) -> Column:
    """Make the column of a `time_to_solve`."""

    def of(cell: Cell) -> tuple[str, dict[str, float]]:
        time, key = time_to_solve(cell, what), f"solved_{what}"
        found = {key: time.mean, f"{key} ±": float("nan") if time.half is None else time.half}
        return str(time), found | ({f"{key} is at least": 1} if time.least else {})

    return Column(header, of)


def frozen(cell: Cell) -> bool:
    """Tell whether the cell's policies do not learn, so that what they return says nothing of the estimator."""
    return cell.runs[0].config["task"].get("freeze_at") is not None


def of_learning(column: Column) -> Column:
    """Return the column, empty for policies that do not learn."""
    return column._replace(of=lambda cell: (EMPTY, {}) if frozen(cell) else column.of(cell))


CARTPOLE = Kind(
    "cartpole",
    "Control with few actions",
    label="{env}",
    by_name=True,
    best=(
        1,
        ("-solved_episodes", "#solved_episodes", "return100"),
        "number of episodes to solve (where no rate solves it on all seeds: number of seeds that do)",
    ),
    columns=(
        of_learning(solving_time("episodes to solve", "episodes")),
        of_learning(solving_time("frames to solve", "frames")),
        of_learning(Column("seeds that solve it", solved)),
        final("mean return of the last 100", "return100", decimals=1),
        MEAN_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Solved: the mean return of the last 100 episodes, of a full hundred, has reached the threshold, "
    "where the environment has one; episodes and frames until then are means over the seeds; where some "
    "never get there (≥), the product-limit estimate (Kaplan-Meier), for which these count as long as they were "
    "watched, with Greenwood's interval. "
    f"{LOG} of an update, {RUN}",
    panels=([("return100", "mean return of the last 100 episodes")], VARIANCE_PANEL),
    by_episodes=lambda task: True,
)
CONTINUOUS = replace(
    CARTPOLE,
    name="continuous",
    title="Control with continuous actions",
    rows=("task.surrogate_updates", "task.surrogate_objective"),
    by_episodes=lambda task: False,
)
