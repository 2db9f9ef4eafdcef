"""Leave-one-out estimators whose control variates use df/db, known at the samples from the same backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import leaky_relu

from relax_exp.estimators.base import Noise, Objective, Output, ScoreFunction, mean_square
from relax_exp.estimators.multisample import at_least_two
from relax_exp.models.mlp import Linear


class GradientLeaveOneOut(ScoreFunction):
    """The base of leave-one-out estimators with control variates made from df/db.

        1/K sum_k {[f(b_k) + l_k - mean_{j != k} (f(b_j) + l_j)] s_k + r_k}

    with s_k the score and l, r from `controls`. f and df/db come from one evaluation at the K samples; a caller who has
    both brings them as ``f_b``. Where it brings f alone, one more evaluation is made for df/db.
    """

    needs = "gradient"
    uses_slope = True

    def __init__(self, *args: Any, samples: int = 2, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.samples = self.evaluations = at_least_two(samples, self)

    def controls(self, logits: Tensor, b: Tensor, f_b: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return l_k in the own term, l_j in the others' baseline, both ``(K, N)``, and r_k, ``(K, N, D)``.

        ``slope`` is df/db at the samples, ``(K, N, D)``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement controls")

    def scalars(self) -> dict[str, Tensor]:
        """Return the tuned scalars, which are worth logging."""
        raise NotImplementedError(f"{type(self).__name__} does not implement scalars")

    def estimate(
        self,
        logits: Tensor,
        f: Objective,
        noise: Noise,
        context: Tensor | None,
        f_b: Tensor | tuple[Tensor, Tensor] | None,
    ) -> Output:
        b = self.sample(logits, noise)

        def at(b: Tensor) -> tuple[Tensor, Tensor]:
            values = self.evaluate(f.hard, b, logits, True)
            return values.sum(), values

        if isinstance(f_b, tuple):
            losses, slope = f_b
        else:
            slope, values = grad(at, has_aux=True)(b)
            losses = values if f_b is None else f_b
        fixed = losses.detach()
        own, others, rest = self.controls(logits, b, fixed, slope.detach())
        signal = fixed + own - leave_one_out(fixed + others)
        gradient = (signal.unsqueeze(-1) * self.family.score(logits, b) + rest) / self.samples
        if gradient.dim() > logits.dim():
            gradient = gradient.sum(0)
        return Output(gradient, self.loss_of(losses), b, self.scalars(), {})

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Raise TypeError: df/db is needed, so it cannot work from samples alone."""
        raise TypeError(f"{type(self).__name__} needs f's gradient at the samples: call it with f, not from_sample")

    def tuning_loss(self, out: Output) -> Tensor:
        """Return `mean_square` of the gradient."""
        return mean_square(out.grad)


def leave_one_out(x: Tensor) -> Tensor:
    """Return the mean over the other samples, along the first dimension."""
    return (x.sum(0) - x) / (x.shape[0] - 1)


class DoubleCV(GradientLeaveOneOut):
    """Double CV (Titsias & Shi 2022): RLOO of f(b_k) + alpha g_k (b_k - p) - alpha g_k p (1 - p).

    g_k is the mean of df/db over the *other* samples: a first-order Taylor control variate for every sample and,
    through the baseline, for every other, and its mean in the last term. alpha is tuned, from 0, which is RLOO.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.zeros(()))

    def controls(self, logits: Tensor, b: Tensor, f_b: Tensor, slope: Tensor):
        """Return alpha g_k (b_k - p) twice, and the mean of its product with the score."""
        p = self.family.mean(logits)
        others = self.alpha * leave_one_out(slope)
        taylor = (others * (b - p)).sum(-1)
        return taylor, taylor, -others * p * (1 - p)

    def scalars(self) -> dict[str, Tensor]:
        """Return alpha."""
        return {"alpha": self.alpha}


MAX_LOG_RATIO = 40.0  # of states that are as good as never seen, so that single precision does not overflow


class Rodeo(GradientLeaveOneOut):
    """RODEO (Shi et al. 2022) with the Gibbs Stein operator A, whose mean under q is zero for any h.

        1/K sum_k {[f(b_k) - mean_{j != k} (f(b_j) + alpha (A h_j)(b_j))] s_k + beta (A h~_k s)(b_k)},
        (A h)(b) = 1/D sum_i q(b~_i | b_-i) [h(b~_i) - h(b)],    b~_i = b with bit i flipped.

    h_k(b) = mean_{j != k} H(f(b_j), f'(b_j) (b - b_j)) knows f at the other samples only; H, one layer of ``width``
    units with two outputs for h and h~, alpha and beta are tuned. With alpha = beta = 0, as at the start, it is RLOO.

    A by ``operator`` ("gibbs" is the one above), with r_i = q(b~_i) / q(b):

        mpf (minimum probability flow):  (A h)(b) = 1/D sum_i sqrt(r_i) [h(b~_i) - h(b)],
        difference:                      (A h)(b) = 1/D sum_i [h(b) - r_i h(b~_i)].

    Both have mean zero too; r_i is large where b is rare, which Gibbs bounds by one.
    """

    def __init__(self, *args: Any, width: int = 100, operator: str = "gibbs", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.operator = operator
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.hidden = Linear(2, width)
        self.out = Linear(width, 2)

    def controls(self, logits: Tensor, b: Tensor, f_b: Tensor, slope: Tensor):
        """Return zero in the own term, alpha A h_j in the others' baseline, and beta A (h~_k s)."""
        sign = 1 - 2 * b  # of the change of a bit that flips
        away, stay = self.weights(sign * logits)
        index = torch.arange(self.samples, device=b.device)
        others = index[:-1] + (index[:-1] >= index.unsqueeze(1))  # row k: all samples but k
        f_j, b_j, slope_j = f_b[others], b[others], slope[others]  # (K, K - 1, N[, D])
        linear = (slope_j * (b.unsqueeze(1) - b_j)).sum(-1, keepdim=True)
        linear = torch.cat([linear, linear + slope_j * sign.unsqueeze(1)], -1)  # at b, and at its D neighbours
        h = self.surrogate(f_j.unsqueeze(-1).expand_as(linear), linear).mean(1)
        here, there = h[..., :1, :], h[..., 1:, :]
        operated = (away.unsqueeze(-1) * there - stay.unsqueeze(-1) * here).mean(-2)
        # The neighbour's score differs from that of b in the flipped bit alone.
        score = self.family.score(logits, b)
        moved = away * there[..., 1] * sign / b.shape[-1]
        rest = self.beta * (operated[..., 1:] * score + moved)
        return torch.zeros_like(f_b), self.alpha * operated[..., 0], rest

    def weights(self, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of h at the neighbours and of h itself in A, for log q(b~_i) / q(b) ``(..., D)``."""
        if self.operator == "gibbs":
            flip = torch.sigmoid(log_ratio)  # q(b~_i | b_-i)
            return flip, flip
        ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
        if self.operator == "mpf":
            return (ratio / 2).exp(), (ratio / 2).exp()
        return -ratio.exp(), -torch.ones_like(ratio)

    def surrogate(self, f_j: Tensor, linear: Tensor) -> Tensor:
        """Return H(f_j, linear), two numbers for each of them."""
        return self.out(leaky_relu(self.hidden(torch.stack([f_j, linear], -1)), 0.3))

    def scalars(self) -> dict[str, Tensor]:
        """Return alpha and beta."""
        return {"alpha": self.alpha, "beta": self.beta}
