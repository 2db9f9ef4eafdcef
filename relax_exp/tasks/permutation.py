"""The toy problem of permutations: bring a permutation matrix near a target that prefers the diagonal a little."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax_exp.distributions import Permutation as Family
from relax_exp.distributions import states
from relax_exp.tasks.registry import PermutationOptions
from relax_exp.tasks.toy import ToyTask


class Permutation(ToyTask):
    """Minimise E |P - T|^2 over the Plackett-Luce logits of ``items`` ranks, from zeros: ``task=permutation``.

    T has 1 / D + ``eps`` on the diagonal and 1 / D - eps / (D - 1) beside it (Gadetsky et al. 2020, section 6.1): the
    best ranking is the identity, and the losses of others are little more. What is logged is exact, by enumeration of
    all D!: ``loss``, its ``excess`` over the minimum and ``p_best``, the identity's probability.
    """

    name = "permutation"
    family = "permutation"

    options: PermutationOptions

    def __init__(self, estimator: dict[str, Any], options: PermutationOptions, **given: Any):
        super().__init__(estimator, options, **given)
        items, eps, like = options.items, options.eps, {"dtype": self.dtype, "device": self.device}
        eye = torch.eye(items, **like)
        self.goal = 1 / items + eps * eye - eps / max(items - 1, 1) * (1 - eye)
        self.values = self.loss(Family.enumerate((items,), **like))

    @property
    def event_shape(self):
        """(D,)."""
        return (self.options.items,)

    def loss(self, b: Tensor) -> Tensor:
        """|P - T|^2 of (soft) permutation matrices, ``(..., D, D)`` -> ``(...)``."""
        return (b - self.goal).square().sum((-2, -1))

    def evaluate(self, models, seeds, step, final):
        """Exact loss, its excess, the probability of the identity, and the gradient's variance from fresh draws."""
        rows = self.variance(models, seeds, step)
        above = self.values - self.values.min()
        for i, row in enumerate(rows):
            logits = models.params["logit"][i]
            p = Family.log_prob(logits, states(Family, self.event_shape, logits)).exp()
            row |= {"loss": float(p @ self.values), "excess": float(p @ above), "p_best": float(p[above.argmin()])}
        return rows
