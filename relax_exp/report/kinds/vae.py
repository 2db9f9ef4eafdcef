"""The binary VAE."""

from __future__ import annotations

from relax_exp.report.kinds.base import COMMON, LAST_LOG_VARIANCE, LOG, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import TIME, final

FIRST, ALL = "first 1,000", "all"  # of the validation images
PART = f"{FIRST[0].upper()}{FIRST[1:]}: of the validation images, or all where there are fewer."

VAE = Kind(
    "vae",
    "Binary VAE",
    label="{dataset} {model}",
    by_name=True,
    paired=True,
    best=(
        1,
        ("valid/bound100_full", "valid/bound100", "valid/elbo", "train/elbo"),
        "final 100-sample validation bound",
    ),
    columns=(
        final("train ELBO", "train/elbo"),
        final(f"valid ELBO, {ALL}", "valid/elbo_full")._replace(optional=True),
        final(f"valid ELBO, {FIRST}", "valid/elbo"),
        final(f"valid 100-sample bound, {ALL}", "valid/bound100_full")._replace(optional=True),
        final(f"valid 100-sample bound, {FIRST}", "valid/bound100"),
        LAST_LOG_VARIANCE,
        final("½ squared weights of the surrogate", "estimator/penalty", decimals=4)._replace(optional=True),
        TIME,
    ),
    note=f"{COMMON} Nats per example, higher is better; the train ELBO is the mean since the evaluation before. "
    f"{PART} {LOG}.",
    panels=(
        [("train/elbo", "train ELBO (nats)")],
        [
            ("valid/elbo_full", f"validation ELBO, {ALL} images (nats)"),
            ("valid/bound100", f"validation bound, 100 samples, {FIRST} images (nats)"),
            ("valid/elbo", f"validation ELBO, {FIRST} images (nats)"),
        ],
        VARIANCE_PANEL,
    ),
)
