"""Columns of the VAEs."""

from __future__ import annotations

import numpy as np

from relax_exp.report.formats import EMPTY
from relax_exp.report.groups import Cell
from relax_exp.report.statistics import Column, numbers, show


def validation(header: str, metric: str) -> Column:
    """On all validation images where every seed has that at the last step, else on the first of them, marked †."""

    def of(cell: Cell) -> tuple[str, dict]:
        full, part = cell.last(f"{metric}_full"), cell.last(metric)
        csv = numbers(f"{metric}_full", full) | numbers(metric, part)
        if len(full) and np.isfinite(full).all():
            return show(full), csv
        return show(part) if show(part) == EMPTY else f"{show(part)} †", csv

    return Column(header, of)


def relaxed(cell: Cell) -> tuple[str, dict]:
    """The relaxed objective that was trained, with its name; empty for estimators that train none."""
    for kind in ("elbo", "kl", "density"):
        values = cell.last(f"train/relaxed_{kind}")
        if np.isfinite(values).any():
            return f"{show(values)} ({kind})", numbers(f"train/relaxed_{kind}", values)
    return EMPTY, {}
