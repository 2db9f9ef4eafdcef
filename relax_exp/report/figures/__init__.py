"""Figures, drawn from cells."""
