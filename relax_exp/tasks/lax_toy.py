"""Continuous toy problems: a black-box function of a Gaussian variable, its gradient known (RELAX draft, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relax_exp.tasks.registry import LaxToyOptions
from relax_exp.tasks.toy import ToyTask


class Problem(NamedTuple):
    """f of x = b - t, elementwise; the excess of its mean over its infimum where x ~ N(m, s^2); the infimum."""

    f: Callable[[Tensor], Tensor]
    excess: Callable[[Tensor, Tensor], Tensor]
    infimum: float


def cosine_excess(m: Tensor, s: Tensor) -> Tensor:
    """Return 1 - exp(-s^2 / 2) cos m, without the cancellation near the optimum."""
    damping = -s.square() / 2
    return 2 * damping.exp() * (m / 2).sin().square() - torch.expm1(damping)


PROBLEMS = {
    "quadratic": Problem(torch.square, lambda m, s: m.square() + s.square(), 0.0),
    "cosine": Problem(lambda x: -x.cos(), cosine_excess, -1.0),
    "step": Problem(
        lambda x: x.square() + (x < 0).to(x.dtype),
        lambda m, s: m.square() + s.square() + torch.special.ndtr(-m / s),
        0.0,
    ),
}


class LaxToy(ToyTask):
    """Minimise E[f(b)], b ~ N(mean, std^2), over mean and log std of ``latents`` variables: ``task=lax_toy``.

    problem: quadratic, f = (b - t)^2; cosine, f = -cos(b - t); step, f = (b - t)^2 plus 1 where b < t, a jump of which
    reparameterisation knows nothing. f is the mean over the latents. Every mean starts at 0, every log std at 0. The
    loss that is logged is exact.
    """

    name = "lax_toy"
    family = "gaussian"

    options: LaxToyOptions

    def __init__(self, estimator: dict[str, Any], options: LaxToyOptions, **given: Any):
        super().__init__(estimator, options, **given)
        self.problem = PROBLEMS[options.problem]

    @property
    def event_shape(self):
        return (self.options.latents,)

    def loss(self, b: Tensor) -> Tensor:
        """Return f(b), ``(..., D)`` -> ``(...)``."""
        return self.problem.f(b - self.options.t).mean(-1)

    def excess(self, parameters: Tensor) -> Tensor:
        """Return E[f] above its infimum, exactly, ``(..., D, 2)`` -> ``(...)``.

        Its gradient is that of E[f].
        """
        mean, log_std = parameters.unbind(-1)
        return self.problem.excess(mean - self.options.t, log_std.exp()).mean(-1)

    def evaluate(self, models, seeds, step, final):
        """Return the exact loss, its excess over the infimum, mean and std, and the gradient's variance."""
        parameters = models.params["logit"]
        excess, (mean, log_std) = self.excess(parameters), parameters.unbind(-1)
        exact = {"loss": excess + self.problem.infimum, "excess": excess, "mean": mean.mean(-1)}
        exact = {k: v.tolist() for k, v in (exact | {"std": log_std.exp().mean(-1)}).items()}
        variances = self.variance(models, seeds, step)
        return [{k: v[i] for k, v in exact.items()} | variances[i] for i in range(len(seeds))]
