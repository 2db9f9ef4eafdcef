"""The exact gradient, by enumeration."""

from __future__ import annotations

import math

from relax_exp.distributions import expand_event, weighted
from relax_exp.estimators.base import Estimator, Output

MAX_STATES = 2**16


class Exact(Estimator):
    """The exact gradient, the sum over all b of p(b) f(b) d log p(b) / d logits.

    ``out.loss`` is the expectation of f, unless the caller evaluated f at the sample (a hierarchy, whose direct part
    comes from one evaluation for all layers). ValueError at construction above 2^16 states.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        size = self.event_shape[0]
        base = 2 if self.family.name == "bernoulli" else self.event_shape[1]
        self.evaluations = base**size
        if size * math.log2(base) > math.log2(MAX_STATES):
            raise ValueError(
                f"exact enumerates {base}^{size} states; the limit is {MAX_STATES}: use fewer latents or another one"
            )

    def estimate(self, logits, f, noise, context, f_b):
        family = self.family
        states = family.enumerate(self.event_shape, dtype=logits.dtype, device=logits.device).unsqueeze(1)
        states = states.expand(-1, *logits.shape)
        values = self.evaluate(f.hard, states, logits)
        parts = weighted(family.log_prob(logits, states).exp().detach(), values)
        gradient = (expand_event(parts.detach(), family) * family.score(logits, states)).sum(0)
        loss = parts.sum(0) if f_b is None else f_b
        return Output(gradient, loss, self.sample(logits, noise), {}, {})
