"""IndeCateR: every categorical variable enumerated in turn, the others as sampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax_exp.distributions import weighted
from relax_exp.estimators.antithetic import Comparison
from relax_exp.estimators.base import Noise, Objective, Output


class IndeCateR(Comparison):
    """IndeCateR (De Smet, Sansone & Zuidberg Dos Martires 2023): the score function, Rao-Blackwellised.

        p_dc [f(b with b_d = c) - sum_j p_dj f(b with b_d = j)],

    every one of the independent variables in turn over all its classes, with the others as sampled. D (C - 1) + 1
    evaluations: the sample and its neighbours, as `LocalExpectation` does it for bits. (In the paper N samples are
    averaged; here it is one.)
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        size, classes = self.event_shape
        self.evaluations = size * (classes - 1) + 1

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        size, classes = self.event_shape
        b = self.sample(logits, noise)
        moved = torch.stack([b.roll(s, -1) for s in range(1, classes)]).unsqueeze(1)  # (C - 1, 1, N, D, C)
        own = torch.eye(size, dtype=b.dtype, device=b.device)[:, None, :, None]  # (D, 1, D, 1): the variable that moves
        others = (own * moved + (1 - own) * b).flatten(0, 1)
        values = self.values(f, torch.cat([b.unsqueeze(0), others]), logits, f_b)
        fixed = values.detach()
        at = torch.unflatten(fixed[1:], 0, (classes - 1, size))
        by_step = torch.cat([fixed[:1].expand(size, -1).unsqueeze(0), at]).movedim(0, -1).movedim(0, 1)  # (N, D, C)
        index = torch.arange(classes, device=b.device) - b.argmax(-1, keepdim=True)
        by_class = by_step.gather(-1, index.remainder(classes))
        parts = weighted(logits.softmax(-1), by_class)
        mean = parts.sum(-1, keepdim=True)
        return Output(parts - logits.softmax(-1) * mean, values[0], b, {}, {})
