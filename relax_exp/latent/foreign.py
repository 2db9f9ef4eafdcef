"""`torch.distributions` objects as parameters of our families."""

from __future__ import annotations

import torch
from torch import Tensor, distributions

KINDS = {
    "bernoulli": (distributions.Bernoulli,),
    "categorical": (distributions.Categorical, distributions.OneHotCategorical),
    "gaussian": (distributions.Normal,),
}


def parameters_of(distribution: distributions.Distribution, family) -> Tensor:
    """Return a distribution's logits, or mean and log standard deviation, differentiable in what it was made from.

    ``Independent`` is looked into.

    Raises:
        ValueError: It is not of the family.
    """
    inner = distribution
    while isinstance(inner, distributions.Independent):
        inner = inner.base_dist
    if not isinstance(inner, KINDS[family.name]):
        allowed = " or ".join(kind.__name__ for kind in KINDS[family.name])
        raise ValueError(
            f"a {family.name} Latent takes logits or a torch.distributions.{allowed}, not {type(inner).__name__}"
        )
    if family.name == "gaussian":
        return torch.stack([inner.loc, inner.scale.log()], -1)
    return inner.logits
