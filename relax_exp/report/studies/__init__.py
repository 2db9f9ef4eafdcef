"""Runs that measure and leave no curves: a module each, with ``tables(run)``, ``figures(run)`` and ``label(run)``."""

from relax_exp.report.studies import histograms, simplex, temperature, verification

STUDIES = {"temperature": temperature, "simplex": simplex, "histograms": histograms, "verify": verification}
