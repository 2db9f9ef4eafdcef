"""Columns of the toy problem."""

from __future__ import annotations

import numpy as np

from relax_exp.report.formats import EMPTY
from relax_exp.report.groups import Cell

NEAR = 0.1  # a toy replica found the optimum if every theta is this close to it


def theta(cell: Cell) -> tuple[str, dict]:
    """Median over seeds."""
    values = cell.last("theta")
    values = values[np.isfinite(values)]
    median = float(np.median(values)) if len(values) else float("nan")
    return (EMPTY if np.isnan(median) else f"{median:.3f}"), {"median theta": median}


def found(cell: Cell) -> tuple[str, dict]:
    """How many seeds have every theta near the optimum: 0, or 1 where t > 1/2."""
    optimum = float(cell.counted[0].run.config["task"].get("t", 0) > 0.5) if cell.counted else 0.0
    final = [np.atleast_1d(r.rows.get(cell.steps, {}).get("theta")) for r in cell.counted]
    final = [thetas.astype(float) for thetas in final if thetas[0] is not None]
    near = sum(bool((abs(thetas - optimum) < NEAR).all()) for thetas in final)
    return (f"{near} of {len(final)}" if final else EMPTY), {"seeds at the optimum": near}
