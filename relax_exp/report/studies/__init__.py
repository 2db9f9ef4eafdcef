"""Runs that measure and leave no curves: a module each, with ``tables(run)``, ``figures(run)`` and ``label(run)``."""

from relax_exp.report.studies import temperature, verification

STUDIES = {"temperature": temperature, "verify": verification}
