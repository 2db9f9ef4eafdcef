"""The unordered set estimator: the score function on samples drawn without replacement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relax_exp.distributions import count_states, expand_event, gumbel
from relax_exp.errors import OptionError
from relax_exp.estimators.base import Noise, Output, ScoreFunction
from relax_exp.estimators.registry import MAX_RANKED

MAX_SAMPLES = 8


class Unordered(ScoreFunction):
    """Unordered set estimator with the built-in baseline (Kool, van Hoof & Welling 2020).

        sum_s p(s) R(S, s) [f(s) - sum_s' p(s') R^{D\\s}(S, s') f(s')] d log p(s) / d logits,

    with S the ``samples`` = K different states of the *joint* of all variables of a row, drawn by Gumbel-top-k, and
    R the leave-one-out ratios p^{D\\s}(S \\ s) / p(S), of second order inside the baseline, where R^{D\\s}(S, s) = 1.
    With as many samples as states (or more: they are cut to that) it is the exact gradient. ValueError at construction
    above 4096 states or 8 samples. One layer only: the states of a row must share their logits.

    ``out.loss`` is sum_s p(s) R(S, s) f(s), not the mean over S: the samples are not equally likely.
    """

    draws_p = False

    def __init__(self, *args: Any, samples: int = 4, **kwargs: Any):
        super().__init__(*args, **kwargs)
        states, said = count_states(self.family.name, self.event_shape)
        if states > MAX_RANKED:
            raise OptionError(
                f"unordered ranks all {said} states of a row; the limit is {MAX_RANKED}: use fewer variables or rloo"
            )
        if not 2 <= samples <= MAX_SAMPLES:
            raise OptionError(f"unordered: samples={samples} must be from 2 to {MAX_SAMPLES}")
        self.states = states
        self.samples = self.evaluations = min(samples, states)

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of one uniform for every state of the joint."""
        return {"u": (n, self.states)}

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the K states of each row with the largest perturbed log-probabilities, ``(K, N, D, C)``."""
        classes = self.event_shape[1]
        index = (self._log_joint(logits) + gumbel(noise["u"])).topk(self.samples, -1).indices.movedim(-1, 0)
        digits = index.unsqueeze(-1) // self._powers(index) % classes
        return (digits.unsqueeze(-1) == torch.arange(classes, device=index.device)).to(logits.dtype)

    def loss_of(self, f_b: Tensor) -> Tensor:
        """Raise TypeError: the weights of the samples depend on the logits."""
        raise TypeError("unordered weights its samples by their probabilities: use out.loss, and one layer of latents")

    def loss_at(self, logits: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the mean of the losses with the weights that the samples have at these logits."""

        def loss(f_b: Tensor) -> Tensor:
            return self.from_sample(logits, b, f_b).loss

        return loss

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Estimate the gradient from K samples that were drawn without replacement.

        b is ``(K, N, D, C)``, in any order, with losses f_b ``(K, N)``.
        """
        logits = logits.detach()
        first, second = self._ratios(logits, b)
        f_s = f_b.detach().movedim(0, -1)
        signal = first * (second * (f_s.unsqueeze(-1) - f_s.unsqueeze(-2))).sum(-1)
        grad = expand_event(signal.movedim(-1, 0), self.family) * self.family.score(logits, b)
        return Output(grad.sum(0), (first.movedim(-1, 0) * f_b).sum(0), b, {}, {})

    def _ratios(self, logits: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return p(s) R(S, s), ``(N, K)``, and p(s') R^{D\s}(S, s'), ``(N, K, K)``; each sums to one over the last."""
        k = self.samples
        digits = b.argmax(-1)
        index = (digits * self._powers(digits)).sum(-1).movedim(0, -1)
        joint = self._log_joint(logits)
        log_p = joint.gather(-1, index)
        unseen = joint.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
        # A set A within S is a number, its members the bits. log_set[A] = log p^{D\A}(S \ A), the probability of
        # drawing the rest of S in whatever order once A is gone: a sum over the next member, from A = S downwards.
        # log_left[A] = log p(D \ A), summed from what is left and so free of cancellation.
        sets, one = torch.arange(2**k, device=logits.device), 2 ** torch.arange(k, device=logits.device)
        sets = sets[((sets.unsqueeze(-1) & one) > 0).sum(-1).argsort(descending=True)]
        place = sets.argsort()
        gone = (sets.unsqueeze(-1) & one) > 0
        step = log_p.unsqueeze(-2).masked_fill(gone, -math.inf)
        log_left = torch.logaddexp(step.logsumexp(-1), unseen)
        log_set = torch.zeros_like(unseen)
        for size in reversed(range(k)):
            level = slice(log_set.shape[-1], log_set.shape[-1] + math.comb(k, size))
            larger = place[sets[level].unsqueeze(-1) | one].masked_fill(gone[level], 0)
            smaller = (step[..., level, :] + log_set[..., larger]).logsumexp(-1) - log_left[..., level]
            log_set = torch.cat([log_set, smaller], -1)
        log_set = log_set[..., place]
        without = log_set[..., one]
        first = (log_p + without - log_set[..., :1]).exp()
        second = (log_p.unsqueeze(-2) + log_set[..., one.unsqueeze(-1) | one] - without.unsqueeze(-1)).exp()
        return first, second

    def _log_joint(self, logits: Tensor) -> Tensor:
        """Return log p of every state, ``(N, C^D)``, the last variable changing fastest."""
        if logits.dim() != 1 + len(self.event_shape):
            raise ValueError(f"unordered works on one layer, logits (N, D, C), not {tuple(logits.shape)}")
        log_p = logits.log_softmax(-1)
        joint = log_p[..., 0, :]
        for i in range(1, self.event_shape[0]):
            joint = (joint.unsqueeze(-1) + log_p[..., i, None, :]).flatten(-2)
        return joint

    def _powers(self, like: Tensor) -> Tensor:
        size, classes = self.event_shape
        return classes ** torch.arange(size - 1, -1, -1, device=like.device)
