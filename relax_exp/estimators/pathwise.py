"""Biased estimators that differentiate f through a relaxed sample: Concrete and straight-through."""

from __future__ import annotations

from torch import Tensor
from torch.func import grad, vjp

from relax_exp.estimators.base import Estimator, Output


class Pathwise(Estimator):
    """d f(s(logits, u)) / d logits for a differentiable stand-in s of the sample, which a subclass gives as ``relax``.

    In a hierarchy s of every layer feeds the next, as in the papers: a task chains ``relax`` and differentiates once.
    ``out.loss`` is f at s, whose ordinary gradient trains the decoder.
    """

    unbiased = False
    needs = "relaxed"

    def relax(self, logits: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """s, shape of a sample, differentiable in the logits."""
        raise NotImplementedError(f"{type(self).__name__} does not implement relax")

    def sample(self, logits, noise):
        """s as a value."""
        return self.relax(logits, noise).detach()

    def estimate(self, logits, f, noise, context, f_b):
        """See `Estimator.estimate`."""
        s, pull = vjp(lambda logits: self.relax(logits, noise), logits)
        s = s.detach()
        objective = f.relaxed if self.needs == "relaxed" else f.hard
        slope = grad(lambda s: self.evaluate(objective, s, logits).sum())(s)
        loss = self.evaluate(objective, s, logits) if f_b is None else f_b
        return Output(pull(slope)[0], loss, s, {}, {})


class Concrete(Pathwise):
    """Concrete / Gumbel-Softmax (Maddison et al. 2017, Jang et al. 2017; RELAX draft, eq. 4) at a fixed temperature."""

    def __init__(self, *args, temperature: float = 0.5, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def relax(self, logits, noise):
        """sigma_lambda(z)."""
        return self.family.relax(self.family.path(logits, noise["u"]), self.temperature)


class StraightThrough(Pathwise):
    """Straight-through (Bengio et al. 2013): the hard sample forward, the mean's derivative backward."""

    needs = "gradient"

    def relax(self, logits, noise):
        """The hard sample in value, the mean in slope."""
        mean = self.family.mean(logits)
        return mean + (self.family.sample(logits, noise["u"]) - mean).detach()
