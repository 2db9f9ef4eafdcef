"""What biased estimators of bits estimate: their own mean, enumerated, so that mistakes in them are found too.

`check_mean` compares an estimator with it. Where a slope is an average over a continuous draw, that is integrated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from relax_exp.distributions import family_of, states
from relax_exp.enumeration.checks import Verdict, build, chunk_size, compare
from relax_exp.enumeration.problems import CONTEXT, Problem
from relax_exp.estimators.base import as_objective
from relax_exp.numerics.random_streams import stream

POINTS = 4000  # of the midpoint rule over a uniform


def path_mean(problem: Problem, slope: Callable[[Tensor, Tensor], Tensor], forward: float = 1.0) -> Tensor:
    """Compute sum_b p(b) df/db slope(logits, b), where slope is that of each bit's stand-in, ``(S, N, D)``.

    The samples are those of logits / ``forward``.
    """
    family, f = family_of(problem.family, problem.event_shape), as_objective(problem.f)
    b = states(family, problem.event_shape, problem.logits)
    log_p = family.log_prob(problem.logits / forward, b)

    def total(b: Tensor) -> Tensor:
        return f.hard(b, problem.logits).sum()

    derivative: Tensor = grad(total)(b)
    return (log_p.exp().unsqueeze(-1) * derivative * slope(problem.logits, b)).sum(0)


def group_mean(problem: Problem, samples: int, advantage: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the mean of 1/K sum_k advantage_k d log p(b_k) / d logits over all groups of K samples."""
    family = family_of(problem.family, problem.event_shape)
    b = states(family, problem.event_shape, problem.logits)
    log_p, f = family.log_prob(problem.logits, b), as_objective(problem.f).hard(b, problem.logits)
    group = torch.tensor(list(itertools.product(range(len(b)), repeat=samples))).T  # (K, groups)
    weight = log_p[group].sum(0).exp() * advantage(f[group]) / samples  # (K, groups, N)
    return (weight.unsqueeze(-1) * family.score(problem.logits, b)[group]).sum((0, 1))


def variance(p: Tensor) -> Tensor:
    """Return p (1 - p), the slope of a probability in its logit."""
    return p * (1 - p)


def tempered(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the slope of sigma(logits / temperature)."""
    return lambda logits, b: variance(torch.sigmoid(logits / temperature)) / temperature


def rao(m: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Integrate the slope of sigma(z / temperature) over z = logit(m) + logistic noise given its sign, by b."""
    v = (torch.arange(POINTS, dtype=m.dtype) + 0.5).reshape(-1, *[1] * m.dim()) / POINTS
    u = torch.where(b > 0.5, 1 - m + m * v, (1 - m) * v)
    s = torch.sigmoid((torch.logit(m) + torch.logit(u)) / temperature)
    return (variance(s) / temperature).mean(0)


def rao_slope(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return 2 GR - J(p) / 2 for bits."""

    def slope(logits: Tensor, b: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        return 2 * rao((p + b) / 2, b, temperature) - variance(p) / 2

    return slope


def cv_slope(temperature: float, eta: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return 2 J((p_lambda + b) / 2) - J(p) / 2 - eta [J(m) / lambda - GR] for bits."""

    def slope(logits: Tensor, b: Tensor) -> Tensor:
        p, m = torch.sigmoid(logits), (torch.sigmoid(logits) + b) / 2
        second = 2 * variance((torch.sigmoid(logits / temperature) + b) / 2) - variance(p) / 2
        return second - eta * (variance(m) / temperature - rao(m, b, temperature))

    return slope


def normalized(f: Tensor) -> Tensor:
    """Return f less the group's mean, over its standard deviation, ``(K, ...)``."""
    return (f - f.mean(0)) / (f.std(0) + 1e-4)


def straight_through(problem: Problem, temperature: float = 1.0) -> Tensor:
    """Return the mean of `StraightThrough`."""
    return path_mean(problem, tempered(temperature))


def decoupled_st(problem: Problem, forward: float = 0.7, temperature: float = 1.5) -> Tensor:
    """Return the mean of `DecoupledST`."""
    return path_mean(problem, tempered(temperature), forward)


def reinmax_rao(problem: Problem, temperature: float = 1.0, draws: int = 10) -> Tensor:
    """Return the mean of `ReinMaxRao`, which does not depend on the draws."""
    return path_mean(problem, rao_slope(temperature))


def reinmax_cv(problem: Problem, temperature: float = 1.0, draws: int = 10, eta: float = 1.0) -> Tensor:
    """Return the mean of `ReinMaxCV`, which does not depend on the draws."""
    return path_mean(problem, cv_slope(temperature, eta))


def grpo(problem: Problem, samples: int = 4) -> Tensor:
    """Return the mean of `GRPO`."""
    return group_mean(problem, samples, normalized)


def dr_grpo(problem: Problem, samples: int = 4) -> Tensor:
    """Return the mean of `DrGRPO`."""
    return group_mean(problem, samples, lambda f: f - f.mean(0))


# The mean of an estimator of bits from its problem, with the options given there.
MEANS: dict[str, Callable[..., Tensor]] = {
    of.__name__: of for of in (straight_through, decoupled_st, reinmax_rao, reinmax_cv, grpo, dr_grpo)
}


def check_mean(name: str, options: dict[str, Any], problem: Problem, draws: int) -> Verdict:
    """Compare ``draws`` gradients of a biased estimator, in double precision, with its enumerated mean."""
    estimator, generator = build(name, options, problem), stream(0, f"mean {problem.name}")
    context = torch.randn((len(problem.logits), CONTEXT), generator=generator, dtype=torch.float64)
    shapes = estimator.noise_shapes(len(problem.logits))

    def one(noise: dict[str, Tensor]) -> Tensor:
        return estimator(problem.logits, problem.f, noise=noise, context=context).grad.flatten()

    mean = MEANS[name](problem, **options).flatten()
    chunk = chunk_size(draws, shapes, estimator.evaluations)
    return compare(one, shapes, mean, draws, generator, chunk, len(problem.logits))
