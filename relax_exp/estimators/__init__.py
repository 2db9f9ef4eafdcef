"""Every estimator behind one contract (`relax_exp.estimators.base`), by name (`relax_exp.estimators.registry`)."""

from relax_exp.estimators.registry import FROM_EPISODES, REGISTRY, SMALL, Entry, build, lookup, names, needs

__all__ = ["FROM_EPISODES", "REGISTRY", "SMALL", "Entry", "build", "lookup", "names", "needs"]
