"""The variance of a gradient as the REBAR code logs it: from moving averages along the trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from relax_exp.numerics.sums import total


class MovingVariance:
    """The average of g^2 less the square of the average of g, and of that the mean over all parameters.

    The averages keep ``decay`` of themselves in each step and start at zero, without a correction for that start
    (Tucker et al. 2017, where TensorFlow's default has none): while 1 / (1 - decay) steps are not past, the variance
    reads too low. The decoder's and the prior's parameters are among them, and images and parameters move meanwhile, so
    that it is another quantity than ``grad/log_variance``. A pure function.
    """

    def __init__(self, decay: float):
        self.decay = decay

    def start(self, params: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the averages before the first step."""
        return {which: {k: torch.zeros_like(v.detach()) for k, v in params.items()} for which in ("mean", "square")}

    def __call__(self, moments: dict[str, dict[str, Tensor]], gradient: dict[str, Tensor]) -> tuple[dict, Tensor]:
        """Return the averages with one more gradient, and the variance, a scalar."""

        def moved(old: Tensor, new: Tensor) -> Tensor:
            return self.decay * old + (1 - self.decay) * new

        mean = {k: moved(moments["mean"][k], g) for k, g in gradient.items()}
        square = {k: moved(moments["square"][k], g.square()) for k, g in gradient.items()}
        variance = total((square[k] - mean[k].square()).sum() for k in gradient)
        return {"mean": mean, "square": square}, variance / sum(g.numel() for g in gradient.values())
