"""Kinds of cell: what the tables and figures show of each."""
