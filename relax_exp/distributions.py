"""Bernoulli, categorical and Gaussian variables: sample, relax, condition, enumerate.

Every function is pure and acts on the trailing event dimensions, so all of them vmap, compile and differentiate.
Shapes: Bernoulli logits ``(..., D)`` with samples in {0, 1}; categorical logits ``(..., D, C)`` with one-hot samples;
Gaussian parameters ``(..., D, 2)`` = mean and log standard deviation with samples ``(..., D)``.

The relaxed variable ``z`` is the one whose hard threshold is the sample: ``b = hard(z)``. For Bernoulli
``z = logits + logit(u)`` (Tucker et al. 2017, eq. 7 of the RELAX draft); for categorical ``z = log p + Gumbel(u)`` with
*normalised* ``log p``, in the unconditional and the conditional draw alike (RELAX draft, appendix B).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def open_uniform(u: Tensor) -> Tensor:
    """Uniform noise moved off 0 and 1, so that logit(u) and -log(-log u) stay finite in the noise's own precision."""
    eps = torch.finfo(u.dtype).eps
    return u.clamp(eps / 2, 1 - eps)


def logit_uniform(u: Tensor) -> Tensor:
    """Standard logistic noise logit(u)."""
    u = open_uniform(u)
    return u.log() - (-u).log1p()


def gumbel(u: Tensor) -> Tensor:
    """Standard Gumbel noise -log(-log u)."""
    return -(-open_uniform(u).log()).log()


