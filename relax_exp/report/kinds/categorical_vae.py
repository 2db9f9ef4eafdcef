"""The categorical VAE, whose bounds are set beside the relaxed objectives that were trained."""

from __future__ import annotations

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY
from relax_exp.report.kinds.base import Kind
from relax_exp.report.kinds.vae import FIRST, VAE
from relax_exp.report.statistics import Column, final, numbers, show


def relaxed(cell: Cell) -> tuple[str, dict]:
    """Show the relaxed objective that was trained, with its name; empty for estimators that train none."""
    for kind in ("elbo", "kl", "density"):
        values = cell.last(f"train/relaxed_{kind}")
        if np.isfinite(values).any():
            return f"{show(values)} ({kind})", numbers(f"train/relaxed_{kind}", values)
    return EMPTY, {}


CATEGORICAL_VAE = Kind(
    "categorical_vae",
    "Categorical VAE",
    label="{dataset} {layers}x{variables}x{categories}",
    by_name=True,
    best=VAE.best,
    rows=("task.relaxed", "task.optimizer"),
    columns=(
        VAE.columns[0],
        Column("train relaxed", relaxed, optional=True),
        *(column._replace(optional=True) for column in VAE.columns[1:5]),
        final("test ELBO, all", "test/elbo_full")._replace(optional=True),
        final(f"valid KL form, {FIRST}", "valid/relaxed_kl")._replace(optional=True),
        final(f"valid density form, {FIRST}", "valid/relaxed_density")._replace(optional=True),
        *VAE.columns[5:],
    ),
    note=f"{VAE.note} Bounds are those of the discrete model at hard samples. Train relaxed: minus the objective that "
    "was trained at relaxed samples, in the form that is named; KL and density form: what these objectives say of the "
    "same model, of which the KL form bounds no likelihood.",
    panels=(VAE.panels[0], [*VAE.panels[1], ("test/elbo_full", "test ELBO, all images (nats)")], *VAE.panels[2:]),
)
