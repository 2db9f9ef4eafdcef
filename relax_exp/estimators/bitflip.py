"""Estimators that flip one coordinate of the sample: all of them in turn, or one at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax_exp.distributions import weighted
from relax_exp.estimators.antithetic import Comparison, antithetic, disarm_weight
from relax_exp.estimators.base import Noise, Objective, Output


def flip_weight(logits: Tensor, b: Tensor) -> Tensor:
    """Return (2 b - 1) p (1 - p), in the shape of ``logits``.

    Times f(b) - f(b with bit d flipped) it is the derivative of E[f] over b_d alone.
    """
    return (2 * b - 1) * torch.sigmoid(logits) * torch.sigmoid(-logits)


class LocalExpectation(Comparison):
    """Local expectation gradients (Titsias & Lazaro-Gredilla 2015): b_d enumerated, the other coordinates as sampled.

    The estimate is p_d (1 - p_d) [f(b with b_d = 1) - f(b with b_d = 0)]. It takes D + 1 evaluations, at the
    sample and its D neighbours.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.evaluations = self.event_shape[0] + 1

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b = self.sample(logits, noise)
        each = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device).unsqueeze(1)
        values = self.values(f, torch.cat([b.unsqueeze(0), (b - each).abs()]), logits, f_b)
        difference = (values[0] - values[1:]).detach().movedim(0, -1)
        return Output(weighted(flip_weight(logits, b), difference), values[0], b, {}, {})


class BitFlip(Comparison):
    """BitFlip-1 (Kunes et al. 2022): `LocalExpectation` in one coordinate, drawn uniformly for each row, times D."""

    evaluations = 2

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one uniform for each latent, and one for each row's coordinate."""
        return {"u": (n, *self.event_shape), "coordinate": (n,)}

    def flips(self, noise: Noise) -> Tensor:
        """Return the coordinate to flip in each row, one-hot, ``(N, D)``."""
        size = self.event_shape[0]
        chosen = (noise["coordinate"] * size).floor().clamp(max=size - 1).unsqueeze(-1)
        return (torch.arange(size, device=chosen.device) == chosen).to(chosen.dtype)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b, flips = self.sample(logits, noise), self.flips(noise)
        values = self.values(f, torch.stack([b, (b - flips).abs()]), logits, f_b)
        return Output(self.flip_gradient(logits, b, flips, values[0] - values[1]), values[0], b, {}, {})

    def flip_gradient(self, logits: Tensor, b: Tensor, flips: Tensor, difference: Tensor) -> Tensor:
        """Return D times the flipped coordinate's part of the gradient, ``(N, D)``.

        ``difference`` is f(b) - f(b flipped), ``(N,)``.
        """
        return self.event_shape[0] * weighted(flips * flip_weight(logits, b), difference.detach().unsqueeze(-1))


class UGC(BitFlip):
    """Unbiased gradient variance clipping (Kunes et al. 2022): BitFlip-1 in coordinates near 0 or 1, DisARM elsewhere.

    Near means min(p, 1 - p) < threshold / D. At the published 1/2 the second moments of the two,
    D p^2 (1 - p)^2 and p (1 - p) max(p, 1 - p) / 2, cross (times the differences of f). The
    choice depends on the logits alone, so the estimate stays unbiased. Both share the sample: three evaluations.
    """

    evaluations = 3

    def __init__(self, *args: Any, threshold: float = 0.5, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.threshold = threshold

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b, opposite, flips = self.sample(logits, noise), antithetic(logits, noise["u"]), self.flips(noise)
        values = self.values(f, torch.stack([b, opposite, (b - flips).abs()]), logits, f_b)
        flipped = self.flip_gradient(logits, b, flips, values[0] - values[2])
        coupled = (values[0] - values[1]).detach().unsqueeze(-1) * disarm_weight(logits, b, opposite)
        near = torch.sigmoid(-logits.abs()) < self.threshold / self.event_shape[0]
        return Output(torch.where(near, flipped, coupled), values[0], b, {}, {})