class Bernoulli:
    """Independent Bernoulli variables, logits ``(..., D)``, samples in {0, 1}."""

    name = "bernoulli"
    event_dims = 1  # trailing dimensions of a sample
    discrete = True

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's logits for samples of ``event_shape``."""
        return tuple(event_shape)

    @staticmethod
    def path(logits: Tensor, u: Tensor) -> Tensor:
        """z = logits + logit(u): differentiable in the logits with slope one (RELAX draft, eq. 7)."""
        return logits + logit_uniform(u)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """b = 1 where z > 0."""
        return (z > 0).to(z.dtype)

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """The sample that belongs to the uniform noise ``u``; same shape as ``logits``."""
        return cls.hard(cls.path(logits, u))

    @staticmethod
    def conditional_path(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """z~ ~ p(z | b), differentiable in the logits: softplus(logit v + softplus(l)) if b = 1, and mirrored if b = 0.

        The same as ``log(v / (1 - v) / (1 - theta) + 1)`` of Le's notes on REBAR (004), written so that neither tail
        overflows. (The published RELAX paper prints theta and 1 - theta swapped; enumeration decides for this one.)
        """
        sign = 2 * b - 1
        return sign * F.softplus(logit_uniform(v) + F.softplus(sign * logits))

    @staticmethod
    def conditional_slope(logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """d z~ / d logits along `conditional_path`, as a function of the value z~ alone; elementwise."""
        sign = 2 * b - 1
        return torch.sigmoid(sign * logits) * -torch.expm1(-sign * z)

    @staticmethod
    def to_logits(grad: Tensor, logits: Tensor) -> Tensor:
        """Gradient with respect to the natural parameter of the path -> with respect to the logits: the identity."""
        return grad

    @staticmethod
    def score(logits: Tensor, b: Tensor) -> Tensor:
        """d log p(b) / d logits = b - theta."""
        return b - torch.sigmoid(logits)

    @staticmethod
    def log_prob(logits: Tensor, b: Tensor) -> Tensor:
        """log p(b), summed over the event: ``(...)``. Also defined for soft b, where it is linear in b."""
        return (b * logits - F.softplus(logits)).sum(-1)

    @staticmethod
    def relax(z: Tensor, temperature: Tensor | float) -> Tensor:
        """sigma(z / temperature): the binary Concrete relaxation (Maddison et al. 2017)."""
        return torch.sigmoid(z / temperature)

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        """theta = sigma(logits)."""
        return torch.sigmoid(logits)

    @staticmethod
    def enumerate(event_shape: tuple[int, ...], *, dtype=None, device=None) -> Tensor:
        """All 2^D samples, ``(2^D, D)``."""
        rows = list(itertools.product((0.0, 1.0), repeat=event_shape[0]))
        return torch.tensor(rows, dtype=dtype or torch.get_default_dtype(), device=device)


class Categorical:
    """Independent categorical variables, logits ``(..., D, C)``, one-hot samples of the same shape."""

    name = "categorical"
    event_dims = 2
    discrete = True

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's logits for samples of ``event_shape``."""
        return tuple(event_shape)

    @staticmethod
    def path(logits: Tensor, u: Tensor) -> Tensor:
        """z = log p + Gumbel(u) with normalised log p."""
        return logits.log_softmax(-1) + gumbel(u)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """One-hot argmax of z."""
        classes = torch.arange(z.shape[-1], device=z.device)
        return (z.argmax(-1, keepdim=True) == classes).to(z.dtype)

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """The one-hot sample that belongs to the uniform noise ``u``; same shape as ``logits``."""
        return cls.hard(cls.path(logits, u))

    @staticmethod
    def conditional_path(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """z~ ~ p(z | b) by truncated Gumbels, differentiable in the logits (RELAX, appendix B of the final paper).

        The winner is -log(-log v_b), free of the logits; a loser is -log(-log v_i / p_i - log v_b) with the *winner's*
        v_b. Written as -logaddexp(g_i, g_b) with g = log(-log v), so that tiny p_i cannot overflow.
        """
        log_p = logits.log_softmax(-1)
        g = (-open_uniform(v).log()).log()
        winner = (b * g).sum(-1, keepdim=True)
        losers = -torch.logaddexp(g - log_p, winner)
        return torch.where(b > 0.5, -winner, losers)

    @staticmethod
    def conditional_slope(logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """d z~_i / d log p_i along `conditional_path`, from the value alone: 1 - exp(z_i - z_b), 0 for the winner."""
        winner = (b * z).sum(-1, keepdim=True)
        return -torch.expm1(z - winner)

    @staticmethod
    def to_logits(grad: Tensor, logits: Tensor) -> Tensor:
        """Gradient with respect to log p -> with respect to the logits, through log-softmax."""
        return grad - logits.softmax(-1) * grad.sum(-1, keepdim=True)

    @staticmethod
    def score(logits: Tensor, b: Tensor) -> Tensor:
        """d log p(b) / d logits = one-hot b - p."""
        return b - logits.softmax(-1)

    @staticmethod
    def log_prob(logits: Tensor, b: Tensor) -> Tensor:
        """log p(b), summed over the event: ``(...)``. Also defined for soft b, where it is linear in b."""
        return (b * logits.log_softmax(-1)).sum((-2, -1))

    @staticmethod
    def relax(z: Tensor, temperature: Tensor | float) -> Tensor:
        """softmax(z / temperature): the Concrete / Gumbel-Softmax relaxation."""
        return (z / temperature).softmax(-1)

    @staticmethod
    def log_density(logits: Tensor, log_s: Tensor, temperature: Tensor | float) -> Tensor:
        """Log density of log s for s = relax(path(logits, u), temperature), summed over the variables: ``(...)``.

        (C-1)! lambda^(C-1) prod_k w_k / (sum_k w_k)^C with w = p s^-lambda (ExpConcrete: Maddison et al. 2017, eq. 25).
        """
        size, temperature = logits.shape[-1], torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        w = (logits.log_softmax(-1) - temperature * log_s).log_softmax(-1)
        return (w.sum(-1) + math.lgamma(size) + (size - 1) * temperature.log()).sum(-1)

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        """p = softmax(logits)."""
        return logits.softmax(-1)

    @staticmethod
    def enumerate(event_shape: tuple[int, ...], *, dtype=None, device=None) -> Tensor:
        """All C^D samples, ``(C^D, D, C)``."""
        d, c = event_shape
        index = torch.tensor(list(itertools.product(range(c), repeat=d)), device=device)
        return F.one_hot(index, c).to(dtype or torch.get_default_dtype())


class Gaussian:
    """Independent normal variables: parameters ``(..., D, 2)`` = mean, log standard deviation; samples ``(..., D)``.

    Here ``path`` is the reparameterisation itself and ``hard`` the identity: LAX treats b = z.
    """

    name = "gaussian"
    event_dims = 1
    discrete = False

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's parameters for samples of ``event_shape``."""
        return (*event_shape, 2)

    @staticmethod
    def path(parameters: Tensor, u: Tensor) -> Tensor:
        """mean + std * Phi^-1(u); ``u`` has the shape of a sample."""
        mean, log_std = parameters.unbind(-1)
        return mean + log_std.exp() * Gaussian.normal(u)

    @staticmethod
    def normal(u: Tensor) -> Tensor:
        """Phi^-1(u): the standard normal number that the path shifts and scales."""
        return math.sqrt(2) * torch.erfinv(2 * open_uniform(u) - 1)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """The identity."""
        return z

    @classmethod
    def sample(cls, parameters: Tensor, u: Tensor) -> Tensor:
        """The sample that belongs to the uniform noise ``u``."""
        return cls.path(parameters, u)

    @staticmethod
    def score(parameters: Tensor, b: Tensor) -> Tensor:
        """d log p(b) / d (mean, log std), shape of ``parameters``."""
        mean, log_std = parameters.unbind(-1)
        return Gaussian.score_of(parameters, (b - mean) / log_std.exp())

    @staticmethod
    def score_of(parameters: Tensor, normal: Tensor) -> Tensor:
        """The score of mean + std * ``normal`` from that number itself.

        (b - mean) / std loses all digits in single precision where the mean is large and the standard deviation small.
        """
        return torch.stack([normal / parameters[..., 1].exp(), normal.square() - 1], -1)

    @staticmethod
    def log_prob(parameters: Tensor, b: Tensor) -> Tensor:
        """log p(b), summed over the event: ``(...)``."""
        mean, log_std = parameters.unbind(-1)
        normal = (b - mean) / log_std.exp()
        return (-0.5 * normal.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    @staticmethod
    def mean(parameters: Tensor) -> Tensor:
        """The mean of a sample."""
        return parameters[..., 0]


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """weight * values, and 0 where the weight is 0 whatever the value: an infinite loss of an impossible sample."""
    return torch.where(weight == 0, torch.zeros_like(weight), weight * torch.where(weight == 0, 0.0, values))


FAMILIES = {family.name: family for family in (Bernoulli, Categorical, Gaussian)}


def expand_event(values: Tensor, family, parameters: bool = False) -> Tensor:
    """``(...)`` -> ``(..., 1, ..)``: per-row values made to broadcast against samples (or the family's parameters)."""
    extra = family.event_dims + (1 if parameters and family is Gaussian else 0)
    return values.reshape(values.shape + (1,) * extra)


def sum_event(values: Tensor, family) -> Tensor:
    """Sum over the event dimensions of a sample: ``(..., event)`` -> ``(...)``."""
    return values.sum(tuple(range(-family.event_dims, 0)))


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones."""
    return Gaussian.sample(torch.zeros(*u.shape, 2, dtype=u.dtype), u)
