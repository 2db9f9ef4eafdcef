"""Structured prediction, with binary and with categorical latents."""

from __future__ import annotations

from dataclasses import replace

from relax_exp.report.kinds.base import COMMON, LAST_LOG_VARIANCE, LOG, VARIANCE_PANEL, Kind
from relax_exp.report.kinds.vae import ALL, FIRST, PART, VAE
from relax_exp.report.statistics import TIME, final

STRUCTURED = Kind(
    "structured",
    "Structured prediction, binary latents",
    label="{dataset} {layers}x{variables}",
    by_name=True,
    remark=": the lower half from the upper",
    best=VAE.best,
    columns=(
        final("train, 1 sample", "train/elbo"),
        final(f"valid, 1 sample, {ALL}", "valid/elbo_full")._replace(optional=True),
        final(f"valid, 100 samples, {ALL}", "valid/bound100_full")._replace(optional=True),
        final(f"valid, 100 samples, {FIRST}", "valid/bound100"),
        final("test, 1 sample", "test/elbo")._replace(optional=True),
        final("test, 100 samples", "test/bound100")._replace(optional=True),
        final("test, 1,000 samples", "test/bound1000")._replace(optional=True),
        LAST_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Lower bounds of the log-likelihood of the lower half of an image given the upper half, log (1/m) "
    "sum_i p(lower | b^i) with m samples of the latents given the upper half, in nats per image: higher is better, and "
    "the papers print them with the other sign. Train: the mean since the evaluation before. "
    f"{PART} {LOG} of the maps to the latents.",
    panels=(
        [("train/elbo", "train ELBO (nats)")],
        [("valid/bound100", f"validation bound, 100 samples, {FIRST} images (nats)")],
        VARIANCE_PANEL,
    ),
    variety=lambda task: CATEGORICAL_STRUCTURED if task.get("categories") else None,
)
CATEGORICAL_STRUCTURED = replace(
    STRUCTURED,
    name="structured_categorical",
    title="Structured prediction, categorical latents",
    label="{dataset} {layers}x{variables}x{categories}",
    variety=lambda task: None,
)
