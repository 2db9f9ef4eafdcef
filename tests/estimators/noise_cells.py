"""Losses, logits and exact expectations over the noise, for the tests of estimators that compare samples."""

import itertools

import torch
from torch import Tensor

from relax_exp.estimators.base import Objective

F64 = {"dtype": torch.float64}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), **F64)


def wide(scale: float, *shape: int, seed: int = 0) -> Tensor:
    return scale * (2 * draw(*shape, seed=seed) - 1).sign() * (0.7 + 0.3 * draw(*shape, seed=seed + 1))


def smooth(*event: int, seed: int = 3):
    """A loss that is not separable, for samples (..., N, event)."""
    w = 4 * draw(*event, 5, seed=seed) - 2

    def f(b: Tensor) -> Tensor:
        h = torch.tensordot(b, w, dims=len(event))
        return torch.tanh(h).square().sum(-1) + h[..., 0] * h[..., 1] + 0.5

    return f


def cells(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Midpoints and probabilities of the cells into which sigma(logits) and its opposite cut the unit cube.

    ``(D,)`` -> ``(3^D, D)``, ``(3^D,)``. In a cell both samples of a pair are constant, so estimators that are
    linear in the noise there integrate exactly.
    """
    p = torch.sigmoid(logits)
    edges = torch.stack([0 * p, torch.minimum(p, 1 - p), torch.maximum(p, 1 - p), 0 * p + 1])
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
    index = torch.tensor(list(itertools.product(range(3), repeat=len(logits))))
    return middle.gather(0, index), width.gather(0, index).prod(-1)


def count(f):
    """f, and a list to which every call adds the number of rows it evaluates."""
    calls = []

    def counted(sample: Tensor, logits: Tensor) -> Tensor:
        value = f(sample)
        calls.append(value.numel())
        return value

    return Objective(counted, counted, counted), calls
