"""Exact enumeration, against which every estimator is verified."""
