"""Every family of variables by name: those of `relax_exp.distributions`, permutations and subsets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from relax_exp import distributions
from relax_exp.permutations import Permutation
from relax_exp.subsets import Subset

FAMILIES: dict[str, Any] = {**distributions.FAMILIES, Permutation.name: Permutation, Subset.name: Subset}


def family_of(name: str, event_shape: tuple[int, ...]) -> Any:
    """Return the family of that name for events of that shape, which tells subsets their size."""
    family = FAMILIES[name]
    return family.of(event_shape) if family is Subset else family


def states(family: Any, event_shape: tuple[int, ...], logits: Tensor) -> Tensor:
    """Return all samples, for every row of ``logits``, ``(S, ..., event)``."""
    every = family.enumerate(event_shape, dtype=logits.dtype, device=logits.device)
    rows = logits.shape[: logits.dim() - family.parameter_dims]
    return every.reshape(len(every), *(1 for _ in rows), *every.shape[1:]).expand(len(every), *rows, *every.shape[1:])
