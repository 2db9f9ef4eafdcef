"""MuProp: the score function corrected by the first-order Taylor expansion of f at the mean."""

from __future__ import annotations

from torch.func import grad, vjp

from relax_exp.distributions import expand_event, sum_event
from relax_exp.estimators.base import Output
from relax_exp.estimators.score import NVIL


class MuProp(NVIL):
    """MuProp (Gu et al. 2016): the score function with f's first-order Taylor expansion at the mean as control variate.

        [f(b) - h(b) - baseline] d log p(b) / d logits + f'(m) d m / d logits,    h(b) = f(m) + f'(m) (b - m),

    with m the mean of b, passed through f's mean-field pass. The baseline is NVIL's, fitted to the residual f - h. The
    Taylor term is exact whatever f does: E[h(b) score] = f'(m) dm/dlogits. One sample a row: ValueError for more.
    """

    needs = "relaxed"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.samples != 1:
            raise ValueError(f"MuProp: samples={self.samples} must be 1")
        self.evaluations = 2

    def estimate(self, logits, f, noise, context, f_b):
        family = self.family
        b = self.sample(logits, noise)
        if f_b is None:
            f_b = self.evaluate(f.hard, b, logits)
        mean, pull = vjp(family.mean, logits)

        def at_mean(m):
            values = self.evaluate(f.mean, m, logits, True)
            return values.sum(), values

        slope, f_mean = grad(at_mean, has_aux=True)(mean)
        taylor = f_mean + sum_event(slope * (b - mean), family)
        signal, aux, buffers = self.signal((f_b - taylor).detach(), context)
        gradient = expand_event(signal, family) * family.score(logits, b) + pull(slope)[0]
        return Output(gradient, f_b, b, aux, buffers)

    def from_sample(self, logits, b, f_b, noise=None, context=None):
        """Raise TypeError: MuProp needs f's derivative at the mean, so it cannot work from samples alone."""
        raise TypeError("MuProp needs f itself: call it with f, not from_sample")
