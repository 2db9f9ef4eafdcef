"""The toy problem of permutations."""

from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.kinds.toy import TOY
from relax_exp.report.statistics import MEAN_LOG_VARIANCE, TIME, final

PERMUTATION = Kind(
    "permutation",
    "Permutations",
    label="{items} items",
    by_name=True,
    best=TOY.best,
    columns=(
        final("excess loss × 10³", "excess", 1e3),
        final("exact loss", "loss", decimals=4),
        final("p(best)", "p_best", decimals=3),
        MEAN_LOG_VARIANCE,
        TIME,
    ),
    note=f"{COMMON} Exact loss, its excess over the minimum, and the probability of the best ranking: all exact, by "
    f"enumeration. {LOG}, {RUN}",
    panels=([("loss", "exact loss")], [("p_best", "probability of the best ranking")], VARIANCE_PANEL),
)
