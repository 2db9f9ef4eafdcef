"""Score-function estimators whose K independent samples are one another's baseline: RLOO and VIMCO."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relax_exp.errors import OptionError
from relax_exp.estimators.base import ScoreFunction, Signal


class RLOO(ScoreFunction):
    """REINFORCE leave-one-out (Kool et al. 2019), alias VarGrad (Richter et al. 2020), with ``samples`` = K >= 2 draws.

    1/K sum_k [f(b_k) - mean_{j != k} f(b_j)] s_k = 1/(K - 1) sum_k [f(b_k) - mean_j f(b_j)] s_k, with s_k the score d
    log p(b_k) / d logits.
    """

    def __init__(self, *args: Any, samples: int = 4, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.samples = self.evaluations = at_least_two(samples, self)

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f minus the mean of the other samples."""
        return (f_b - f_b.mean(0)) * (self.samples / (self.samples - 1)), {}, {}


class VIMCO(ScoreFunction):
    """VIMCO (Mnih & Rezende 2016): the gradient of the bound -log mean_k w_k with w_k = exp(-f(b_k)).

    sum_k [-log mean_j w_j + log mean_j w_j^(-k)] d log p(b_k) / d logits, where w^(-k) has w_k replaced by the mean of
    the other K - 1 weights, geometric (the paper's choice) or arithmetic (``mean``). f is the full negative log weight;
    the rest of the bound's gradient, sum_k w_k / sum_j w_j d f(b_k), is the direct part and comes from ``out.loss``.
    """

    target = "bound"

    def __init__(self, *args: Any, samples: int = 4, mean: str = "geometric", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.samples = self.evaluations = at_least_two(samples, self)
        self.geometric = mean == "geometric"

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return the bound minus the bound without sample k.

        It is times K, as it is summed over k where the base class averages.
        """
        k = self.samples
        # The difference does not change when all log weights are shifted; with the largest at 0 it loses no digits.
        log_w = (f_b.amin(0) - f_b).unsqueeze(0)
        own = torch.eye(k, dtype=torch.bool, device=f_b.device).unsqueeze(-1)
        others = log_w.masked_fill(own, -math.inf).logsumexp(1)
        geometric, arithmetic = log_w.masked_fill(own, 0.0).sum(1) / (k - 1), others - math.log(k - 1)
        substitute = geometric if self.geometric else arithmetic
        return k * (torch.logaddexp(others, substitute) - log_w.logsumexp(1)), {}, {}

    def loss_of(self, f_b: Tensor) -> Tensor:
        """Return the bound -log mean_k w_k: ``(K, N)`` -> ``(N,)``."""
        return math.log(self.samples) - (-f_b).logsumexp(0)


def at_least_two(samples: int, estimator: ScoreFunction, option: str = "samples") -> int:
    """Return ``samples``, or raise ValueError where there is no other sample to take a baseline from."""
    if samples < 2:
        raise OptionError(f"{type(estimator).__name__}: {option}={samples} must be at least 2, to leave one out")
    return samples
