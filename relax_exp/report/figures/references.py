"""Lines and points that curves are to be read against: thresholds, random play and human scores, published logs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from relax_exp.report.cells import Cell
from relax_exp.report.figures.axes import mark, styled
from relax_exp.report.kinds.control import solvable
from relax_exp.report.papers import straight_through_vaes
from relax_exp.report.papers.original import of_original
from relax_exp.report.papers.published import published
from relax_exp.report.papers.table1 import TRAINING_BOUND

HIGHEST = "highest return"
POINTS = {"color": "black", "ls": "", "marker": "x", "markersize": 5.5, "markeredgewidth": 1.3, "zorder": 3}


class Points(NamedTuple):
    """Somebody else's values of a metric: ``steps`` and ``values`` ``(N,)``, a label for the legend, a colour."""

    steps: np.ndarray
    values: np.ndarray
    label: str
    color: str = "black"


def draw_references(ax: Axes, metric: str, cells: list[Cell]) -> list[Line2D]:
    """Draw whatever a panel's metric is to be compared with.

    Returns:
        Handles for the legend, of what has no label of its own.
    """
    for value, label in lines(metric, cells):
        mark(ax, value, label, above=label == HIGHEST)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    handles: dict[str, Line2D] = {}
    for steps, values, label, color in published_points(metric, cells):
        inside = (steps >= left) & (steps <= right) & (values >= low) & (values <= high)
        if inside.any():
            ax.plot(steps[inside], values[inside], **{**POINTS, "color": color}, label="_published", clip_on=False)
            handles.setdefault(label, Line2D([], [], **POINTS, label=label))
    return list(handles.values())


def lines(metric: str, cells: list[Cell]) -> list[tuple[float | None, str]]:
    """Values with their names."""
    if metric == "loss":
        return [(best_loss(cells), "minimum")]
    if metric == "valid/bpc100":
        return [(float(np.median(cells[0].last("valid/bpc_counts"))), "order-2 counts")]
    task = cells[0].runs[0].config["task"]
    if metric == "return100" and cells[0].kind in ("cartpole", "continuous") and solvable(cells[0]):
        return of_environment(task)
    if metric in ("eval/return", "return100") and cells[0].kind == "atari":
        return of_game(task["env"])
    return []


def of_environment(task: dict) -> list[tuple[float | None, str]]:
    """Return the return that counts as solved, and the highest there is where that is the length of an episode."""
    import gymnasium

    spec = gymnasium.registry.get(task["env"])
    threshold = task.get("threshold")
    if threshold is None:
        threshold = getattr(spec, "reward_threshold", None)
    most = task.get("max_steps") or getattr(spec, "max_episode_steps", None)
    found: list[tuple[float | None, str]] = [(threshold, "solved")]
    if task["env"].startswith("CartPole") and most:
        found.append((float(most), HIGHEST))
    return found


def of_game(env: str) -> list[tuple[float | None, str]]:
    """Return the published scores of a random player and of a human."""
    from relax_exp.envs.atari_scores import SCORES, game_of

    random, human = SCORES.get(game_of(env), (None, None))
    return [(random, "random player"), (human, "human")]


def best_loss(cells: list[Cell]) -> float | None:
    """Return the minimum of the exact loss: what is left of it without the excess."""
    gaps = np.concatenate([c.last("loss") - c.last("excess") for c in cells])
    gaps = gaps[np.isfinite(gaps)]
    return float(np.median(gaps)) if len(gaps) else None


def published_points(metric: str, cells: list[Cell]) -> list[Points]:
    """Return what others have of a metric, where a cell trained the model that theirs is of.

    They are ARSM's published log, the original code's epochs, and for the VAEs of ReinMax and MVE means in the colours
    of estimators.
    """
    found: list[Points] = []
    key = {"train/elbo": "train", "valid/elbo": "valid"}.get(metric)
    if key is not None and has_log(cells):
        known = published()["arsm_vae"]
        steps = [(epoch + 1) * known["steps_per_epoch"] for epoch in known["negative_elbo"]]
        values = [values[key] for values in known["negative_elbo"].values()]
        found.append(Points(np.array(steps), -np.array(values), "published log (ARSM)"))
    beside = [(cell, known) for cell in cells if (known := of_original(cell))] if metric == TRAINING_BOUND else []
    if beside:
        cell, known = beside[0]  # it was run with one estimator a model
        steps = cell.series(TRAINING_BOUND)[0][: len(known["epochs"])]
        found.append(Points(steps, np.array(known["epochs"][: len(steps)]), "original code"))
    for cell, look, _ in styled(cells):
        for label, steps, means in straight_through_vaes.points(cell, metric):
            found.append(Points(steps, means, label, look.color))
    return found


def has_log(cells: list[Cell]) -> bool:
    """Tell whether one of the cells trained the model of ARSM's published log, with ARSM."""
    known = published()["arsm_vae"]["model"]
    return any(
        cell.name == "arsm"
        and cell.kind == "categorical_vae"
        and {**cell.runs[0].config["task"], "batch_size": cell.runs[0].config["batch_size"]}.items() >= known.items()
        for cell in cells
    )
