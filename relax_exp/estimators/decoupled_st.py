"""Straight-through with one temperature to sample and another to differentiate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from relax_exp.estimators.base import Noise
from relax_exp.estimators.pathwise import Pathwise, hard_with_slope


class DecoupledST(Pathwise):
    """Decoupled straight-through (Shah et al. 2024, arXiv 2410.13331v2), with one temperature for each direction.

    The sample is a hard one of logits / ``forward``; the slope is that of the mean of logits / ``temperature``. With
    forward = 1 it is `StraightThrough`. With another one the sample is not distributed as p(b): it is less random below
    1, more above, a bias of its own on top of that of the slope.
    """

    needs = "gradient"

    def __init__(self, *args: Any, forward: float = 0.7, temperature: float = 1.5, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.forward_temperature, self.temperature = forward, temperature
        self.draws_p = forward == 1

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope of the mean."""
        b = self.family.sample(logits.detach() / self.forward_temperature, noise["u"])
        return hard_with_slope(b, self.family.relax(logits, self.temperature))
