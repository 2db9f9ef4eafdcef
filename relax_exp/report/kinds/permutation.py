"""The toy problem of permutations."""

from relax_exp.report.kinds.base import COMMON, LOG, RUN, VARIANCE_PANEL, Kind
from relax_exp.report.kinds.categorical_toy import CATEGORICAL_TOY

PERMUTATION = Kind(
    "permutation",
    "Permutations",
    label="{items} items",
    by_name=True,
    best=CATEGORICAL_TOY.best,
    columns=CATEGORICAL_TOY.columns,
    note=f"{COMMON} Exact loss, its excess over the minimum, and the probability of the best ranking: all exact, by "
    f"enumeration. {LOG}, {RUN}",
    panels=(
        [("excess", "exact loss above its minimum")],
        [("p_best", "probability of the best ranking")],
        VARIANCE_PANEL,
    ),
)
