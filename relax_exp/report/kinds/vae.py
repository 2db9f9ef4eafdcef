"""The binary VAE."""

from __future__ import annotations

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.kinds.base import COMMON, LAST_LOG_VARIANCE, LOG, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import TIME, Column, final, numbers, show


def validation(header: str, metric: str) -> Column:
    """Make the column of a bound on the validation images.

    It is on all of them where every seed has that at the last step, else on the first of them, marked †.
    """

    def of(cell: Cell) -> tuple[str, dict]:
        full, part = cell.last(f"{metric}_full"), cell.last(metric)
        csv = numbers(f"{metric}_full", full) | numbers(metric, part)
        if len(full) and np.isfinite(full).all():
            return show(full), csv
        return show(part) if show(part) == EMPTY else f"{show(part)} †", csv

    return Column(header, of)


VAE = Kind(
    "vae",
    "Binary VAE",
    label="{dataset} {model}",
    by_name=True,
    paired=True,
    best=(1, ("valid/bound100_full", "valid/bound100", "valid/elbo", "train/elbo"), "final validation bound"),
    columns=(
        final("train ELBO", "train/elbo"),
        validation("valid ELBO", "valid/elbo"),
        validation("valid 100-sample bound", "valid/bound100"),
        LAST_LOG_VARIANCE,
        final("½ squared weights of the surrogate", "estimator/penalty", decimals=4)._replace(optional=True),
        TIME,
    ),
    note=f"{COMMON} Nats per example, higher is better; the train ELBO is the mean since the evaluation before. "
    f"{LOG}. †: on the first 1,000 validation images.",
    panels=(
        [("train/elbo", "train ELBO (nats)")],
        [("valid/bound100", "validation 100-sample bound (nats)"), ("valid/elbo", "validation ELBO (nats)")],
        VARIANCE_PANEL,
    ),
)
