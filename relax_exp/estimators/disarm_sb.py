"""DisARM over stick breaking, of the mean of f and of a bound of several samples, and its importance-weighted form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from relax_exp.errors import OptionError
from relax_exp.estimators.antithetic import DisARMTree
from relax_exp.estimators.arms_bound import ARMSBound
from relax_exp.estimators.base import Noise, Objective, Output
from relax_exp.estimators.carms import pair_ratios


class DisARMSB(DisARMTree):
    """DisARM-SB (Dong, Mnih & Tucker 2021): `DisARMTree` whose tree asks for the classes in their order.

    ``order`` of the classes: as they are numbered ("index"), the likeliest first ("descending") or last ("ascending"),
    which the logits of each row decide. Any order is unbiased, since it depends on the logits alone.

    ``form="importance"`` is the paper's importance-weighted form: instead of averaging over the decisions it corrects
    for the coupling of the two classes of a variable,

        [f(b) - f(b')] / 2  *  (b - b') p(b) p(b') / P(b, b').

    Its order must be ascending, so that no pair of classes is impossible. It is `CARMS` of two samples.
    """

    def __init__(self, *args: Any, order: str = "index", form: str = "integrated", **kwargs: Any):
        super().__init__(*args, **kwargs)
        if form == "importance" and order != "ascending":
            raise OptionError(
                f"disarm_sb: form=importance takes the rarest class first, so that no pair of classes is impossible: "
                f"set order=ascending, not {order}"
            )
        self.order, self.form = order, form

    def ranks(self, logits: Tensor) -> Tensor | None:
        """Return the classes of every variable in the order in which they are broken off; None: as they are."""
        return None if self.order == "index" else logits.argsort(-1, descending=self.order == "descending")

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        ranks = self.ranks(logits)
        b = super().sample(by_rank(logits, ranks), noise)
        return b if ranks is None else unranked(b, ranks)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        ranks = self.ranks(logits)
        if ranks is None:
            return super().estimate(logits, f, noise, context, f_b)

        def hard(b: Tensor, _: Tensor) -> Tensor:
            return f.hard(unranked(b, ranks), logits)

        of_ranks = Objective(hard, f.relaxed, f.mean)
        estimate = self.weighted if self.form == "importance" else super().estimate
        out = estimate(by_rank(logits, ranks), of_ranks, noise, context, f_b)
        return out._replace(grad=unranked(out.grad, ranks), sample=unranked(out.sample, ranks))

    def weighted(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        """Return the importance-weighted estimate; the classes are numbered from the rarest."""
        decisions = self.decision_logits(logits)
        points = torch.stack([self.reach(bits) for bits in self.pair(decisions, noise["u"])])
        values = self.values(f, points, logits, f_b)
        earlier = points.argmax(-1).amin(0).clamp(max=self.event_shape[-1] - 2)
        ratio = pair_ratios(F.logsigmoid(-decisions), 1).gather(-1, earlier.unsqueeze(-1))
        difference = (values[0] - values[1]).detach()[..., None, None]
        return Output(difference / 2 * (points[0] - points[1]) * ratio, values[0], points[0], {}, {})

    def splits(self, device: torch.device | None):
        """Return low, middle and high of decisions that part class m - 1 from all later ones."""
        middle = torch.arange(1, self.event_shape[-1], device=device)
        return middle - 1, middle, torch.full_like(middle, self.event_shape[-1])


def by_rank(logits: Tensor, ranks: Tensor | None) -> Tensor:
    """Return the logits ``(N, D, C)`` in the order of ``ranks``, or as they are without ranks."""
    return logits if ranks is None else logits.gather(-1, ranks)


def unranked(x: Tensor, ranks: Tensor) -> Tensor:
    """Turn ``(..., N, D, C)`` by rank into the same by class; ``ranks`` (N, D, C) are the classes by rank."""
    return x.gather(-1, ranks.argsort(-1).expand_as(x))


class DisARMSBBound(ARMSBound):
    """The gradient of the bound -log mean_k w_k of ``samples`` = K independent samples, local DisARM for categories.

    Each of the K is drawn as a pair of `DisARMSB`, 2 K evaluations. With F_kj the bound where sample k takes form j of
    its pair, and the others all take form c, the gradient is the sum over k of what `DisARMSB` makes of F_k1 and F_k2
    in the place of f(b) and f(b'), averaged over c. ``out.loss`` is the bound, averaged over c. For bits this is
    `ARMSBound` with two copies (Dong, Mnih & Tucker 2020, section 4); the classes are as in their paper of 2021. f is
    the full negative log weight; the rest of the bound's gradient is the direct part and comes from ``out.loss``.

    In the upper layers of a hierarchy, where every chain has logits of its own, the samples are independent and the
    differences multiply the score.
    """

    def __init__(
        self,
        family: str = "categorical",
        event_shape: tuple[int, ...] = (1, 2),
        context_shape: tuple[int, ...] | None = None,
        samples: int = 2,
        order: str = "index",
    ):
        super().__init__(family, event_shape, context_shape, samples=samples, copies=2)
        self.sticks = DisARMSB(family, event_shape, order=order)

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the samples, ``(2 K, N, D, C)``, with the two of each pair together."""
        if logits.dim() == noise["u"].dim():
            return self.family.sample(logits, noise["u"])
        ranks = self.sticks.ranks(logits)
        bits = self.sticks.pair(self.sticks.decision_logits(by_rank(logits, ranks)), noise["u"][::2])
        return self.together(bits, ranks)

    def together(self, bits: tuple[Tensor, Tensor], ranks: Tensor | None) -> Tensor:
        """Return the classes to which the decisions of both forms lead, ``(2 K, N, D, C)``."""
        b = torch.stack([self.sticks.reach(each) for each in bits], 1).flatten(0, 1)
        return b if ranks is None else unranked(b, ranks)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        if logits.dim() == noise["u"].dim():
            return super().estimate(logits, f, noise, context, f_b)
        ranks = self.sticks.ranks(logits)
        decisions, pull = vjp(self.sticks.decision_logits, by_rank(logits, ranks))[:2]
        bits = self.sticks.pair(decisions, noise["u"][::2])
        b = self.together(bits, ranks)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        difference = self.signal(f_b.detach(), context)[0][::2] / self.bound_samples  # F_k1 - F_k2
        weight = self.sticks.weight(decisions, *bits, *(self.sticks.reach(each) for each in bits))
        (grad,) = pull((difference[..., None, None] * weight).sum(0))
        return Output(grad if ranks is None else unranked(grad, ranks), self.loss_of(f_b), b, {}, {})
