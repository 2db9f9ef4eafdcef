"""Antithetic samples: pairs (ARM, DisARM), K at once (ARMS), and pairs of paths down a binary tree (categorical)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from relax_exp.distributions import logit_uniform, open_uniform
from relax_exp.estimators.base import Estimator, Noise, Objective, Output
from relax_exp.estimators.multisample import RLOO


class Comparison(Estimator):
    """The base of estimators that compare f at the sample with f at other points made from the same noise.

    ``out.loss`` is f at the sample.
    """

    def values(self, f: Objective, points: Tensor, logits: Tensor, f_b: Tensor | None) -> Tensor:
        """Evaluate f at ``points``, ``(S, N, event)``, in one batch.

        The first point is the sample; where ``f_b``, f at the sample, is given, it is not evaluated again.

        Returns:
            Losses, ``(S, N)``.
        """
        if f_b is None:
            return self.evaluate(f.hard, points, logits)
        return torch.cat([f_b.unsqueeze(0), self.evaluate(f.hard, points[1:], logits)])


def antithetic(logits: Tensor, u: Tensor) -> Tensor:
    """Return the Bernoulli sample that belongs to the noise 1 - u, in the shape of ``logits``."""
    return (logits > logit_uniform(u)).to(logits.dtype)


def disarm_weight(logits: Tensor, b: Tensor, opposite: Tensor) -> Tensor:
    """Return (b - b') sigma(|logits|) / 2, which DisARM multiplies with f(b) - f(b')."""
    return (b - opposite) * torch.sigmoid(logits.abs()) / 2


class ARM(Comparison):
    """Augment-REINFORCE-merge (Yin & Zhou 2019, theorem 1): [f(b) - f(b')] (u - 1/2), where b' comes from 1 - u.

    b = 1 where u > sigma(-logits), and b' = 1 where u < sigma(logits).
    """

    evaluations = 2

    def weight(self, logits: Tensor, u: Tensor, b: Tensor, opposite: Tensor) -> Tensor:
        """Return what multiplies f(b) - f(b'), here u - 1/2, in the shape of ``logits``."""
        return u - 0.5

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        u = noise["u"]
        b, opposite = self.sample(logits, noise), antithetic(logits, u)
        values = self.values(f, torch.stack([b, opposite]), logits, f_b)
        difference = (values[0] - values[1]).detach()
        return Output(difference.unsqueeze(-1) * self.weight(logits, u, b, opposite), values[0], b, {}, {})


class DisARM(ARM):
    """DisARM, also called U2G (Dong, Mnih & Tucker 2020; Yin et al. 2020): ARM with u integrated out given the pair.

    The estimate is [f(b) - f(b')] (b - b') sigma(|logits|) / 2: a coordinate moves only where the two samples differ in
    it. ``pairs`` independent pairs are averaged, as where it is compared with estimators of K = 2 x pairs samples.
    """

    def __init__(self, *args: Any, pairs: int = 1, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pairs, self.evaluations = pairs, 2 * pairs

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one uniform for each latent, of every pair where there are several."""
        several = (self.pairs,) if self.pairs > 1 else ()
        return {"u": (*several, n, *self.event_shape)}

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the first sample of the first pair."""
        return self.family.sample(logits, noise["u"][0] if self.pairs > 1 else noise["u"])

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        if self.pairs == 1:
            return super().estimate(logits, f, noise, context, f_b)
        b, opposite = self.family.sample(logits, noise["u"]), antithetic(logits, noise["u"])
        values = self.values(f, torch.stack([b, opposite], 1).flatten(0, 1), logits, f_b)
        difference = (values[0::2] - values[1::2]).detach()
        grad = (difference.unsqueeze(-1) * self.weight(logits, noise["u"], b, opposite)).mean(0)
        return Output(grad, values[0], b[0], {}, {})

    def weight(self, logits: Tensor, u: Tensor, b: Tensor, opposite: Tensor):
        """Return `disarm_weight`, in which u is integrated out."""
        return disarm_weight(logits, b, opposite)


def coupled_below(u: Tensor, log_s: Tensor) -> Tensor:
    """Draw events of probability s that seldom occur together, one for each of K samples, by the Dirichlet copula.

    With (d_1 .. d_K) ~ Dir(1), event k is 1 - d_k < s^(1/(K-1)) (Dimitriev & Zhou 2021).

    Args:
        u: Uniforms, ``(K, ...)``.
        log_s: log s, ``(...)``.

    Returns:
        1 where an event occurs, else 0, ``(K, ...)``.
    """
    exponential = -open_uniform(u).log()
    log_a = torch.log1p(-exponential / exponential.sum(0))
    return ((len(u) - 1) * log_a < log_s).to(log_s.dtype)


def log_both(log_s: Tensor, order: int) -> Tensor:
    """Compute log max(2 s^(1/order) - 1, 0)^order, the log-probability of two of ``order`` + 1 coupled events."""
    return order * torch.log1p((2 * torch.expm1(log_s / order)).clamp(min=-1))


class ARMS(RLOO):
    """ARMS (Dimitriev & Zhou 2021): `RLOO` over ``samples`` = K >= 2 antithetic samples, each coordinate corrected.

        sum_k (f_k - mean f) (b_k - p) / (K - 1)  *  p (1 - p) / (p - P(b_i = b_j = 1)).

    The copula is the paper's Dirichlet one, mirrored where p > 1/2 (b = 1 is then the common value). With s the
    probability of the rarer value and (d_1 .. d_K) ~ Dir(1), sample k takes it where 1 - d_k < s^(1/(K-1)), and two
    samples take it together with probability max(2 s^(1/(K-1)) - 1, 0)^(K-1), exactly. K = 2 is DisARM.

    Where every chain has logits of its own, (K, N, D) as in the upper layers of a hierarchy, the samples are drawn
    independently and the correction is one: the formula above holds for equal marginals only.
    """

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the K coupled samples, ``(K, N, D)``, each of which is distributed as p(b)."""
        u = noise["u"]
        if logits.dim() == u.dim():
            return super().sample(logits, noise)
        return self.coupled(logits, u)

    @staticmethod
    def coupled(logits: Tensor, u: Tensor) -> Tensor:
        """Draw as many coupled samples as ``u`` has in front, ``(K, N, D)``."""
        rare = coupled_below(u, F.logsigmoid(-logits.abs()))
        return torch.where(logits < 0, rare, 1 - rare)

    def correction(self, logits: Tensor) -> Tensor:
        """Return the factor of each coordinate that undoes the coupling, in the shape of ``logits``.

        It is p (1 - p) / (p - joint) = (1 - s) / (1 - joint / s), with s the probability of the rarer
        value.
        """
        return self.debiased(logits, self.samples - 1)

    @staticmethod
    def debiased(logits: Tensor, order: int) -> Tensor:
        """Compute the `correction` of ``order`` + 1 coupled samples."""
        log_s = F.logsigmoid(-logits.abs())
        return torch.sigmoid(logits.abs()) / -torch.expm1(log_both(log_s, order) - log_s)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b = self.sample(logits, noise)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        out = super().from_sample(logits, b, f_b, noise, context)
        return out._replace(grad=out.grad * self.correction(logits)) if logits.dim() < b.dim() else out

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Raise TypeError: the samples must be coupled as `sample` does it."""
        return Estimator.from_sample(self, logits, b, f_b, noise, context)


class DisARMTree(Comparison):
    """DisARM-Tree (Dong, Mnih & Tucker 2021, "Coupled gradient estimators for discrete latent variables").

    C - 1 binary decisions lead down a balanced tree (by the bits of the class's index) to a class: b with noise u, b'
    with 1 - u. DisARM over all decisions, averaged given the two classes, gives a decision of logit a and bits d, d'

        [f(b) - f(b')] / 2  *  (d - d') sigma(|a|)   where both paths pass it,
                               d - sigma(a)          where only b's does,
                               sigma(a) - d'         where only b''s does, and zero elsewhere;

    the chain rule takes that from a to the logits.
    """

    evaluations = 2

    def splits(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each decision m which classes it parts, as three tensors ``(C - 1,)``: low, middle, high.

        Decision m parts the classes low <= c < high into c < middle (bit 0) and the others (bit 1).
        """
        middle = torch.arange(1, self.event_shape[-1], device=device)
        width = middle & -middle
        return middle - width, middle, middle + width

    def tree(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return two masks ``(C - 1, C)``: whether class c passes decision m, and whether it goes right there."""
        low, middle, high = (x.unsqueeze(-1) for x in self.splits(logits.device))
        classes = torch.arange(self.event_shape[-1], device=logits.device)
        inside = (classes >= low) & (classes < high)
        return inside, inside & (classes >= middle)

    def decision_logits(self, logits: Tensor) -> Tensor:
        """Return log P(right) - log P(left) of every decision: ``(..., C)`` -> ``(..., C - 1)``."""
        inside, right = self.tree(logits)
        each = logits.unsqueeze(-2)
        total_right = each.masked_fill(~right, -torch.inf).logsumexp(-1)
        return total_right - each.masked_fill(right | ~inside, -torch.inf).logsumexp(-1)

    def reach(self, bits: Tensor) -> Tensor:
        """Return the class to which the decisions ``(..., C - 1)`` lead, one-hot.

        It is the class on whose path all bits agree.
        """
        inside, right = (mask.to(bits.dtype) for mask in self.tree(bits))
        disagreements = bits @ (inside - 2 * right) + right.sum(0)
        return (disagreements < 0.5).to(bits.dtype)

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the class that is reached with u. The last of the C uniforms of a variable is not used."""
        return self.reach(self.pair(self.decision_logits(logits), noise["u"])[0])

    @staticmethod
    def pair(decisions: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is decided with u and what with 1 - u, ``(..., C - 1)``."""
        u = u[..., :-1]
        return (decisions + logit_uniform(u) > 0).to(decisions.dtype), antithetic(decisions, u)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        decisions, pull = vjp(self.decision_logits, logits)[:2]
        bits, opposite = self.pair(decisions, noise["u"])
        points = torch.stack([self.reach(bits), self.reach(opposite)])
        values = self.values(f, points, logits, f_b)
        weight = self.weight(decisions, bits, opposite, *points)
        difference = (values[0] - values[1]).detach()[..., None, None]
        return Output(pull(difference * weight)[0], values[0], points[0], {}, {})

    def weight(self, decisions: Tensor, bits: Tensor, opposite: Tensor, b: Tensor, other: Tensor) -> Tensor:
        """Return what multiplies f(b) - f(b') in the gradient of every decision, ``(..., D, C - 1)``.

        Args:
            decisions: The logits of the decisions, ``(..., D, C - 1)``.
            bits: What was decided with u, in the same shape.
            opposite: What was decided with 1 - u.
            b: Where ``bits`` lead, one-hot, ``(..., D, C)``.
            other: Where ``opposite`` leads.
        """
        inside = self.tree(b)[0].to(b.dtype)
        passed, too, p = b @ inside.T, other @ inside.T, torch.sigmoid(decisions)
        one = (passed * (1 - too) * (bits - p) - too * (1 - passed) * (opposite - p)) / 2
        return passed * too * disarm_weight(decisions, bits, opposite) + one
