"""Runs that measure and train at most on the side."""
