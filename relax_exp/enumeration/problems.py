"""Problems that are small enough to enumerate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from relax_exp.distributions import FAMILIES
from relax_exp.estimators.base import Objective
from relax_exp.numerics.random_streams import stream

CONTEXT = 5  # numbers in a row's context


class Problem(NamedTuple):
    """An expectation small enough to enumerate.

    Attributes:
        logits: The parameters of the variables, ``(N, ...)``.
        f: The loss, plain or an `Objective`.
        smooth: Whether f accepts soft samples.
        direct: Whether f also depends on the logits directly.
        rare: Whether there are states so rare that two rows' are never seen together, so that a correlation between
            rows cannot be judged.
        quadratic: Whether f is quadratic, so that estimators of second order are exact.
    """

    name: str
    family: str
    event_shape: tuple[int, ...]
    logits: Tensor
    f: Callable[[Tensor], Tensor] | Objective
    smooth: bool = True
    direct: bool = False
    rare: bool = False
    quadratic: bool = False


def smooth_loss(event_shape: tuple[int, ...], rows: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Make a loss that is not separable, differs in every row and accepts soft samples.

    It maps ``(..., N, event)`` to ``(..., N)``.
    """
    size, dims = math.prod(event_shape), len(event_shape)
    w = torch.randn((rows, size, 4), generator=generator, dtype=torch.float64)
    v = torch.randn((rows, size), generator=generator, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        x = b.flatten(-dims)
        mixed = (x.unsqueeze(-2) @ w.to(x)).squeeze(-2)
        return torch.tanh(mixed).sum(-1) + (x * v.to(x)).sum(-1).square()

    return f


def quadratic_loss(event_shape: tuple[int, ...], rows: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Make x'Ax + a'x of the flattened sample, different in every row; estimators of second order are exact for it."""
    size, dims = math.prod(event_shape), len(event_shape)
    matrix = torch.randn((rows, size, size), generator=generator, dtype=torch.float64)
    vector = torch.randn((rows, size), generator=generator, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        x = b.flatten(-dims)
        return ((x.unsqueeze(-2) @ matrix.to(x)).squeeze(-2) * x + x * vector.to(x)).sum(-1)

    return f


def table_loss(states: Tensor, rows: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Make a black box: a table of random numbers, one for each of ``states`` ``(S, event)``, others in every row."""
    table = torch.randn((rows, len(states)), generator=generator, dtype=torch.float64)
    flat, dims = states.flatten(1), states.dim() - 1

    def f(b: Tensor) -> Tensor:
        chosen = (b.flatten(-dims).unsqueeze(-2) - flat.to(b)).abs().sum(-1) < 0.5
        return torch.where(chosen, table.to(b), 0.0).sum(-1)

    return f


def direct_loss(f: Callable[[Tensor], Tensor], dims: int) -> Objective:
    """Add to f a term in the sample *and* the logits, such as log q in an ELBO.

    ``dims`` is the number of dimensions of one row's sample.
    """

    def total(b: Tensor, logits: Tensor) -> Tensor:
        return f(b) + (torch.tanh(logits) * b + 0.3 * logits.square()).sum(tuple(range(-dims, 0)))

    return Objective(total, total, total)


def problems(rows: int = 3, seed: int = 0) -> list[Problem]:
    """Return problems of all families: black box and smooth losses, direct dependence, extreme logits."""
    made: list[Problem] = []
    cases = {
        "bernoulli": {(4,): "table", (3,): "smooth direct extreme quadratic", (1,): "smooth"},
        "categorical": {(2, 3): "table smooth direct extreme quadratic", (1, 5): "table smooth"},
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
                "table": (wide, table_loss(FAMILIES[family].enumerate(shape, dtype=torch.float64), rows, generator)),
                "smooth": (wide, smooth),
                "direct": (wide, direct_loss(smooth, len(shape))),
                "extreme": (extreme, smooth),
                "quadratic": (wide, quadratic_loss(shape, rows, generator)),
            }
            for kind in kinds.split():
                logits, f = of_kind[kind]
                flags = {"smooth": kind != "table", "rare": kind == "extreme"}
                flags |= {"direct": kind == "direct", "quadratic": kind == "quadratic"}
                made.append(Problem(f"{tag} {kind}", family, shape, logits, f, **flags))
    return [*made, gaussian_problem(rows, seed), *structured_problems(rows, seed)]


def structured_problems(rows: int = 3, seed: int = 0) -> list[Problem]:
    """Permutations of 4 and 5 items, subsets of both laws, 2 of 4 and 2 or 3 of 5; of the smaller one a table too."""
    made: list[Problem] = []
    for family, shapes in {"permutation": [(4,), (5,)], "subset": [(4, 2), (5, 2)], "top_k": [(4, 2), (5, 3)]}.items():
        for shape in shapes:
            tag = f"{family} {' of '.join(map(str, reversed(shape)))}"
            generator = stream(seed, f"problem {tag}")
            sample_shape = FAMILIES[family].sample_shape(shape)
            logits = 3 * torch.rand((rows, shape[0]), generator=generator, dtype=torch.float64) - 1.5
            smooth = smooth_loss(sample_shape, rows, generator)
            made.append(Problem(f"{tag} smooth", family, shape, logits, smooth))
            if shape is shapes[0]:
                table = table_loss(FAMILIES[family].enumerate(shape, dtype=torch.float64), rows, generator)
                made.append(Problem(f"{tag} table", family, shape, logits, table, smooth=False))
    return made


def gaussian_problem(rows: int = 3, seed: int = 0) -> Problem:
    """Return a Gaussian problem with D = 1 and a smooth loss, different in every row."""
    generator = stream(seed, "problem gaussian")
    parameters = torch.randn((rows, 1, 2), generator=generator, dtype=torch.float64) * 0.5
    phase = torch.randn((rows,), generator=generator, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        x = b.squeeze(-1)
        return torch.sin(2 * x + phase.to(x)) + 0.5 * (x - phase.to(x)).square()

    return Problem("gaussian 1 smooth", "gaussian", (1,), parameters, f)
