"""Uniform noise turned into logistic, Gumbel and normal noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def open_uniform(u: Tensor) -> Tensor:
    """Move uniform noise off 0 and 1, so that logit(u) and -log(-log u) stay finite in the noise's own precision."""
    eps = torch.finfo(u.dtype).eps
    return u.clamp(eps / 2, 1 - eps)


def logit_uniform(u: Tensor) -> Tensor:
    """Turn uniform noise into standard logistic noise, logit(u)."""
    u = open_uniform(u)
    return u.log() - (-u).log1p()


def gumbel(u: Tensor) -> Tensor:
    """Turn uniform noise into standard Gumbel noise, -log(-log u)."""
    return -(-open_uniform(u).log()).log()


def standard_normal(u: Tensor) -> Tensor:
    """Turn uniform noise into standard normal noise, Phi^-1(u)."""
    return math.sqrt(2) * torch.erfinv(2 * open_uniform(u) - 1)
