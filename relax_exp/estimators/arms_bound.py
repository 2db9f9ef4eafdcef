"""ARMS for bounds of several samples: antithetic stand-ins for one of the bound's samples at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relax_exp.estimators.antithetic import ARMS
from relax_exp.estimators.base import Noise, Signal
from relax_exp.estimators.multisample import at_least_two


class ARMSBound(ARMS):
    """The gradient of the bound -log mean_k w_k with w_k = exp(-f(b_k)) over ``samples`` = K independent samples.

    Each of the K is drawn in ``copies`` = m >= 2 antithetic forms (`ARMS`); K m evaluations. With F_kj the bound where
    sample k takes its j-th form, and the others one form c, the gradient is the sum over k of

        sum_j (F_kj - mean_j F_kj) (b_kj - p) / (m - 1)  *  the correction of `ARMS`,

    averaged over c, which uses every evaluation m times over. ``out.loss`` is the bound, averaged over c. With m = 2
    it is local DisARM (Dong, Mnih & Tucker 2020, section 4), with more the same of ARMS (Dimitriev & Zhou 2021). f is
    the full negative log weight; the rest of the bound's gradient is the direct part and comes from ``out.loss``.
    """

    target = "bound"

    def __init__(self, *args: Any, samples: int = 2, copies: int = 2, **kwargs: Any):
        at_least_two(copies, self, "copies")
        super().__init__(*args, samples=max(2, samples * copies), **kwargs)
        self.copies, self.samples, self.evaluations = copies, samples * copies, samples * copies

    @property
    def bound_samples(self) -> int:
        """K, the number of samples that the bound is made of."""
        return self.samples // self.copies

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the samples, ``(K m, N, D)``, with the m forms of each sample together."""
        u = noise["u"]
        if logits.dim() == u.dim():
            return self.family.sample(logits, u)
        groups = torch.unflatten(u, 0, (self.bound_samples, self.copies)).movedim(1, 0).flatten(1, 2)  # (m, K N, D)
        repeated = logits.expand(self.bound_samples, *logits.shape).flatten(0, 1)
        drawn = self.coupled(repeated, groups)
        return torch.unflatten(drawn, 1, (self.bound_samples, -1)).movedim(0, 1).flatten(0, 1)

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return m / (m - 1) times F_kj less its mean over j, averaged over c.

        It is multiplied with K, since the base class takes a mean over the samples.
        """
        k, m = self.bound_samples, self.copies
        log_w = -torch.unflatten(f_b, 0, (k, m))
        own = torch.eye(k, dtype=torch.bool, device=f_b.device).reshape(k, k, 1, 1)
        others = log_w.unsqueeze(0).masked_fill(own, -math.inf).logsumexp(1)  # (K, c, N): all samples but k, form c
        bounds = -torch.logaddexp(log_w.unsqueeze(2), others.unsqueeze(1)).mean(2)  # (K, j, N)
        return k * m / (m - 1) * (bounds - bounds.mean(1, keepdim=True)).flatten(0, 1), {}, {}

    def correction(self, logits: Tensor) -> Tensor:
        """Return the correction of `ARMS` for m coupled samples, since only the m forms of one sample are coupled."""
        return self.debiased(logits, self.copies - 1)

    def loss_of(self, f_b: Tensor) -> Tensor:
        """Return the bound, averaged over the forms: ``(K m, N)`` -> ``(N,)``."""
        log_w = -torch.unflatten(f_b, 0, (self.bound_samples, self.copies))
        return (math.log(self.bound_samples) - log_w.logsumexp(0)).mean(0)
