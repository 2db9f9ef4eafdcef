"""Independent Bernoulli variables: sample, relax, condition, enumerate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relax_exp.distributions.base import Device, Family, digits
from relax_exp.distributions.noise import logit_uniform

FACTORS = 7  # at most, of the product whose logarithm is taken: it stays under 2^7, and rounding stays small


class Bernoulli(Family):
    """Independent Bernoulli variables, with logits ``(..., D)`` and samples in {0, 1} of the same shape."""

    name = "bernoulli"
    event_dims = 1  # trailing dimensions of a sample
    shape_dims, parameter_dims = 1, 1  # of the event's shape, and of one row's parameters
    discrete = True

    @classmethod
    def path(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return z = logits + logit(u), differentiable in the logits with slope one (RELAX draft, eq. 7)."""
        return logits + logit_uniform(u)

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return the sample b that z stands for: 1 where z > 0, else 0."""
        return (z > 0).to(z.dtype)

    @classmethod
    def conditional_path(cls, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v, differentiable in the logits; all shapes are ``(..., D)``.

        It is softplus(logit v + softplus(l)) if b = 1, and mirrored if b = 0. This is the same as ``log(v / (1 - v) /
        (1 - theta) + 1)`` of Le's notes on REBAR (2017), written so that neither tail overflows. (The published RELAX
        paper prints theta and 1 - theta swapped; enumeration decides for this one.)
        """
        sign = 2 * b - 1
        return sign * F.softplus(logit_uniform(v) + F.softplus(sign * logits))

    @classmethod
    def conditional_slope(cls, logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~ / d logits along `conditional_path`, elementwise, as a function of the value of z~ alone."""
        sign = 2 * b - 1
        return torch.sigmoid(sign * logits) * -torch.expm1(-sign * z)

    @classmethod
    def grad_to_logits(cls, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in the natural parameter of the path into one in the logits; here they are the same."""
        return grad

    @classmethod
    def score(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits = b - theta."""
        return b - torch.sigmoid(logits)

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``.

        It is also defined for soft b, in which it is linear.
        """
        return (b * logits - F.softplus(logits)).sum(-1)

    @classmethod
    def relax(cls, z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return sigma(z / temperature), the binary Concrete relaxation (Maddison et al. 2017)."""
        return torch.sigmoid(z / temperature)

    @classmethod
    def mean(cls, logits: Tensor) -> Tensor:
        """Return the mean theta = sigma(logits)."""
        return torch.sigmoid(logits)

    @classmethod
    def enumerate(
        cls, event_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Return all 2^D samples, ``(2^D, D)``."""
        return digits(2, event_shape[0], device).to(dtype or torch.get_default_dtype())


class BernoulliValues(Bernoulli):
    """`Bernoulli` for passes that nothing differentiates: the same numbers, up to rounding, in fewer logarithms."""

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return the sample that belongs to the uniform noise ``u``."""
        return (u > torch.sigmoid(-logits)).to(logits.dtype)

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``."""
        return (b * logits).sum(-1) - softplus_sum(logits)


def softplus_sum(x: Tensor) -> Tensor:
    """Return the sum of log(1 + e^x) over the last dimension, with one logarithm for several terms.

    A term is max(x, 0) + log(1 + e^-|x|), and logarithms of factors between one and two are added by multiplying the
    factors. That is the quicker where nothing is differentiated. The error is absolute, half a unit in the last place
    of one for a term, so terms near zero are lost in it.
    """
    size = x.shape[-1]
    together = max(k for k in range(1, FACTORS + 1) if size % k == 0)
    factors = 1 + torch.exp(-x.abs())
    return x.relu().sum(-1) + factors.reshape(*x.shape[:-1], together, -1).prod(-2).log().sum(-1)
