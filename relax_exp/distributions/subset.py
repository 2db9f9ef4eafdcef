"""Subsets of k among D items: sample, relax, condition on the size, enumerate.

The distribution is that of D independent bits given that k of them are 1, p(b) = exp(b . logits) / e_k, with e_k the
elementary symmetric polynomial of exp(logits): the one whose marginals SIMPLE computes (Ahmed et al. 2023). Logits
``(..., D)``, samples ``(..., D)`` in {0, 1} with sum k; the event's shape is (D, k).
"""

from __future__ import annotations

import copyreg
import itertools
from collections.abc import Callable
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from relax_exp.distributions.base import Device, Family
from relax_exp.distributions.noise import open_uniform

NONE = -1e4  # a logarithm that counts as that of nothing


class Sized(type):
    """The type of `Subset`, its laws and their classes for each size, which pickle finds by law and size."""


class Subset(Family, metaclass=Sized):
    """Subsets of one size ``k``, which `of` binds, since a family's functions do not see the event's shape."""

    name = "subset"
    event_dims = 1
    shape_dims = 2
    parameter_dims = 1
    discrete = True
    structured = True

    k: ClassVar[int]

    @classmethod
    def of(cls, event_shape: tuple[int, ...]) -> type[Subset]:
        """Return the family of subsets of event_shape[1] of event_shape[0] items.

        Raises:
            ValueError: There are fewer items.
        """
        size, k = event_shape
        if not 0 < k < size:
            raise ValueError(f"subset: event_shape={event_shape}: k of D items, with k from 1 to D - 1")
        return _of_size(cls, k)

    @classmethod
    def parameter_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's logits, (D,)."""
        return (event_shape[0],)

    @classmethod
    def sample_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's sample, (D,)."""
        return (event_shape[0],)

    @classmethod
    def log_normalizers(cls, logits: Tensor) -> Tensor:
        """Return log e_j of the items from i on, ``(..., D + 1, k + 1)`` by i and j.

        It is about -1e4 where there are fewer.
        """
        none = torch.full_like(logits[..., :1], NONE)
        row = torch.cat([torch.zeros_like(none), *[none] * cls.k], -1)
        rows = [row]
        for i in reversed(range(logits.shape[-1])):
            row = torch.cat([row[..., :1], torch.logaddexp(row[..., 1:], row[..., :-1] + logits[..., i : i + 1])], -1)
            rows.append(row)
        return torch.stack(rows[::-1], -2)

    @classmethod
    def log_normalizer(cls, logits: Tensor) -> Tensor:
        """Return log e_k of all items, ``(...)``."""
        centred = logits - logits.amax(-1, keepdim=True).detach()
        shift = cls.k * logits.amax(-1).detach()
        return cls.log_normalizers(centred)[..., 0, cls.k] + shift

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return the subset that belongs to the uniforms ``u``, one for each item.

        The items are taken or not, one after the other.
        """
        centred = logits - logits.amax(-1, keepdim=True)
        table, u = cls.log_normalizers(centred), open_uniform(u)
        left = torch.zeros_like(logits[..., 0], dtype=torch.int64) + cls.k
        bits: list[Tensor] = []
        for i in range(logits.shape[-1]):
            here, after = (table[..., j, :].expand(*left.shape, -1) for j in (i, i + 1))
            fewer = after.gather(-1, (left - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
            log_p = centred[..., i] + fewer - here.gather(-1, left.unsqueeze(-1)).squeeze(-1)
            must = left >= logits.shape[-1] - i  # all that are left
            bit = ((u[..., i].log() < log_p) | must) & (left > 0)
            bits.append(bit.to(logits.dtype))
            left = left - bit.to(left.dtype)
        return torch.stack(bits, -1)

    @classmethod
    def mean(cls, logits: Tensor) -> Tensor:
        """Return the marginals P(b_i = 1), ``(..., D)``, exactly.

        They come from the ways to take k - 1 of the items before and after item i.
        """
        centred = logits - logits.amax(-1, keepdim=True).detach()
        after = cls.log_normalizers(centred)
        before = cls.log_normalizers(centred.flip(-1)).flip(-2)
        others = (before[..., :-1, :-1] + after[..., 1:, :-1].flip(-1)).logsumexp(-1)
        return (centred + others - after[..., :1, cls.k]).exp()

    @classmethod
    def score(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits, which is b less the marginals."""
        return b - cls.mean(logits)

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), ``(...)``."""
        return (b * logits).sum(-1) - cls.log_normalizer(logits)

    @classmethod
    def relax(cls, z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the sum of k softmaxes in a row, each with less of what the ones before took (Xie & Ermon 2019).

        It sums to k.
        """
        total = torch.zeros_like(z)
        for _ in range(cls.k):
            taken = (z / temperature).softmax(-1)
            total = total + taken
            z = z + (1 - taken).clamp(min=torch.finfo(z.dtype).eps).log()
        return total

    @classmethod
    def enumerate(
        cls, event_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Return all subsets of k items, ``(D! / k! (D - k)!, D)``."""
        size, k = event_shape
        rows = [[float(i in chosen) for i in range(size)] for chosen in itertools.combinations(range(size), k)]
        return torch.tensor(rows, dtype=dtype or torch.get_default_dtype(), device=device)


@cache
def _of_size(law: type[Subset], k: int) -> type[Subset]:
    """Return the one class of the subsets of k items with this law."""
    return Sized(f"{law.__name__}{k}", (law,), {"k": k})


def _reduced(cls: type[Subset]) -> str | tuple[Callable[..., type[Subset]], tuple[type[Subset], int]]:
    return (_of_size, (cls.__bases__[0], cls.k)) if "k" in vars(cls) else cls.__name__


copyreg.pickle(Sized, _reduced)  # pyright: ignore[reportArgumentType]  # typeshed has instances of classes in mind
