"""The exact gradient, by enumeration."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from relax_exp.distributions import count_states, expand_event, states, weighted
from relax_exp.errors import OptionError
from relax_exp.estimators.base import Estimator, Noise, Objective, Output
from relax_exp.estimators.registry import MAX_ENUMERATED


class Exact(Estimator):
    """The exact gradient, the sum over all b of p(b) f(b) d log p(b) / d logits.

    ``out.loss`` is the expectation of f, unless the caller evaluated f at the sample (a hierarchy, whose direct part
    comes from one evaluation for all layers). ValueError at construction above 2^16 states.
    """

    uses_f_b = False  # all states are evaluated in one batch

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.evaluations, said = count_states(self.family.name, self.event_shape)
        if self.evaluations > MAX_ENUMERATED:
            raise OptionError(
                f"exact enumerates {said} states; the limit is {MAX_ENUMERATED}: use fewer latents or another one"
            )

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        family = self.family
        every = states(family, self.event_shape, logits)
        values = self.evaluate(f.hard, every, logits)
        parts = weighted(family.log_prob(logits, every).exp().detach(), values)
        gradient = (expand_event(parts.detach(), family, parameters=True) * family.score(logits, every)).sum(0)
        loss = parts.sum(0) if f_b is None else f_b
        return Output(gradient, loss, self.sample(logits, noise), {}, {})
