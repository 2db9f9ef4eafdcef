"""Sums of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def total(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of one tensor or more, added one after the other."""
    first, *others = parts
    return sum(others, first)
