"""CARMS: leave-one-out over categorical samples that avoid one another."""

from __future__ import annotations

import torch
from torch import Tensor

from relax_exp.estimators.antithetic import coupled_below, log_both
from relax_exp.estimators.base import Estimator, Noise, Objective, Output
from relax_exp.estimators.multisample import RLOO


class CARMS(RLOO):
    """CARMS (Dimitriev & Zhou 2021), in its stick-breaking form: `RLOO` over ``samples`` = K >= 2 antithetic samples.

        1 / (K (K - 1)) sum_{i != j} 1/2 [f(b_i) - f(b_j)] (b_i - b_j) p(b_i) p(b_j) / P(b_i, b_j),

    one such ratio for each variable. A variable's classes, the rarest first, are taken or passed over one after the
    other; each of these decisions is coupled over the K samples as in `ARMS` (Dirichlet copula), so that P is exact:
    with pi_m the probability of stopping at class m once there, and Phi_m that of two samples stopping there together,

        p(i) p(j) / P(i, j) = prod_{l < m} (1 - pi_l)^2 / (1 - 2 pi_l + Phi_l)  *  (1 - pi_m) / (1 - Phi_m / pi_m),

    m the earlier one of i and j; the rarest first keeps pi at most 1/2, and so P from 0. For two classes it is `ARMS`.
    Where every chain has logits of its own, as in the upper layers of a hierarchy, the samples are independent and the
    ratio is one. (The paper's other form, inverse cumulative probabilities in random orders, is not offered.)
    """

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one uniform for each class of each sample; that of the last class is not used."""
        return {"u": (self.samples, n, *self.event_shape)}

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the K coupled samples, ``(K, N, D, C)``, each of which is distributed as p(b)."""
        u = noise["u"]
        if logits.dim() == u.dim():
            return super().sample(logits, noise)
        order, log_pi = self._breaks(logits)
        stop = coupled_below(u[..., :-1], log_pi)
        last = torch.ones_like(stop[..., :1])
        passed = torch.cat([last, (1 - stop).cumprod(-1)], -1)
        ranked = torch.cat([stop, last], -1) * passed
        return ranked.gather(-1, order.argsort(-1).expand_as(ranked))

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b = self.sample(logits, noise)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        if logits.dim() == b.dim():
            return super().from_sample(logits, b, f_b, noise, context)
        order, log_pi = self._breaks(logits)
        rank = (b.argmax(-1, keepdim=True) == order).to(b.dtype).argmax(-1)  # of each sample's class, (K, N, D)
        earlier = torch.minimum(rank.unsqueeze(0), rank.unsqueeze(1)).clamp(max=self.event_shape[-1] - 2)
        ratio = (
            pair_ratios(log_pi, self.samples - 1)
            .expand(*earlier.shape[:2], *log_pi.shape)
            .gather(-1, earlier.unsqueeze(-1))
        )
        differ = (rank.unsqueeze(0) != rank.unsqueeze(1)).to(b.dtype)  # where b_i - b_j is not zero
        fixed = f_b.detach()
        pairs = (fixed.unsqueeze(1) - fixed.unsqueeze(0)).unsqueeze(-1) * differ * ratio.squeeze(-1)
        weight = pairs.sum(1).unsqueeze(-1) / (self.samples * (self.samples - 1))
        return Output((weight * b).sum(0), self.loss_of(f_b), b, {}, {})

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Raise TypeError: the samples must be coupled as `sample` does it."""
        return Estimator.from_sample(self, logits, b, f_b, noise, context)

    @staticmethod
    def _breaks(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes, the rarest first, ``(N, D, C)``, and log pi of all but the last in that order."""
        order = logits.argsort(-1)
        log_p = logits.log_softmax(-1).gather(-1, order)
        log_left = log_p.flip(-1).logcumsumexp(-1).flip(-1)
        return order, (log_p - log_left)[..., :-1]


def pair_ratios(log_pi: Tensor, order: int) -> Tensor:
    """Return p(i) p(j) / P(i, j) by the earlier of two different classes, ``(..., C - 1)``; `CARMS` has the formula.

    Args:
        log_pi: The logarithm of the probability of stopping at each class but the last, once there, ``(..., C - 1)``.
        order: The number of coupled samples, less one.
    """
    log_phi = log_both(log_pi, order)
    pi, phi = log_pi.exp(), log_phi.exp()
    # In the last decision pi may be 1/2, and no pair passes it together; whoever did would find no class there.
    together = (phi - 2 * pi).clamp(min=-1 + torch.finfo(pi.dtype).eps)
    passed = (2 * torch.log1p(-pi) - torch.log1p(together)).cumsum(-1)
    before = torch.cat([torch.zeros_like(passed[..., :1]), passed[..., :-1]], -1)
    return before.exp() * (1 - pi) / -torch.expm1(log_phi - log_pi)
