"""Subsets of k among D items by Gumbel top-k: the k largest of log p + Gumbel, without their order.

The distribution is that of k draws without replacement, of which only the set is kept. Logits ``(..., D)``, samples
``(..., D)`` in {0, 1} with sum k; the event's shape is (D, k). It is not the law of `relax_exp.distributions.subset`,
whose items are independent but for their number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad

from relax_exp.distributions.noise import gumbel
from relax_exp.distributions.subset import Subset

MAX_TAKEN = 8  # the probability of a set is a sum over its 2^k subsets


class TopK(Subset):
    """Subsets of one size ``k``, which `of` binds, since a family's functions do not see the event's shape."""

    name = "top_k"

    @classmethod
    def of(cls, event_shape: tuple[int, ...]) -> type[Subset]:
        """Return the family of subsets of event_shape[1] of event_shape[0] items.

        Raises:
            ValueError: There are fewer items, or more than 8 to take.
        """
        size, k = event_shape
        if not 0 < k < size or k > MAX_TAKEN:
            most = f"with k from 1 to D - 1, at most {MAX_TAKEN}"
            raise ValueError(f"top_k: event_shape={event_shape}: k of D items, {most}")
        return super().of(event_shape)

    @classmethod
    def path(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return z = log p + Gumbel, of which the sample is the k largest."""
        return logits.log_softmax(-1) + gumbel(u)

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return the k largest, as ones."""
        return torch.zeros_like(z).scatter(-1, z.topk(cls.k, -1).indices, 1.0)

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return the subset that belongs to the uniforms ``u``, one for each item."""
        return cls.hard(cls.path(logits, u))

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), ``(...)``: the sum over all orders in which the set can be drawn (Kool et al. 2020).

        With q(A) the probability of drawing the rest of the set once the items A of it are gone,
        q(A) = sum_{s not in A} p_s q(A and s) / (1 - p(A)), from the whole set down to none.
        """
        logits, b = logits + torch.zeros_like(b), b + torch.zeros_like(logits)
        log_p = logits.log_softmax(-1)
        outside = log_p.masked_fill(b > 0.5, -torch.inf).logsumexp(-1)
        member = log_p.gather(-1, b.topk(cls.k, -1).indices).unbind(-1)
        everything = 2**cls.k - 1
        log_q = {everything: torch.zeros_like(outside)}  # by A, a number whose bits are its members
        for gone in reversed(range(everything)):
            left = [i for i in range(cls.k) if not gone >> i & 1]
            total = torch.stack([outside, *(member[i] for i in left)]).logsumexp(0)
            log_q[gone] = torch.stack([member[i] + log_q[gone | 1 << i] for i in left]).logsumexp(0) - total
        return log_q[0]

    @classmethod
    def score(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits, in the shape of both broadcast."""

        def total(logits: Tensor) -> Tensor:
            return cls.log_prob(logits, b).sum()

        return grad(total)(logits + torch.zeros_like(b))

    @classmethod
    def mean(cls, logits: Tensor) -> Tensor:
        """Return the marginals P(b_i = 1), ``(..., D)``, by enumeration of all subsets."""
        every = cls.enumerate((logits.shape[-1], cls.k), dtype=logits.dtype, device=logits.device)
        every = every.reshape(len(every), *[1] * (logits.dim() - 1), -1)
        return (cls.log_prob(logits, every).exp().unsqueeze(-1) * every).sum(0)
