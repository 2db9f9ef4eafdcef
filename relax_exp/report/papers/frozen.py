"""Gradients of frozen policies: what estimators' variances are where everything else is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.kinds import control
from relax_exp.report.papers.solving_times import variant
from relax_exp.report.statistics import interval, show, where_any
from relax_exp.report.style import order, style, titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


VARIANCE, RELATIVE = "log-variance", "relative to the squared mean"


def by_policy(cells: list[Cell]) -> dict[tuple[str, float], dict[str, Cell]]:
    """Return the cells of frozen policies by environment and level, and by estimator."""
    of: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in cells:
        task = cell.runs[0].config["task"]
        if control.frozen(cell) and cell.steps:
            of.setdefault((task["env"], task["freeze_at"]), {})[variant(cell)] = cell
    return of


def frozen(cells: list[Cell]) -> Table | None:
    """Log-variances a column for each estimator, three lines for each level; None where no policy was frozen."""
    of = by_policy(cells)
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
            values = {"mean return": cell.last("return"), VARIANCE: variance, RELATIVE: relative}
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


def figure(cells: list[Cell]) -> Figure | None:
    """Draw both log-variances at each level, a point with its t interval for each estimator."""
    from relax_exp.report.figures.axes import figure as canvas
    from relax_exp.report.figures.axes import look

    of, table = by_policy(cells), frozen(cells)
    if table is None:
        return None
    names = list(table.headers[2:])
    policies = sorted(of)
    colors = {name: style(cell.name).color for found in of.values() for name, cell in found.items()}
    with look():
        fig = canvas(7.2, 3.4)
        for ax, line in zip(fig.subplots(1, 2), (VARIANCE, RELATIVE), strict=True):
            for i, name in enumerate(names):
                found = [(r["environment"], r["level"], r) for r in table.records if r["estimator"] == name]
                x = [policies.index((env, level)) + 0.12 * (i - (len(names) - 1) / 2) for env, level, _ in found]
                y = [record[line] for *_, record in found]
                half = [record[f"{line} ±"] or 0 for *_, record in found]
                face = "white" if "published" in name else colors[name]
                ax.errorbar(x, y, half, fmt="o", ms=5, color=colors[name], mfc=face, capsize=2, label=titled(name))
            ax.set_xticks(range(len(policies)), [f"{level:g}" for _, level in policies])
            ax.set(xlabel="mean return at which the policy was frozen", title=line)
        fig.axes[0].set_ylabel("natural log of the variance")
        handles, labels = fig.axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4)
        return fig


NOTE = (
    "Mean over the seeds ± 95% t interval. Policies of a2c, frozen when the mean of 20 returns first reached the "
    "level; each estimator was then tuned at them. Log-variance: natural log of the mean over the policy's parameters "
    "of the variance of an update's gradient, from further updates' episodes. Relative to the squared mean: natural "
    "log of that variance over the squared mean gradient, which no constant factor changes; seeds without a "
    "measurable mean are left out."
)
