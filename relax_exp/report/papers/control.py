"""Episodes and frames until an environment is solved, beside the papers' numbers (published.yaml)."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, NOT_RUN, Table
from relax_exp.report.kinds.base import RUN
from relax_exp.report.kinds.control import solvable, solved, time_to_solve
from relax_exp.report.papers.published import Chosen, chosen, published
from relax_exp.report.statistics import interval, mean_log_variance, show
from relax_exp.report.style import natural, order

KINDS = ("cartpole", "continuous")
TIMES = {"episodes to solve": "episodes", "frames to solve": "frames"}
RETURN = "return of the last 100"
SOLVED, VARIANCE, RATES = "seeds that solve it", "mean log-variance", "rates (policy, ratio)"
OF_SOLVING = ("episodes to solve", "frames to solve", SOLVED)  # not of environments without a threshold


def rl(cells: list[Cell]) -> Table | None:
    """Make one group of lines an environment; None where no task with episodes was trained."""
    of = {task: found for kind in KINDS for task, found in chosen(cells, kind).items()}
    if not of:
        return None
    environments = {task: next(iter(found.values())).cell.runs[0].config["task"]["env"] for task, found in of.items()}
    names = {task: env.split("-")[0] for task, env in environments.items()}
    printed = {env: values for env, values in published()["rl"].items() if env.split(" ")[0] in names.values()}
    columns = {*(c for values in printed.values() for c in values), *(c for found in of.values() for c in found)}
    first = ("episodes to solve", "episodes to solve ±")
    variants = {_name(c) for found in of.values() for c in found if c != _name(c)}
    columns = sorted(columns, key=lambda label: (order(_name(label)), natural(label)))
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
        lines, more = _ours(task, found, columns, variants)
        rows += lines
        records += more
    return Table("rl", "Learning to solve an environment", ["environment", "", *columns], rows, NOTE, records)


def _ours(
    task: str, found: dict[str, Chosen], columns: list[str], variants: set[str]
) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Return the lines of one environment, and their records.

    ``variants`` are the names of estimators that have several columns.
    """
    cells = {label: it.cell for label, it in found.items() if it.cell.steps}
    texts, records = {}, []
    for column in columns:
        record = {"task": task, "source": "ours", "estimator": column}
        if column in cells:
            texts[column], numbers = _numbers(found[column])
        elif column in found:
            numbers = {"status": found[column].cell.status}
        elif column in variants:  # nothing of its own to be run
            continue
        else:
            numbers = {"status": NOT_RUN}
        records.append(record | numbers)
    states = {record["estimator"]: record["status"] for record in records}
    without = () if not cells or any(map(solvable, cells.values())) else OF_SOLVING
    names = [line for line in (*TIMES, RETURN, SOLVED, VARIANCE, RATES, "frames, seeds") if line not in without]
    if not any(VARIANCE in of for of in texts.values()):
        names.remove(VARIANCE)
    rows = []
    for number, name in enumerate(names):
        empty = {column: EMPTY if number else states.get(column, EMPTY) for column in columns}
        rows.append([task, name, *(texts[c].get(name, EMPTY) if c in texts else empty[c] for c in columns)])
    return rows, records


def _numbers(it: Chosen) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the texts of one estimator by the names of lines, and the record."""
    cell = it.cell
    texts, record = {}, {}
    for name, what in TIMES.items():
        time = time_to_solve(cell, what)
        texts[name], record[name], record[f"{name} ±"] = str(time), time.mean, time.half
        record |= {f"{name} is at least": True} if time.least else {}
    returns = cell.last("return100")
    texts[RETURN] = show(returns[np.isfinite(returns)], 1)
    record[RETURN], record[f"{RETURN} ±"] = interval(returns)
    texts[SOLVED], count = solved(cell)
    variance, values = mean_log_variance(cell)
    if variance != EMPTY:
        texts[VARIANCE] = variance
    frames = np.nanmean(cell.last("frames"))
    ratio = cell.runs[0].config["estimator"].get("lr_scale")
    texts[RATES] = f"{cell.lr:g}" + (f", {ratio:g}" if ratio is not None else "")
    texts["frames, seeds"] = f"{frames:,.0f}, {len(cell.counted)}" + ("" if cell.finished else " ‡")
    record |= {**count, "seeds": " ".join(str(r.seed) for r in cell.counted), "steps": cell.steps}
    record |= values if variance != EMPTY else {}
    record |= {"frames": float(frames), "lr": cell.lr, "lr_scale": ratio, "lr chosen by": it.how, "status": cell.status}
    return texts, record | {"runs": " ".join(run.label for run in cell.runs)}


def _name(label: str) -> str:
    """Return the estimator's name without its settings."""
    return label.split(" (")[0]


NOTE = (
    "Ours: mean over seeds ± 95% t interval (one seed: none); where not all solve the environment (≥), the "
    "product-limit estimate of the mean (Kaplan-Meier), for which the others count as long as they were watched, "
    "with Greenwood's interval. Solved: the mean return "
    "of the last 100 episodes, of a full hundred, has reached the threshold, where the environment has one. Rates: of "
    "the policy, and of the baseline or control variate relative to it. Of several rates that were tried "
    "the table shows one: the rate with the fewest episodes among those at which all seeds solve the environment; if "
    "there are none, the rate at which most seeds do, and among equals the best last mean return. Mean log-variance: "
    "natural log of the variance of an update's gradient, "
    f"{RUN} ‡: unfinished. Published: mean over 5 seeds, and what is printed behind ±; that of "
    "LunarLander cannot be episodes, as those runs end at 5,000,000 frames; InvertedPendulum's control variate is LAX."
)
