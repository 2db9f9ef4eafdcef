"""Sums of tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FACTORS = 7  # at most, of the product whose logarithm is taken: it stays under 2^7, and rounding stays small


def total(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of one tensor or more, added one after the other."""
    first, *others = parts
    return sum(others, first)


def softplus_sum(x: Tensor) -> Tensor:
    """Return the sum of log(1 + e^x) over the last dimension, with one logarithm for several terms.

    A term is max(x, 0) + log(1 + e^-|x|), and logarithms of factors between one and two are added by multiplying the
    factors. That is the quicker where nothing is differentiated. The error is absolute, half a unit in the last place
    of one for a term, so terms near zero are lost in it.
    """
    size = x.shape[-1]
    together = max(k for k in range(1, FACTORS + 1) if size % k == 0)
    factors = 1 + torch.exp(-x.abs())
    return x.relu().sum(-1) + factors.unflatten(-1, (together, -1)).prod(-2).log().sum(-1)
