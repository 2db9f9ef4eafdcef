"""The categorical toy problems."""

from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.kinds.toy import TOY
from relax_exp.report.statistics import MEAN_LOG_VARIANCE, TIME, final

CATEGORICAL_TOY = Kind(
    "categorical_toy",
    "Categorical toy problem",
    label="{problem} problem",
    by_name=True,
    best=TOY.best,
    columns=(
        final("excess loss × 10³", "excess", 1e3),
        final("exact loss", "loss", decimals=4),
        final("p(best)", "p_best", decimals=3),
        MEAN_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Exact loss, its excess over the minimum, and the probability of the best category: all exact. "
    f"{LOG}, {RUN}",
    panels=(
        [("excess", "exact loss above its minimum")],
        [("p_best", "probability of the best category")],
        VARIANCE_PANEL,
    ),
)
