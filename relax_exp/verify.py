"""Is an estimator right? Exact enumeration against many draws, decided by z-scores.

`check` compares the mean of many independent gradients with the enumerated one, coordinate by coordinate, and looks for
correlation between rows, which must be zero (a leak across the batch). Draws are made by vmapping over noise, so rows
are never repeated copies of one problem. The bound on |z| holds for a whole family of tests at once (`threshold`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call, grad, vmap

from relax_exp import estimators
from relax_exp.distributions import FAMILIES
from relax_exp.estimators.base import Estimator, Objective, as_objective
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.streams import stream
from relax_exp.tasks.base import Model, draw
from relax_exp.tasks.hierarchy import Hierarchy, by_layer, context_shapes

FAMILY_WISE = 1e-6  # probability that any z-score of a whole table exceeds its threshold by chance
CONTEXT = 5  # numbers in a row's context
CHUNK_NUMBERS = 2_000_000  # noise of one vmapped call
ROUNDING = 1e-9  # difference of a noiseless coordinate that counts as none
STEP = 1e-3  # of differences of a loss


class Problem(NamedTuple):
    """An expectation small enough to enumerate: ``(N, ...)`` logits and a loss, plain or an `Objective`.

    ``smooth``: f accepts soft samples. ``direct``: it also depends on the logits directly. ``rare``: has states so rare
    that two rows' are never seen together, so that a correlation between rows cannot be judged.
    """

    name: str
    family: str
    event_shape: tuple[int, ...]
    logits: Tensor
    f: Callable[[Tensor], Tensor] | Objective
    smooth: bool = True
    direct: bool = False
    rare: bool = False


class Verdict(NamedTuple):
    """What `check` measured.

    ``largest_z`` over coordinates and ``row_z`` over pairs of coordinates in different rows, ``tests`` of them in all;
    ``variance`` of one draw, mean over coordinates; ``bias`` and ``cosine`` of the mean against the exact gradient.
    """

    largest_z: float
    row_z: float
    tests: int
    variance: float
    bias: float
    cosine: float
    seconds_per_draw: float


def threshold(tests: int, probability: float = FAMILY_WISE) -> float:
    """The |z| that any of ``tests`` standard normals exceeds with at most that probability (Bonferroni)."""
    return float(stats.norm.isf(probability / (2 * max(tests, 1))))


def smooth_loss(event_shape: tuple[int, ...], rows: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A non-separable loss, different in every row, that accepts soft samples: ``(..., N, event)`` -> ``(..., N)``."""
    size, dims = math.prod(event_shape), len(event_shape)
    w = torch.randn((rows, size, 4), generator=generator, dtype=torch.float64)
    v = torch.randn((rows, size), generator=generator, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        x = b.flatten(-dims)
        mixed = (x.unsqueeze(-2) @ w.to(x)).squeeze(-2)
        return torch.tanh(mixed).sum(-1) + (x * v.to(x)).sum(-1).square()

    return f


def table_loss(
    family: str, event_shape: tuple[int, ...], rows: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """A table of random numbers, one for each state, different in every row: a black box."""
    states = FAMILIES[family].enumerate(event_shape, dtype=torch.float64)
    table = torch.randn((rows, len(states)), generator=generator, dtype=torch.float64)
    base = 2 if family == "bernoulli" else event_shape[1]
    powers = base ** torch.arange(event_shape[0] - 1, -1, -1)

    def f(b: Tensor) -> Tensor:
        digits = b.round().long() if family == "bernoulli" else b.argmax(-1)
        chosen = (digits * powers).sum(-1, keepdim=True) == torch.arange(len(states))
        return torch.where(chosen, table.to(b.dtype), 0.0).sum(-1)

    return f


def direct_loss(f: Callable[[Tensor], Tensor], dims: int) -> Objective:
    """f plus a term in the sample *and* the logits, such as log q in an ELBO; ``dims`` of one row's sample."""

    def total(b: Tensor, logits: Tensor) -> Tensor:
        return f(b) + (torch.tanh(logits) * b + 0.3 * logits.square()).sum(tuple(range(-dims, 0)))

    return Objective(total, total, total)


def problems(rows: int = 3, seed: int = 0) -> list[Problem]:
    """Black box and smooth losses, direct dependence on the logits, extreme logits; all three families."""
    made = []
    cases = {
        "bernoulli": {(4,): "table", (3,): "smooth direct extreme", (1,): "smooth"},
        "categorical": {(2, 3): "table smooth direct extreme", (1, 5): "table smooth"},
    }
    for family, shapes in cases.items():
        for shape, kinds in shapes.items():
            tag = f"{family} {'x'.join(map(str, shape))}"
            generator = stream(seed, f"problem {tag}")
            wide = 6 * torch.rand((rows, *shape), generator=generator, dtype=torch.float64) - 3
            # Log-odds of 8; rarer states than those would not be seen in 100,000 draws.
            size = 8.0 if family == "bernoulli" else 4.0
            extreme = size * (2 * torch.rand(wide.shape, generator=generator).round().double() - 1)
            extreme[..., 0] = 0.5 if family == "bernoulli" else 3.5  # something must still be random
            smooth = smooth_loss(shape, rows, generator)
            of_kind = {
                "table": (wide, table_loss(family, shape, rows, generator)),
                "smooth": (wide, smooth),
                "direct": (wide, direct_loss(smooth, len(shape))),
                "extreme": (extreme, smooth),
            }
            for kind in kinds.split():
                logits, f = of_kind[kind]
                flags = {"smooth": kind != "table", "direct": kind == "direct", "rare": kind == "extreme"}
                made.append(Problem(f"{tag} {kind}", family, shape, logits, f, **flags))
    return [*made, gaussian_problem(rows, seed)]


def gaussian_problem(rows: int = 3, seed: int = 0) -> Problem:
    """D = 1 Gaussian with a smooth loss, different in every row."""
    generator = stream(seed, "problem gaussian")
    parameters = torch.randn((rows, 1, 2), generator=generator, dtype=torch.float64) * 0.5
    phase = torch.randn((rows,), generator=generator, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        x = b.squeeze(-1)
        return torch.sin(2 * x + phase.to(x)) + 0.5 * (x - phase.to(x)).square()

    return Problem("gaussian 1 smooth", "gaussian", (1,), parameters, f)


def exact_gradient(problem: Problem, samples: int = 1, bound: bool = False) -> Tensor:
    """d E[f] / d logits, direct dependence included, by enumeration (Gauss-Hermite quadrature for a Gaussian, D = 1).

    With ``bound`` the expectation is that of -log mean_k exp(-f(b_k)) over ``samples`` independent b_k.
    """
    family, f = FAMILIES[problem.family], as_objective(problem.f)

    def expectation(logits: Tensor) -> Tensor:
        if not family.discrete:
            nodes, weights = np.polynomial.hermite_e.hermegauss(120)
            mean, log_std = logits.unbind(-1)
            points = mean + log_std.exp() * torch.from_numpy(nodes).reshape(-1, 1, 1)
            weights = torch.from_numpy(weights / weights.sum())
            return (weights.unsqueeze(-1) * f.hard(points, logits)).sum()
        states = family.enumerate(problem.event_shape, dtype=logits.dtype).unsqueeze(1).expand(-1, *logits.shape)
        log_p, values = family.log_prob(logits, states), f.hard(states, logits)
        if not bound:
            return (log_p.exp() * values).sum()
        index = torch.tensor(list(itertools.product(range(len(states)), repeat=samples)))
        bounds = math.log(samples) - (-values[index]).logsumexp(1)
        return (log_p[index].sum(1).exp() * bounds).sum()

    return grad(expectation)(problem.logits)


def perturbed(estimator: Estimator, generator: torch.Generator, scale: float = 0.3) -> dict[str, Tensor]:
    """Parameters and buffers moved away from where they start: unbiasedness must not depend on them."""
    values = {}
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
    """``draws`` values of ``one(noise)``, flat with the coordinates of a row together, against ``exact``."""
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
        float(mean.norm()),
        float(torch.nn.functional.cosine_similarity(exact + mean, exact, dim=0)),
        seconds / count,
    )


def chunk_size(draws: int, shapes: dict[str, tuple[int, ...]], evaluations: int) -> int:
    """Draws of one vmapped call, so that the noise and what f is evaluated at fit into memory."""
    width = max(1, evaluations) * sum(math.prod(shape) for shape in shapes.values())
    return max(1, min(draws, CHUNK_NUMBERS // max(width, 1)))


def check(estimator: Estimator, problem: Problem, draws: int, seed: int = 0) -> Verdict:
    """Compare ``draws`` gradients of ``estimator`` (double precision) with the exact one."""
    generator = stream(seed, f"verify {problem.name}")
    state = perturbed(estimator, generator)
    logits, rows = problem.logits, len(problem.logits)
    context = torch.randn((rows, CONTEXT), generator=generator, dtype=torch.float64)
    exact = exact_gradient(problem, estimator.samples, estimator.target == "bound").flatten()

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


HIERARCHIES = {
    "bernoulli 3+3": [Layer("bernoulli", (3,)), Layer("bernoulli", (3,))],
    "categorical 2x3 + bernoulli 3": [Layer("categorical", (2, 3)), Layer("bernoulli", (3,))],
    "categorical 1x3 + 1x3": [Layer("categorical", (1, 3)), Layer("categorical", (1, 3))],
}


def check_hierarchy(
    name: str,
    options: dict,
    layers: list[Layer],
    draws: int,
    seed: int = 0,
    rows: int = 2,
    pixels: int = 4,
    score_term: str = "dropped",
) -> Verdict:
    """Gradient of *all* parameters of a tiny VAE (encoder, decoder, prior) against enumeration of all its latents."""
    generator, hierarchy, model, x = tiny_hierarchy(name, options, layers, seed, rows, pixels, score_term)
    built = hierarchy.estimators
    shapes = hierarchy_noise(hierarchy, rows)

    def one(noise: dict[str, Tensor]) -> Tensor:
        return flat(hierarchy.gradients(model, x, by_layer(noise, len(layers))).params)

    exact = flat(exact_parameter_gradient(hierarchy, model.params, x, built[0].samples, built[0].target == "bound"))
    chunk = max(1, min(chunk_size(draws, shapes, built[0].evaluations), CHUNK_NUMBERS // len(exact)))
    return compare(one, shapes, exact, draws, generator, chunk)


def check_relaxed(name: str, options: dict, layers: list[Layer], draws: int, seed: int = 0) -> Verdict:
    """Gradient of all parameters of a tiny VAE by a pathwise estimator whose relaxed loss is smooth (Concrete), against
    differences of that loss: draw by draw, so few draws are enough."""
    generator, hierarchy, model, x = tiny_hierarchy(name, options, layers, seed)
    shapes = hierarchy_noise(hierarchy, len(x))
    sizes = {k: v.numel() for k, v in model.params.items()}

    def one(noise: dict[str, Tensor]) -> Tensor:
        noise = by_layer(noise, len(layers))
        start = flat(model.params)

        def loss(direction: Tensor, step: float) -> Tensor:
            parts = (start + step * direction).split(list(sizes.values()))
            params = {k: part.view(model.params[k].shape) for k, part in zip(sizes, parts, strict=True)}
            return hierarchy.relaxed(params, model.tuning, model.buffers, x, noise, hierarchy.trained)[0].mean()

        def slope(direction: Tensor) -> Tensor:
            """Of fourth order in the step."""
            near, far = (loss(direction, k * STEP) - loss(direction, -k * STEP) for k in (1, 2))
            return (8 * near - far) / (12 * STEP)

        difference = flat(hierarchy.gradients(model, x, noise).params) - vmap(slope)(
            torch.eye(len(start), dtype=x.dtype)
        )
        return difference.abs()

    exact = torch.zeros(sum(sizes.values()), dtype=x.dtype)
    return compare(one, shapes, exact, draws, generator, min(draws, 100))


def hierarchy_noise(hierarchy: Hierarchy, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the noise of one gradient."""
    return {f"{i}.{k}": v for i, it in enumerate(hierarchy.estimators) for k, v in it.noise_shapes(rows).items()}


def tiny_hierarchy(
    name: str,
    options: dict,
    layers: list[Layer],
    seed: int = 0,
    rows: int = 2,
    pixels: int = 4,
    score_term: str = "dropped",
) -> tuple[torch.Generator, Hierarchy, Model, Tensor]:
    """The generator of the draws to come, a VAE small enough to enumerate with an estimator, its state, and images."""
    generator = stream(seed, f"hierarchy {name} {layers}")
    uniform = torch.rand((rows + 1, pixels), generator=generator, dtype=torch.float64)
    x, mean = uniform[:rows].round(), uniform[rows]
    vae = DiscreteVAE(layers, mean.float()).double()
    if options.get("granularity") == "parameter":
        options = options | {"tensors": 2}  # weights and biases of a linear encoder
    built = torch.nn.ModuleList(
        estimators.build(name, layer.family, layer.shape, shape, generator, **options).double()
        for layer, shape in zip(layers, context_shapes(vae), strict=True)
    )
    params = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in vae.named_parameters()}
    states = [perturbed(estimator, generator) for estimator in built]
    tuned = [dict(estimator.named_parameters()) for estimator in built]
    model = Model(
        params,
        [{k: v for k, v in state.items() if k in names} for state, names in zip(states, tuned, strict=True)],
        [{k: v for k, v in state.items() if k not in names} for state, names in zip(states, tuned, strict=True)],
    )
    return generator, Hierarchy(vae, built, score_term=score_term), model, x


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([g.flatten() for g in gradients.values()])


def exact_parameter_gradient(hierarchy: Hierarchy, params, x: Tensor, samples: int = 1, bound: bool = False):
    """Gradient of the exact minibatch-mean -ELBO (or ``samples``-sample bound) by enumeration of all layers."""
    vae = hierarchy.vae
    states = [f.enumerate(layer.shape, dtype=x.dtype) for f, layer in zip(vae.families, vae.layers, strict=True)]
    joint = list(itertools.product(*(range(len(s)) for s in states)))
    chosen = [s[[index[i] for index in joint]].unsqueeze(1) for i, s in enumerate(states)]

    def expectation(params):
        f, (_, _, log_q, _) = hierarchy.bound_terms(
            params, x, lambda i, logits: chosen[i].expand(-1, len(x), *logits.shape[-len(vae.layers[i].shape) :])
        )
        log_p = sum(log_q)
        if not bound:
            return (log_p.exp() * f).sum(0).mean()
        index = torch.tensor(list(itertools.product(range(len(joint)), repeat=samples)))
        bounds = math.log(samples) - (-f[index]).logsumexp(1)
        return (log_p[index].sum(1).exp() * bounds).sum(0).mean()

    return grad(expectation)(params)


def applies(name: str, options: dict, problem: Problem) -> bool:
    """Whether the estimator is offered for the problem's family and f gives what it needs."""
    if problem.family not in estimators.lookup(name).families:
        return False
    if options.get("sampler") == "published_error" and problem.family != "categorical":
        return False
    return problem.smooth or estimators.needs(name, options) == "value"


def build(name: str, options: dict, problem: Problem, seed: int = 0) -> Estimator:
    """The estimator for a problem, with a context."""
    generator = stream(seed, f"build {name}")
    return estimators.build(name, problem.family, problem.event_shape, (CONTEXT,), generator, **options).double()
