"""The variance of a gradient as the REBAR code logs it: from moving averages along the trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

Moments = dict


class MovingVariance:
    """Mean over all parameters (decoder and prior too) of the average of g^2 less the square of the average of g.

    Averages with ``decay`` per step from zero, corrected for that start (Tucker et al. 2017). The images and parameters
    move meanwhile, so that it is larger than ``grad/log_variance``, and of another kind. A pure function.
    """

    def __init__(self, decay: float):
        self.decay = decay

    def start(self, params: dict[str, Tensor]) -> Moments:
        """Averages before the first step, and their weight."""
        zeros = {k: torch.zeros_like(v, requires_grad=False) for k, v in params.items()}
        one = next(iter(zeros.values())).new_zeros(())
        return {"mean": zeros, "square": {k: v.clone() for k, v in zeros.items()}, "weight": one}

    def __call__(self, moments: Moments, gradient: dict[str, Tensor]) -> tuple[Moments, Tensor]:
        """The averages with one more gradient, and the variance, a scalar."""

        def moved(old: Tensor, new: Tensor) -> Tensor:
            return self.decay * old + (1 - self.decay) * new

        mean = {k: moved(moments["mean"][k], g) for k, g in gradient.items()}
        square = {k: moved(moments["square"][k], g.square()) for k, g in gradient.items()}
        weight = moved(moments["weight"], torch.ones_like(moments["weight"]))
        total = sum((square[k] / weight - (mean[k] / weight).square()).sum() for k in gradient)
        return {"mean": mean, "square": square, "weight": weight}, total / sum(g.numel() for g in gradient.values())
