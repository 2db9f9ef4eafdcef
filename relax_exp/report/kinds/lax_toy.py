"""The continuous toy problems."""

from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.kinds.toy import TOY
from relax_exp.report.statistics import MEAN_LOG_VARIANCE, TIME, final

LAX_TOY = Kind(
    "lax_toy",
    "Continuous toy problem",
    label="Gaussian, {problem}",
    by_name=True,
    best=TOY.best,
    columns=(
        final("excess loss × 10³", "excess", 1e3),
        final("mean", "mean", decimals=3),
        final("std", "std", decimals=3),
        MEAN_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Excess loss: exact expected loss above its infimum; mean and standard deviation of the Gaussian. "
    f"{LOG}, {RUN}",
    panels=([("excess", "exact loss above its minimum")], [("std", "standard deviation of b")], VARIANCE_PANEL),
)
