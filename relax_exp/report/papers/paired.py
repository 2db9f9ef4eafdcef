"""RELAX against REBAR on the binary VAE, decided by paired differences: the same seed has the same noise and data."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.cells import Cell, differences
from relax_exp.report.formats import Table
from relax_exp.report.papers.published import chosen, short
from relax_exp.report.papers.table1 import TRAINING_BOUND, models
from relax_exp.report.statistics import interval

PAIR = ("relax", "rebar")
SHOWN = (
    5_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
)  # steps; and the last that both reached


def verdict(values: np.ndarray) -> str:
    """Say ``ahead`` or ``behind`` where the interval over seeds excludes zero, else ``undecided``."""
    mean, half = interval(values)
    if half is None or not abs(mean) > half:
        return "undecided"
    return "ahead" if mean > 0 else "behind"


def paired(cells: list[Cell]) -> Table | None:
    """Show RELAX minus REBAR of every model at a few steps and at the last; None where no model has both."""
    ours = chosen(cells, "vae")
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for _, _, tasks in models(cells):
        for task in tasks:
            if not {*PAIR} <= ours[task].keys():
                continue
            relax, rebar = (ours[task][name].cell for name in PAIR)
            steps, values, seeds = differences(relax, rebar, TRAINING_BOUND)
            if not len(steps):
                continue
            rows += [None] * bool(rows)
            for at in (i for i, step in enumerate(steps) if step in SHOWN or step == steps[-1]):
                mean, half = interval(values[at])
                shown = f"{mean:+.2f}" + ("" if half is None else f" ± {half:.2f}")
                said = verdict(values[at]) if len(seeds) > 1 else "undecided (one seed)"
                rates = f"{relax.lr:g}, {rebar.lr:g}"
                rows.append([task, short(int(steps[at])), str(len(seeds)), rates, shown, said])
                records.append({"task": task, "step": int(steps[at]), "seeds": " ".join(map(str, seeds)),
                                "lr relax": relax.lr, "lr rebar": rebar.lr, "difference": mean,
                                "difference ±": half, "verdict": said})  # fmt: skip
    headers = ["task", "step", "seeds", "learning rates (RELAX, REBAR)", "RELAX − REBAR", "RELAX is"]
    return Table("paired", "RELAX against REBAR, paired", headers, rows, NOTE, records, words=1) if rows else None


NOTE = (
    "Difference of the training bounds in nats per image, positive where RELAX is better: mean over pairs of runs with "
    "the same seed, which start from the same weights and see the same images and noise, ± 95% t interval over seeds. "
    "Undecided: the interval holds zero, or there is one seed only, whatever its curve looks like. RELAX has had 1,000 "
    "updates of its control variate before its first step, REBAR none, as in the published code. Each "
    "estimator runs at the best of its learning rates, so the two rates may differ."
)
