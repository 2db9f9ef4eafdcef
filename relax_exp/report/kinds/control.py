"""Control from whole episodes: whether environments can be solved, and how many seeds solve them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import MEAN_LOG_VARIANCE, TIME, Column, final


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
        of_learning(final("episodes to solve", "solved_episodes", decimals=0)),
        of_learning(final("frames to solve", "solved_frames", decimals=0)),
        of_learning(Column("seeds that solve it", solved)),
        final("mean return of the last 100", "return100", decimals=1),
        MEAN_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Solved: the mean return of the last 100 episodes, of a full hundred, has reached the threshold, "
    "where the environment has one; episodes and frames until then are means over the seeds that get there. "
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
