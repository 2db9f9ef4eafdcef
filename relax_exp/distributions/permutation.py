"""Permutations under the Plackett-Luce distribution: sample, relax, condition, enumerate.

Items are ranked one after the other, each time with probabilities proportional to exp(logits) of those that are left:
the order of the logits with Gumbel noise, the largest first. Logits ``(..., D)``; samples are permutation matrices
``(..., D, D)``, b[i, j] = 1 where item j has rank i. Every function is pure, as those of the other families.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from relax_exp.distributions.base import Device, Family
from relax_exp.distributions.noise import gumbel, open_uniform


class Permutation(Family):
    """One ranking of D items, logits ``(..., D)``, samples ``(..., D, D)`` (Gadetsky et al. 2020)."""

    name = "permutation"
    event_dims = 2
    shape_dims = 1
    parameter_dims = 1
    discrete = True
    structured = True  # `conditional_path` is not elementwise: `conditional_pull` is its derivative

    @classmethod
    def sample_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's sample, (D, D)."""
        return (*event_shape, *event_shape)

    @classmethod
    def path(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return z = log p + Gumbel(u) with normalised log p, ``(..., D)``, whose order is the sample."""
        return logits.log_softmax(-1) + gumbel(u)

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return the sample that z stands for, the matrix that sorts z, the largest first."""
        items = torch.arange(z.shape[-1], device=z.device)
        return (z.argsort(-1, descending=True).unsqueeze(-1) == items).to(z.dtype)

    @classmethod
    def conditional_path(cls, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v, ``(..., D)``, differentiable in the logits.

        (Gadetsky et al. 2020, section 4.) exp(-z) are times of arrival with rates p; given the order, the gaps between
        arrivals are exponential with the rates of all who are still to come: z~ of rank k is -log sum_{i <= k} (-log
        v_i) / rate_i.
        """
        log_gap = (-open_uniform(v).log()).log() - _log_left(_ranked(b, logits.log_softmax(-1)))
        return _unranked(b, -log_gap.logcumsumexp(-1))

    @classmethod
    def conditional_pull(cls, logits: Tensor, b: Tensor, z: Tensor, grad: Tensor) -> Tensor:
        """Turn a gradient in z~ into one in log p along `conditional_path`, from the value of z~."""
        log_p, z, grad = (_ranked(b, x) for x in (logits.log_softmax(-1), z, grad))
        size = z.shape[-1]
        later = torch.ones(size, size, dtype=z.dtype, device=z.device).triu()
        # Of the time at rank k, the share of the gap before rank i <= k.
        share = later * (later * (z.unsqueeze(-2) - z.unsqueeze(-1))).exp()
        gap = -torch.expm1(z[..., 1:] - z[..., :-1])
        gap = torch.cat([torch.ones_like(gap[..., :1]), gap], -1)
        along = gap * (share * grad.unsqueeze(-2)).sum(-1)
        left = later * (later * (log_p.unsqueeze(-2) - _log_left(log_p).unsqueeze(-1))).exp()
        return _unranked(b, (along.unsqueeze(-1) * left).sum(-2))

    @classmethod
    def grad_to_logits(cls, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in log p into one in the logits, through log-softmax."""
        return grad - logits.softmax(-1) * grad.sum(-1, keepdim=True)

    @classmethod
    def score(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits, ``(..., D)``.

        An item's is 1 less, summed over the ranks up to its own, the probability to come next.
        """
        ranked = _ranked(b, logits)
        return _unranked(b, 1 - (ranked + (-_log_left(ranked)).logcumsumexp(-1)).exp())

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), ``(...)``."""
        ranked = _ranked(b, logits)
        return (ranked - _log_left(ranked)).sum(-1)

    @classmethod
    def relax(cls, z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the NeuralSort relaxation of the matrix that sorts z (Grover et al. 2019), ``(..., D, D)``.

        Row i is softmax_j [(D + 1 - 2 i) z_j - sum_m |z_j - z_m|] / temperature.
        """
        size = z.shape[-1]
        factor = size - 1 - 2 * torch.arange(size, dtype=z.dtype, device=z.device)
        apart = (z.unsqueeze(-1) - z.unsqueeze(-2)).abs().sum(-1)
        return ((factor.unsqueeze(-1) * z.unsqueeze(-2) - apart.unsqueeze(-2)) / temperature).softmax(-1)

    @classmethod
    def enumerate(
        cls, event_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Return all D! matrices, ``(D!, D, D)``."""
        orders = torch.tensor(list(itertools.permutations(range(event_shape[0]))), device=device)
        return torch.nn.functional.one_hot(orders, event_shape[0]).to(dtype or torch.get_default_dtype())


def _ranked(b: Tensor, x: Tensor) -> Tensor:
    """Put ``(..., D)`` by item into the order of the ranks."""
    return (b * x.unsqueeze(-2)).sum(-1)


def _unranked(b: Tensor, x: Tensor) -> Tensor:
    """Put ``(..., D)`` by rank into the order of the items."""
    return (b * x.unsqueeze(-1)).sum(-2)


def _log_left(ranked: Tensor) -> Tensor:
    """Return the log of the sum of exp over the ranks from each on."""
    return ranked.flip(-1).logcumsumexp(-1).flip(-1)
