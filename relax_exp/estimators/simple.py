"""Straight-through for subsets, with the slope of their exact marginals."""

from __future__ import annotations

from torch import Tensor

from relax_exp.estimators.base import Noise
from relax_exp.estimators.pathwise import Pathwise, hard_with_slope


class SIMPLE(Pathwise):
    """SIMPLE (Ahmed et al. 2023): an exact sample of a subset of k items forward, its exact marginals backward.

        d P(b_i = 1) / d logits_j = Cov[b_i, b_j]

    This is the slope of the marginals. The gradient is biased, but where f is linear. For independent bits this is
    `StraightThrough`.
    """

    needs = "gradient"

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the sample in value, with the slope of the marginals."""
        return hard_with_slope(self.family.sample(logits.detach(), noise["u"]), self.family.mean(logits))
