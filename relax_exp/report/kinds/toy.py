"""The toy problem, and the same where theta is fixed."""

from __future__ import annotations

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import LOG_VARIANCE, MEAN_LOG_VARIANCE, TIME, Column, final, first, last, log_variance

NEAR = 0.1  # a toy replica found the optimum if every theta is this close to it


def theta(cell: Cell) -> tuple[str, dict]:
    """Show the median of theta over seeds."""
    values = cell.last("theta")
    values = values[np.isfinite(values)]
    median = float(np.median(values)) if len(values) else float("nan")
    return (EMPTY if np.isnan(median) else f"{median:.3f}"), {"median theta": median}


def found(cell: Cell) -> tuple[str, dict]:
    """Show how many seeds have every theta near the optimum: 0, or 1 where t > 1/2."""
    optimum = float(cell.counted[0].run.config["task"].get("t", 0) > 0.5) if cell.counted else 0.0
    final = [np.array(r.rows.get(cell.steps, {}).get("theta"), ndmin=1) for r in cell.counted]
    final = [thetas.astype(float) for thetas in final if thetas[0] is not None]
    near = sum(bool((abs(thetas - optimum) < NEAR).all()) for thetas in final)
    return (f"{near} of {len(final)}" if final else EMPTY), {"seeds at the optimum": near}


TOY = Kind(
    "toy",
    "Toy problem",
    label="toy t={t}",
    best=(-1, ("excess", "loss"), "final exact loss"),
    columns=(
        final("excess loss × 10⁴", "excess", 1e4),
        Column("median θ", theta),
        Column("seeds at optimum", found),
        MEAN_LOG_VARIANCE,
        final("η", "estimator/eta")._replace(optional=True),
        TIME,
    ),
    note=f"{COMMON} Excess loss: exact expected loss above its minimum. θ: the probability of b = 1. Seeds at "
    f"optimum: every θ within {NEAR:g} of the best. {LOG}, {RUN}",
    relaxations=True,
    variety=lambda task: FIXED_THETA if task.get("freeze") else None,
)
FIXED_THETA = Kind(
    "fixed_theta",
    "Toy problem at fixed θ",
    label=TOY.label,
    best=(-1, (LOG_VARIANCE,), "final log-variance"),
    columns=(
        log_variance("first log-variance", "first log-variance", first(LOG_VARIANCE)),
        log_variance("last log-variance", "last log-variance", last(LOG_VARIANCE)),
        TIME,
    ),
    note=f"{COMMON} Only the control variate is tuned. {LOG}, at the first and the last evaluation.",
    panels=(VARIANCE_PANEL,),
    remark=", only the estimator is tuned",
)
