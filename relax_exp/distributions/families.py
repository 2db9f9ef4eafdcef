"""Every family of variables by name."""

from __future__ import annotations

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


def states(family: type[Family], event_shape: tuple[int, ...], logits: Tensor) -> Tensor:
    """Return all samples, for every row of ``logits``, ``(S, ..., event)``."""
    every = family.enumerate(event_shape, dtype=logits.dtype, device=logits.device)
    rows = logits.shape[: logits.dim() - family.parameter_dims]
    return every.reshape(len(every), *(1 for _ in rows), *every.shape[1:]).expand(len(every), *rows, *every.shape[1:])
