"""Independent categorical variables: sample, relax, condition, enumerate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relax_exp.distributions.base import Device, Family, as_scalar, digits
from relax_exp.distributions.noise import gumbel, open_uniform


class Categorical(Family):
    """Independent categorical variables, with logits ``(..., D, C)`` and one-hot samples of the same shape."""

    name = "categorical"
    event_dims = 2
    shape_dims, parameter_dims = 2, 2  # of the event's shape, and of one row's parameters
    discrete = True

    @classmethod
    def path(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return z = log p + Gumbel(u) with normalised log p."""
        return logits.log_softmax(-1) + gumbel(u)

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return the sample that z stands for, its argmax, one-hot."""
        classes = torch.arange(z.shape[-1], device=z.device)
        return (z.argmax(-1, keepdim=True) == classes).to(z.dtype)

    @classmethod
    def conditional_path(cls, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v by truncated Gumbels, differentiable in the logits, ``(..., D, C)``.

        The winner is -log(-log v_b), free of the logits; a loser is -log(-log v_i / p_i - log v_b) with the *winner's*
        v_b (RELAX, appendix B of the final paper). It is written as -logaddexp(g_i, g_b) with g = log(-log v), so that
        tiny p_i cannot overflow.
        """
        log_p = logits.log_softmax(-1)
        g = (-open_uniform(v).log()).log()
        winner = (b * g).sum(-1, keepdim=True)
        losers = -torch.logaddexp(g - log_p, winner)
        return torch.where(b > 0.5, -winner, losers)

    @classmethod
    def conditional_slope(cls, logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~_i / d log p_i along `conditional_path` from the value alone.

        It is 1 - exp(z_i - z_b), and 0 for the winner.
        """
        winner = (b * z).sum(-1, keepdim=True)
        return -torch.expm1(z - winner)

    @classmethod
    def grad_to_logits(cls, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in log p into one in the logits, through log-softmax."""
        return grad - logits.softmax(-1) * grad.sum(-1, keepdim=True)

    @classmethod
    def score(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits = b - p for one-hot b."""
        return b - logits.softmax(-1)

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``.

        It is also defined for soft b, in which it is linear.
        """
        return (b * logits.log_softmax(-1)).sum((-2, -1))

    @classmethod
    def relax(cls, z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return softmax(z / temperature), the Concrete or Gumbel-Softmax relaxation."""
        return (z / temperature).softmax(-1)

    @classmethod
    def log_density(cls, logits: Tensor, log_s: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the log density of log s for s = relax(path(logits, u), temperature), ``(...)``.

        It is summed over the variables. The density is (C-1)! lambda^(C-1) prod_k w_k / (sum_k w_k)^C with w = p
        s^-lambda (ExpConcrete: Maddison et al. 2017, eq. 25).
        """
        size, temperature = logits.shape[-1], as_scalar(temperature, logits)
        w = (logits.log_softmax(-1) - temperature * log_s).log_softmax(-1)
        return (w.sum(-1) + math.lgamma(size) + (size - 1) * temperature.log()).sum(-1)

    @classmethod
    def mean(cls, logits: Tensor) -> Tensor:
        """Return the mean p = softmax(logits)."""
        return logits.softmax(-1)

    @classmethod
    def enumerate(
        cls, event_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Return all C^D samples, ``(C^D, D, C)``."""
        d, c = event_shape
        chosen = digits(c, d, device).unsqueeze(-1) == torch.arange(c, device=device)
        return chosen.to(dtype or torch.get_default_dtype())
