"""Every family of variables by name."""

from __future__ import annotations

import math

from torch import Tensor

from relax_exp.distributions.base import Family
from relax_exp.distributions.bernoulli import Bernoulli
from relax_exp.distributions.categorical import Categorical
from relax_exp.distributions.gaussian import Gaussian
from relax_exp.distributions.permutation import Permutation
from relax_exp.distributions.subset import Subset
from relax_exp.distributions.top_k import TopK

FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (Bernoulli, Categorical, Gaussian, Permutation, Subset, TopK)
}
# Those whose variables are independent of each other, with noise in the shape of a sample.
INDEPENDENT = {name: family for name, family in FAMILIES.items() if not family.structured}


def family_of(name: str, event_shape: tuple[int, ...]) -> type[Family]:
    """Return the family of that name for events of that shape, which tells subsets their size."""
    return FAMILIES[name].of(event_shape)


def count_states(name: str, event_shape: tuple[int, ...]) -> tuple[int, str]:
    """Return the number of samples that `states` enumerates, and that number as it is written: "2^3"."""
    size = event_shape[0]
    if name == "permutation":
        return math.factorial(size), f"{size}!"
    if name in ("subset", "top_k"):
        return math.comb(*event_shape), f"{size} choose {event_shape[1]}"
    base = 2 if name == "bernoulli" else event_shape[1]
    return base**size, f"{base}^{size}"


def states(family: type[Family], event_shape: tuple[int, ...], logits: Tensor) -> Tensor:
    """Return all samples, for every row of ``logits``, ``(S, ..., event)``."""
    every = family.enumerate(event_shape, dtype=logits.dtype, device=logits.device)
    rows = logits.shape[: logits.dim() - family.parameter_dims]
    return every.reshape(len(every), *(1 for _ in rows), *every.shape[1:]).expand(len(every), *rows, *every.shape[1:])
