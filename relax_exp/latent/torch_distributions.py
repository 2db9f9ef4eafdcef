"""`torch.distributions` objects as parameters of our families."""

from __future__ import annotations

import torch
from torch import Tensor, distributions

from relax_exp.distributions import Family

Kind = distributions.Bernoulli | distributions.Categorical | distributions.OneHotCategorical | distributions.Normal
KINDS: dict[str, tuple[type[Kind], ...]] = {
    "bernoulli": (distributions.Bernoulli,),
    "categorical": (distributions.Categorical, distributions.OneHotCategorical),
    "gaussian": (distributions.Normal,),
}


def parameters_of(distribution: distributions.Distribution, family: type[Family]) -> Tensor:
    """Return a distribution's logits, or mean and log standard deviation, differentiable in what it was made from.

    ``Independent`` is looked into.

    Raises:
        ValueError: It is not of the family.
    """
    inner = distribution
    while isinstance(inner, distributions.Independent):
        inner = inner.base_dist
    kinds = KINDS[family.name]
    if not isinstance(inner, kinds):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"a {family.name} Latent takes logits or a torch.distributions.{allowed}, not {type(inner).__name__}"
        )
    return torch.stack([inner.loc, inner.scale.log()], -1) if isinstance(inner, distributions.Normal) else inner.logits
