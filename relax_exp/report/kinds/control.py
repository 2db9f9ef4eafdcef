"""Whether environments can be solved, and how many seeds solve them."""

from __future__ import annotations

import numpy as np

from relax_exp.report.formats import EMPTY
from relax_exp.report.groups import Cell


def solvable(cell: Cell) -> bool:
    """Whether there is a return that counts as solved: gymnasium says none for Pendulum, for instance."""
    task = cell.runs[0].config["task"]
    if task["name"] == "cartpole" or task.get("threshold") is not None:
        return True
    if np.isfinite(cell.last("solved_episodes")).any():
        return True
    import gymnasium

    spec = gymnasium.registry.get(task["env"])
    return spec is not None and spec.reward_threshold is not None


def solved(cell: Cell) -> tuple[str, dict]:
    """How many seeds solved the environment, for a column; empty where none could."""
    episodes = cell.last("solved_episodes")
    count = int(np.isfinite(episodes).sum())
    if not len(episodes) or not solvable(cell):
        return EMPTY, {}
    return f"{count} of {len(episodes)}", {"seeds that solve it": count}
