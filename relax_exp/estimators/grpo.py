"""Baselines of a group of samples, as in the training of language models: GRPO and Dr. GRPO. Biased."""

from __future__ import annotations

from torch import Tensor

from relax_exp.estimators.base import Signal
from relax_exp.estimators.multisample import RLOO


class GRPO(RLOO):
    """The advantage of GRPO (Shao et al. 2024, "DeepSeekMath") with ``samples`` = K draws of each row as the group.

        1/K sum_k [f(b_k) - mean_j f(b_j)] / (std_j f(b_j) + 1e-4) d log p(b_k) / d logits.

    Biased: the mean holds the own sample, and the standard deviation (of a sample, K - 1) scales every row by what was
    drawn, so that the size of f does not matter. Clipped ratios and the penalty of divergence, which need an old
    policy, are no part of it. `RLOO` is the unbiased one.
    """

    unbiased = False

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f less the group's mean, in units of the group's standard deviation."""
        return (f_b - f_b.mean(0)) / (f_b.std(0) + 1e-4), {}, {}


class DrGRPO(RLOO):
    """The advantage of Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training"): `GRPO` without the division.

        1/K sum_k [f(b_k) - mean_j f(b_j)] d log p(b_k) / d logits.

    Biased by a factor only: the mean holds the own sample, so it is (K - 1) / K times `RLOO`.
    """

    unbiased = False

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f less the group's mean, which holds the own sample too."""
        return f_b - f_b.mean(0), {}, {}
