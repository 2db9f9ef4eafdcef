"""MuProp: the score function corrected by the first-order Taylor expansion of f at the mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from relax_exp.distributions import expand_event, sum_event
from relax_exp.errors import OptionError
from relax_exp.estimators.base import Noise, Objective, Output, mean_square
from relax_exp.estimators.score import NVIL


class MuProp(NVIL):
    """MuProp (Gu et al. 2016): the score function with f's first-order Taylor expansion at the mean as control variate.

        [f(b) - h(b) - baseline] d log p(b) / d logits + f'(m) d m / d logits,    h(b) = f(m) + f'(m) (b - m),

    with m the mean of b, passed through f's mean-field pass. The baseline is NVIL's, fitted to the residual f - h. The
    Taylor term is exact whatever f does: E[h(b) score] = f'(m) dm/dlogits. One sample a row: ValueError for more.

    With ``scales="learned"`` h(b) = eta_0 f(m) + eta_1 f'(m) (b - m), its mean eta_1 f'(m) dm / dlogits, as in Tucker's
    code. Any scales are unbiased; they are tuned, and the baseline with them, by the variance of the gradient.
    """

    needs = "relaxed"

    def __init__(self, *args: Any, scales: str = "fixed", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scales = nn.Parameter(torch.ones(2)) if scales == "learned" else None
        if self.samples != 1:
            raise OptionError(f"MuProp: samples={self.samples} must be 1")
        self.evaluations = 2

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        family = self.family
        b = self.sample(logits, noise)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        mean, pull = vjp(family.mean, logits)[:2]

        def at_mean(m: Tensor):
            values = self.evaluate(f.mean, m, logits, True)
            return values.sum(), values

        slope, f_mean = grad(at_mean, has_aux=True)(mean)
        constant, linear = f_mean.detach(), sum_event(slope * (b - mean), family).detach()
        along, score = pull(slope)[0], family.score(logits, b)
        if self.scales is None:
            signal, aux, buffers = self.signal((f_b.detach() - constant - linear), context)
            return Output(expand_event(signal, family) * score + along, f_b, b, aux, buffers)
        residual = f_b.detach() - self.scales[0] * constant - self.scales[1] * linear
        signal, aux, buffers = self.signal(residual, context)
        gradient = expand_event(signal, family) * score + self.scales[1] * along
        aux |= {"eta_constant": self.scales[0], "eta_linear": self.scales[1]}
        return Output(gradient, f_b, b, aux, {k: v.detach() for k, v in buffers.items()})

    def tuning_loss(self, out: Output) -> Tensor:
        """Return NVIL's loss of the baseline, or `mean_square` of the gradient where scales are learned."""
        return super().tuning_loss(out) if self.scales is None else mean_square(out.grad)

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Raise TypeError: MuProp needs f's derivative at the mean, so it cannot work from samples alone."""
        raise TypeError("MuProp needs f itself: call it with f, not from_sample")
