"""Gradients of frozen policies: what estimators' variances are where everything else is the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.kinds import control
from relax_exp.report.papers.solving_times import variant
from relax_exp.report.statistics import interval, show, where_any
from relax_exp.report.style import order


def frozen(cells: list[Cell]) -> Table | None:
    """Log-variances a column for each estimator, three lines for each level; None where no policy was frozen."""
    of: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in cells:
        task = cell.runs[0].config["task"]
        if control.frozen(cell) and cell.steps:
            of.setdefault((task["env"], task["freeze_at"]), {})[variant(cell)] = cell
    if not of:
        return None
    names = {name for found in of.values() for name in found}
    columns = sorted(names, key=lambda name: (order(name.split(",")[0]), name))
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for (env, level), found in sorted(of.items()):
        rows += [None] * bool(rows)
        lines: dict[str, dict[str, str]] = {}
        for name, cell in found.items():
            variance = where_any(cell.last("grad/log_variance"))
            relative = variance - where_any(cell.last("grad/log_signal"))
            values = {"mean return": cell.last("return"), "log-variance": variance, "minus log of the square": relative}
            record = {"environment": env, "level": level, "estimator": name}
            for line, numbers in values.items():
                lines.setdefault(line, {})[name] = show(numbers, 1 if line == "mean return" else 2)
                record[line], record[f"{line} ±"] = interval(np.asarray(numbers, float))
            records.append(record | {"seeds": len(cell.counted), "runs": " ".join(run.label for run in cell.runs)})
        rows += [
            [f"{env}, frozen at {level:g}", line, *(texts.get(c, EMPTY) for c in columns)]
            for line, texts in lines.items()
        ]
    return Table("frozen", "Gradients of frozen policies", ["policy", "", *columns], rows, NOTE, records)


NOTE = (
    "Mean over the seeds ± 95% t interval. Policies of a2c, frozen when the mean of 20 returns first reached the "
    "level; each estimator was then tuned at them. Log-variance: natural log of the mean over the policy's parameters "
    "of the variance of an update's gradient, from further updates' episodes. Minus log of the square: the same "
    "relative to the squared mean gradient, which no constant factor changes."
)
