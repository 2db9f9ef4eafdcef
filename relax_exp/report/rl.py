"""Episodes and frames until an environment is solved, beside the papers' numbers (published.yaml)."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.columns import interval, show
from relax_exp.report.markup import EMPTY, Table
from relax_exp.report.style import order
from relax_exp.report.table1 import NOT_RUN, Chosen, chosen, published

KINDS = ("cartpole", "continuous")
LINES = {  # of our numbers: metric and decimals
    "episodes to solve": ("solved_episodes", 0),
    "frames to solve": ("solved_frames", 0),
    "return of the last 100": ("return100", 1),
}


def rl(cells: list[Cell]) -> Table | None:
    """One group of lines an environment; None where no task with episodes was trained."""
    of = {task: found for kind in KINDS for task, found in chosen(cells, kind).items()}
    if not of:
        return None
    environments = {task: next(iter(found.values())).cell.runs[0].config["task"]["env"] for task, found in of.items()}
    names = {task: env.split("-")[0] for task, env in environments.items()}
    printed = {env: values for env, values in published()["rl"].items() if env.split(" ")[0] in names.values()}
    columns = {*(c for values in printed.values() for c in values), *(c for found in of.values() for c in found)}
    first = ("episodes to solve", "episodes to solve ±")
    columns = sorted(columns, key=lambda label: (order(label.split(" (")[0]), label))
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for task, found in of.items():
        rows += [None] * bool(rows)
        for env, values in printed.items():
            if env.split(" ")[0] != names[task]:
                continue
            texts = [f"{values[c][0]} ± {values[c][1]}" if c in values else EMPTY for c in columns]
            rows.append([env, "published, episodes to solve", *texts])
            records += [
                {"task": env, "source": "published", "estimator": c, **dict(zip(first, value, strict=True))}
                for c, value in values.items()
            ]
        ours = [_ours(found.get(column)) for column in columns]
        rows += [[task, line, *(texts[line] for texts, _ in ours)] for line in ours[0][0]]
        records += [
            {"task": task, "source": "ours", "estimator": c, **r} for c, (_, r) in zip(columns, ours, strict=True)
        ]
    return Table("rl", "Learning to solve an environment", ["environment", "", *columns], rows, NOTE, records)


def _ours(it: Chosen | None) -> tuple[dict[str, str], dict[str, Any]]:
    """The lines of one estimator, and the record."""
    names = [*LINES, "seeds that solve it", "rates (policy, ratio)", "frames, seeds"]
    if it is None or not it.cell.steps:
        state = NOT_RUN if it is None else it.cell.status
        return {name: state if name == names[0] else EMPTY for name in names}, {"status": state}
    cell = it.cell
    texts, record = {}, {}
    for name, (metric, decimals) in LINES.items():
        values = cell.last(metric)
        texts[name] = show(values[np.isfinite(values)], decimals)
        record[name], record[f"{name} ±"] = interval(values)
    solved = int(np.isfinite(cell.last("solved_episodes")).sum())
    frames = np.nanmean(cell.last("frames"))
    ratio = cell.runs[0].config["estimator"].get("lr_scale")
    texts["seeds that solve it"] = f"{solved} of {len(cell.counted)}"
    texts["rates (policy, ratio)"] = f"{cell.lr:g}" + (f", {ratio:g}" if ratio is not None else "")
    texts["frames, seeds"] = f"{frames:,.0f}, {len(cell.counted)}" + ("" if cell.finished else " ‡")
    record |= {"seeds that solve it": solved, "seeds": " ".join(str(r.seed) for r in cell.counted), "steps": cell.steps}
    record |= {"frames": float(frames), "lr": cell.lr, "lr_scale": ratio, "lr chosen by": it.how, "status": cell.status}
    return texts, record | {"runs": " ".join(run.label for run in cell.runs)}


NOTE = (
    "Ours: mean over the seeds that solve the environment ± 95% t interval (one seed: none). Solved: the mean return "
    "of the last 100 episodes, of a full hundred, has reached the threshold. Rates: of the policy, and of the baseline "
    "or control variate relative to it; the best number of episodes to solve decides, or where not all seeds solve it, "
    "the best last mean return. ‡: unfinished. Published: mean over 5 seeds, and what is printed behind ±; that of "
    "LunarLander cannot be episodes, as those runs end at 5,000,000 frames; InvertedPendulum's control variate is LAX."
)
