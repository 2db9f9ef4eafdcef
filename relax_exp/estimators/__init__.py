"""Every estimator behind one contract (`relax_exp.estimators.base`), by name (`relax_exp.estimators.registry`)."""

from relax_exp.estimators.registry import (
    FROM_EPISODES,
    REGISTRY,
    SMALL,
    TIED,
    B,
    C,
    Entry,
    G,
    build,
    lookup,
    names,
    needs,
    target,
)

__all__ = [
    "FROM_EPISODES",
    "REGISTRY",
    "SMALL",
    "TIED",
    "B",
    "C",
    "Entry",
    "G",
    "build",
    "lookup",
    "names",
    "needs",
    "target",
]
