"""Text with latents over time."""

from relax_exp.report.kinds.base import COMMON, LAST_LOG_VARIANCE, LOG, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import TIME, final

SEQUENCE = Kind(
    "sequence",
    "Text with latents over time",
    label="text, order {order}",
    by_name=True,
    best=(-1, ("valid/bpc100",), "final bits per character"),
    rows=("task.relaxed", "task.categories"),
    columns=(
        final("train bpc", "train/bpc", decimals=3),
        final("held-out bpc", "valid/bpc", decimals=3),
        final("held-out bpc, 100 samples", "valid/bpc100", decimals=3),
        final("order-2 counts", "valid/bpc_counts", decimals=3),
        LAST_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Bits per character of the discrete bound, lower is better; with one category the model has no "
    f"latents. Counts: an order-2 count model on the same held-out characters. {LOG}.",
    panels=(
        [("train/bpc", "training bits per character")],
        [("valid/bpc100", "held-out bits per character")],
        VARIANCE_PANEL,
    ),
    estimator=lambda task: "no latents" if task.get("categories") == 1 else "",
)
