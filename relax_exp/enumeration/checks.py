"""Is an estimator right? Exact enumeration against many draws, decided by z-scores.

`check` compares the mean of many independent gradients with the enumerated one, coordinate by coordinate, and looks for
correlation between rows, which must be zero (a leak across the batch). Draws are made by vmapping over noise, so rows
are never repeated copies of one problem. The bound on |z| holds for a whole family of tests at once
(`relax_exp.testing.threshold`). That module does the same for estimators of anybody's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from relax_exp import estimators
from relax_exp.distributions import expectation, family_of, quadrature, states
from relax_exp.enumeration.problems import CONTEXT, Problem
from relax_exp.estimators.base import Estimator, as_objective
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import draw
from relax_exp.testing import ROUNDING

CHUNK_NUMBERS = 2_000_000  # noise of one vmapped call


class Verdict(NamedTuple):
    """What `check` measured.

    Attributes:
        largest_z: The largest |z| over coordinates.
        row_z: The largest |z| of the correlations between coordinates in different rows, which must be zero.
        tests: The number of z-scores in all, from which `threshold` follows.
        variance: The variance of one draw, averaged over coordinates.
        bias: The norm of the difference between the mean and the exact gradient.
        cosine: The cosine between the mean and the exact gradient.
        seconds_per_draw: The time that one draw took.
    """

    largest_z: float
    row_z: float
    tests: int
    variance: float
    bias: float
    cosine: float
    seconds_per_draw: float


def exact_gradient(problem: Problem, samples: int = 1, bound: bool = False) -> Tensor:
    """Compute d E[f] / d logits by enumeration, f's direct dependence on the logits included.

    A Gaussian (D = 1) is integrated by Gauss-Hermite quadrature. With ``bound`` the expectation is that of -log mean_k
    exp(-f(b_k)) over ``samples`` independent b_k.
    """
    family, f = family_of(problem.family, problem.event_shape), as_objective(problem.f)

    def of_rows(logits: Tensor) -> Tensor:
        if not family.discrete:
            points, weights = quadrature(logits)
            return (weights.unsqueeze(-1) * f.hard(points, logits)).sum()
        every = states(family, problem.event_shape, logits)
        values = f.hard(every, logits)
        return expectation(family.log_prob(logits, every), values, samples if bound else None).sum()

    return grad(of_rows)(problem.logits)


def perturbed(estimator: nn.Module, generator: torch.Generator, scale: float = 0.3) -> dict[str, Tensor]:
    """Return parameters and buffers moved away from where they start, since unbiasedness must not depend on them."""
    values: dict[str, Tensor] = {}
    for name, value in estimator.named_parameters():
        values[name] = value.detach() + scale * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    for name, value in estimator.named_buffers():
        shift = scale * torch.rand(value.shape, generator=generator) if value.is_floating_point() else 0
        values[name] = value + shift
    return values


def compare(
    one: Callable[[dict[str, Tensor]], Tensor],
    shapes: dict[str, tuple[int, ...]],
    exact: Tensor,
    draws: int,
    generator: torch.Generator,
    chunk: int,
    rows: int = 1,
) -> Verdict:
    """Compare the mean of ``draws`` values of ``one(noise)`` with ``exact``.

    The values are flat, with the coordinates of a row together.
    """
    count, seconds = 0, 0.0
    first, second = torch.zeros_like(exact), exact.new_zeros((len(exact), len(exact)))
    while count < draws:
        noise = draw(shapes, chunk, generator, exact.dtype)
        begun = time.perf_counter()
        deviation = vmap(one)(noise) - exact
        seconds += time.perf_counter() - begun
        first += deviation.sum(0)
        second += deviation.T @ deviation
        count += chunk
    mean = first / count
    covariance = (second - count * torch.outer(mean, mean)) / (count - 1)
    variance = covariance.diagonal().clamp(min=0)
    small = variance <= ROUNDING**2 + ROUNDING * mean.square()  # what cancellation leaves of no variance at all
    z = torch.where(small, torch.where(mean.abs() < ROUNDING, 0.0, math.inf), mean / (variance / count).sqrt())
    row = torch.arange(rows).repeat_interleave(len(exact) // rows)
    pairs = (row.unsqueeze(0) < row.unsqueeze(1)) & ~small & ~small.unsqueeze(1)
    correlation = covariance / torch.outer(variance, variance).sqrt()
    row_z = correlation[pairs].abs() * math.sqrt(count)
    return Verdict(
        float(z.abs().max()),
        float(row_z.max()) if len(row_z) else 0.0,
        len(z) + len(row_z),
        float(variance.mean()),
        float(mean.norm()),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # torch has no type of it
        float(torch.nn.functional.cosine_similarity(exact + mean, exact, dim=0)),
        seconds / count,
    )


def chunk_size(draws: int, shapes: dict[str, tuple[int, ...]], evaluations: int) -> int:
    """Return how many draws fit into one vmapped call, so that noise and what f is evaluated at fit into memory."""
    width = max(1, evaluations) * sum(math.prod(shape) for shape in shapes.values())
    return max(1, min(draws, CHUNK_NUMBERS // max(width, 1)))


def check(estimator: Estimator, problem: Problem, draws: int, seed: int = 0) -> Verdict:
    """Compare ``draws`` gradients of ``estimator``, in double precision, with the exact one."""
    generator = stream(seed, f"verify {problem.name}")
    state = perturbed(estimator, generator)
    logits, rows = problem.logits, len(problem.logits)
    context = torch.randn((rows, CONTEXT), generator=generator, dtype=torch.float64)
    exact = exact_gradient(problem, estimator.bound_samples, estimator.target == "bound").flatten()

    def one(noise: dict[str, Tensor]) -> Tensor:
        def total(logits: Tensor) -> tuple[Tensor, Tensor]:
            out = functional_call(estimator, state, (logits, problem.f), {"noise": noise, "context": context})
            return out.loss.sum(), out.grad

        if not problem.direct:
            return total(logits)[1].flatten()
        direct, gradient = grad(total, has_aux=True)(logits)
        return (gradient + direct).flatten()

    shapes = estimator.noise_shapes(rows)
    chunk = chunk_size(draws, shapes, estimator.evaluations)
    return compare(one, shapes, exact, draws, generator, chunk, 1 if problem.rare else rows)


def applies(name: str, options: dict[str, Any], problem: Problem) -> bool:
    """Tell whether the estimator is offered for the problem's family and f gives what it needs."""
    if problem.family not in estimators.lookup(name).families:
        return False
    if options.get("sampler") == "published_error" and problem.family != "categorical":
        return False
    return problem.smooth or estimators.needs(name, options) == "value"


def build(name: str, options: dict[str, Any], problem: Problem, seed: int = 0) -> Estimator:
    """Build the estimator for a problem, with a context."""
    generator = stream(seed, f"build {name}")
    return estimators.build(name, problem.family, problem.event_shape, (CONTEXT,), generator, **options).double()
