"""Toy problems with one categorical variable.

ARSM's C-way reward (Yin, Yue & Zhou 2019), f(z) = cos z with a few classes (Sobolev's lecture), and Gumbel-Rao's
quadratic on the simplex (Paulus et al. 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax_exp.tasks.registry import CATEGORIES, CategoricalToyOptions
from relax_exp.tasks.toy import ToyTask


def losses(problem: str, categories: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return f of every category, ``(C,)``.

    arsm: -(1/2 + z / C^2) for z = 1..C (Yin, Yue & Zhou 2019, with R = C): an optimum of -(1/2 + 1/C), which the mean
    over all z is only (C - 1) / (2 C^2) above. cos: cos z for z = 0..C-1, to be minimised. quadratic:
    `quadratic` at the corners.
    """
    z = torch.arange(categories or CATEGORIES[problem], dtype=dtype)
    if problem == "quadratic":
        return quadratic(torch.eye(len(z), dtype=dtype))
    return z.cos() if problem == "cos" else -(0.5 + (z + 1) / len(z) ** 2)


def quadratic(s: Tensor) -> Tensor:
    """Return (s - c)' Q (s - c), ``(..., C)`` -> ``(...)``, with Q_ij = exp(-2 |i - j|) and c_i = 1 / C.

    This is the toy problem of Gumbel-Rao (Paulus et al. 2021), at soft samples too.
    """
    z, away = torch.arange(s.shape[-1], dtype=s.dtype, device=s.device), s - 1 / s.shape[-1]
    return ((away @ (-2 * (z.unsqueeze(-1) - z).abs()).exp()) * away).sum(-1)


class CategoricalToy(ToyTask):
    """Minimise E[f(z)] over the logits of one categorical z, from zeros: ``task=categorical_toy``.

    What is logged is exact: ``loss`` = E f(z), its ``excess`` over the minimum and ``p_best``, the probability of the
    best category; but for the gradient's variance, which is measured. At a soft sample s the loss is that of the
    sources: linear in s for arsm, cos(s . (0, 1, 2, 3)) for cos, `quadratic` for quadratic.
    """

    name = "categorical_toy"
    family = "categorical"

    options: CategoricalToyOptions

    def __init__(self, estimator: dict[str, Any], options: CategoricalToyOptions, **given: Any):
        super().__init__(estimator, options, **given)
        self.optimizer = options.optimizer
        values = losses(options.problem, options.categories, torch.float64)
        self.values, self.above = (x.to(self.device, self.dtype) for x in (values, values - values.min()))

    @property
    def event_shape(self):
        """The shape of one sample: one variable of C categories."""
        return 1, self.options.categories or CATEGORIES[self.options.problem]

    def loss(self, b: Tensor) -> Tensor:
        """Return f at (soft) one-hot samples, ``(..., 1, C)`` -> ``(...)``."""
        if self.options.problem == "arsm":
            return (b * self.values).sum((-2, -1))
        if self.options.problem == "quadratic":
            return quadratic(b).sum(-1)
        return (b * torch.arange(len(self.values), dtype=b.dtype, device=b.device)).sum((-2, -1)).cos()

    def exact(self, models) -> list[dict[str, float]]:
        """Return for each replica the exact loss, its excess over the optimum and the best category's probability."""
        p = models.params["logit"][:, 0].softmax(-1)
        values = {"loss": p @ self.values, "excess": p @ self.above, "p_best": p[:, self.above.argmin()]}
        return [dict(zip(values, row, strict=True)) for row in torch.stack([*values.values()], 1).tolist()]

    def evaluate(self, models, seeds, step, final):
        """Return `exact`, and the gradient's variance from fresh draws."""
        return [row | other for row, other in zip(self.exact(models), self.variance(models, seeds, step), strict=True)]
