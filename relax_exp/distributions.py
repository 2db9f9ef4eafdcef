"""Bernoulli, categorical and Gaussian variables: sample, relax, condition, enumerate.

Every function is pure and acts on the trailing event dimensions, so all of them vmap, compile and differentiate.
Shapes: Bernoulli logits ``(..., D)`` with samples in {0, 1}; categorical logits ``(..., D, C)`` with one-hot samples;
Gaussian parameters ``(..., D, 2)`` = mean and log standard deviation with samples ``(..., D)``.

The relaxed variable ``z`` is the one whose hard threshold is the sample: ``b = hard(z)``. For Bernoulli
``z = logits + logit(u)`` (Tucker et al. 2017, eq. 7 of the RELAX draft); for categorical ``z = log p + Gumbel(u)`` with
*normalised* ``log p``, in the unconditional and the conditional draw alike (RELAX draft, appendix B).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def open_uniform(u: Tensor) -> Tensor:
    """Move uniform noise off 0 and 1, so that logit(u) and -log(-log u) stay finite in the noise's own precision."""
    eps = torch.finfo(u.dtype).eps
    return u.clamp(eps / 2, 1 - eps)


def logit_uniform(u: Tensor) -> Tensor:
    """Turn uniform noise into standard logistic noise, logit(u)."""
    u = open_uniform(u)
    return u.log() - (-u).log1p()


def gumbel(u: Tensor) -> Tensor:
    """Turn uniform noise into standard Gumbel noise, -log(-log u)."""
    return -(-open_uniform(u).log()).log()


def as_scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor without dimensions, with dtype and device of ``like``; nothing is copied to it.

    A captured CUDA graph refuses copies from the host; filling memory is a kernel like any other.
    """
    if isinstance(value, Tensor):
        return value.to(like.dtype)
    return torch.full((), value, dtype=like.dtype, device=like.device)


def digits(base: int, places: int, device=None) -> Tensor:
    """Return all numbers of ``places`` digits in ``base``, in order, ``(base^places, places)``, made on the device."""
    number = torch.arange(base**places, device=device).unsqueeze(-1)
    return number // base ** torch.arange(places - 1, -1, -1, device=device) % base


class Family:
    """What estimators ask of a family of variables; every function acts on the trailing dimensions.

    Attributes:
        name: What configurations call it.
        event_dims: Trailing dimensions of a sample.
        shape_dims, parameter_dims: Dimensions of the event's shape, and of one row's parameters.
        discrete: Whether its samples can be enumerated, and have a relaxation.
        structured: Whether its noise has another shape than a sample, so that its path is not elementwise.
    """

    name: str
    event_dims: int
    shape_dims: int
    parameter_dims: int
    discrete: bool
    structured: bool = False

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's parameters for samples of ``event_shape``."""
        raise NotImplementedError

    @staticmethod
    def sample_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's sample."""
        raise NotImplementedError

    @staticmethod
    def path(logits: Tensor, u: Tensor, /) -> Tensor:
        """Return z, of which the sample is a function, from uniform noise; differentiable in the parameters."""
        raise NotImplementedError

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """Return the sample that z stands for."""
        raise NotImplementedError

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor, /) -> Tensor:
        """Return the sample that belongs to the uniform noise ``u``."""
        return cls.hard(cls.path(logits, u))

    @staticmethod
    def conditional_path(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v, differentiable in the parameters."""
        raise NotImplementedError

    @staticmethod
    def conditional_slope(logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~ / d parameters along `conditional_path`, elementwise."""
        raise NotImplementedError

    @staticmethod
    def to_logits(grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in the natural parameter of the path into one in the logits."""
        raise NotImplementedError

    @staticmethod
    def score(logits: Tensor, b: Tensor, /) -> Tensor:
        """Return the score d log p(b) / d parameters."""
        raise NotImplementedError

    @staticmethod
    def log_prob(logits: Tensor, b: Tensor, /) -> Tensor:
        """Return log p(b), summed over the event."""
        raise NotImplementedError

    @staticmethod
    def relax(z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the relaxed sample."""
        raise NotImplementedError

    @staticmethod
    def mean(logits: Tensor, /) -> Tensor:
        """Return the mean."""
        raise NotImplementedError

    @staticmethod
    def enumerate(event_shape: tuple[int, ...], *, dtype=None, device=None) -> Tensor:
        """Return all samples, ``(states, ...)``."""
        raise NotImplementedError


class Bernoulli(Family):
    """Independent Bernoulli variables, with logits ``(..., D)`` and samples in {0, 1} of the same shape."""

    name = "bernoulli"
    event_dims = 1  # trailing dimensions of a sample
    shape_dims, parameter_dims = 1, 1  # of the event's shape, and of one row's parameters
    discrete = True
    structured = False  # its path is elementwise, and its noise has the shape of a sample

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's logits for samples of ``event_shape``."""
        return tuple(event_shape)

    @staticmethod
    def sample_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's sample."""
        return tuple(event_shape)

    @staticmethod
    def path(logits: Tensor, u: Tensor) -> Tensor:
        """Return z = logits + logit(u), differentiable in the logits with slope one (RELAX draft, eq. 7)."""
        return logits + logit_uniform(u)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """Return the sample b that z stands for: 1 where z > 0, else 0."""
        return (z > 0).to(z.dtype)

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return the sample that belongs to the uniform noise ``u``, in the shape of ``logits``."""
        return cls.hard(cls.path(logits, u))

    @staticmethod
    def conditional_path(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v, differentiable in the logits; all shapes are ``(..., D)``.

        It is softplus(logit v + softplus(l)) if b = 1, and mirrored if b = 0. This is the same as ``log(v / (1 - v) /
        (1 - theta) + 1)`` of Le's notes on REBAR (004), written so that neither tail overflows. (The published RELAX
        paper prints theta and 1 - theta swapped; enumeration decides for this one.)
        """
        sign = 2 * b - 1
        return sign * F.softplus(logit_uniform(v) + F.softplus(sign * logits))

    @staticmethod
    def conditional_slope(logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~ / d logits along `conditional_path`, elementwise, as a function of the value of z~ alone."""
        sign = 2 * b - 1
        return torch.sigmoid(sign * logits) * -torch.expm1(-sign * z)

    @staticmethod
    def to_logits(grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in the natural parameter of the path into one in the logits; here they are the same."""
        return grad

    @staticmethod
    def score(logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits = b - theta."""
        return b - torch.sigmoid(logits)

    @staticmethod
    def log_prob(logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``.

        It is also defined for soft b, in which it is linear.
        """
        return (b * logits - F.softplus(logits)).sum(-1)

    @staticmethod
    def relax(z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return sigma(z / temperature), the binary Concrete relaxation (Maddison et al. 2017)."""
        return torch.sigmoid(z / temperature)

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        """Return the mean theta = sigma(logits)."""
        return torch.sigmoid(logits)

    @staticmethod
    def enumerate(event_shape: tuple[int, ...], *, dtype=None, device=None) -> Tensor:
        """Return all 2^D samples, ``(2^D, D)``."""
        return digits(2, event_shape[0], device).to(dtype or torch.get_default_dtype())


class Categorical(Family):
    """Independent categorical variables, with logits ``(..., D, C)`` and one-hot samples of the same shape."""

    name = "categorical"
    event_dims = 2
    shape_dims, parameter_dims = 2, 2  # of the event's shape, and of one row's parameters
    discrete = True
    structured = False  # its path is elementwise, and its noise has the shape of a sample

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's logits for samples of ``event_shape``."""
        return tuple(event_shape)

    @staticmethod
    def sample_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's sample."""
        return tuple(event_shape)

    @staticmethod
    def path(logits: Tensor, u: Tensor) -> Tensor:
        """Return z = log p + Gumbel(u) with normalised log p."""
        return logits.log_softmax(-1) + gumbel(u)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """Return the sample that z stands for, its argmax, one-hot."""
        classes = torch.arange(z.shape[-1], device=z.device)
        return (z.argmax(-1, keepdim=True) == classes).to(z.dtype)

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor) -> Tensor:
        """Return the one-hot sample that belongs to the uniform noise ``u``, in the shape of ``logits``."""
        return cls.hard(cls.path(logits, u))

    @staticmethod
    def conditional_path(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
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

    @staticmethod
    def conditional_slope(logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~_i / d log p_i along `conditional_path` from the value alone.

        It is 1 - exp(z_i - z_b), and 0 for the winner.
        """
        winner = (b * z).sum(-1, keepdim=True)
        return -torch.expm1(z - winner)

    @staticmethod
    def to_logits(grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in log p into one in the logits, through log-softmax."""
        return grad - logits.softmax(-1) * grad.sum(-1, keepdim=True)

    @staticmethod
    def score(logits: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d logits = b - p for one-hot b."""
        return b - logits.softmax(-1)

    @staticmethod
    def log_prob(logits: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``.

        It is also defined for soft b, in which it is linear.
        """
        return (b * logits.log_softmax(-1)).sum((-2, -1))

    @staticmethod
    def relax(z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return softmax(z / temperature), the Concrete or Gumbel-Softmax relaxation."""
        return (z / temperature).softmax(-1)

    @staticmethod
    def log_density(logits: Tensor, log_s: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the log density of log s for s = relax(path(logits, u), temperature), ``(...)``.

        It is summed over the variables. The density is (C-1)! lambda^(C-1) prod_k w_k / (sum_k w_k)^C with w = p
        s^-lambda (ExpConcrete: Maddison et al. 2017, eq. 25).
        """
        size, temperature = logits.shape[-1], as_scalar(temperature, logits)
        w = (logits.log_softmax(-1) - temperature * log_s).log_softmax(-1)
        return (w.sum(-1) + math.lgamma(size) + (size - 1) * temperature.log()).sum(-1)

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        """Return the mean p = softmax(logits)."""
        return logits.softmax(-1)

    @staticmethod
    def enumerate(event_shape: tuple[int, ...], *, dtype=None, device=None) -> Tensor:
        """Return all C^D samples, ``(C^D, D, C)``."""
        d, c = event_shape
        chosen = digits(c, d, device).unsqueeze(-1) == torch.arange(c, device=device)
        return chosen.to(dtype or torch.get_default_dtype())


class Gaussian(Family):
    """Independent normal variables, with samples ``(..., D)``.

    The parameters ``(..., D, 2)`` are the mean and the log standard deviation. ``path`` is the reparameterisation
    itself and ``hard`` the identity: LAX treats b = z.
    """

    name = "gaussian"
    event_dims = 1
    shape_dims, parameter_dims = 1, 2  # of the event's shape, and of one row's parameters
    discrete = False
    structured = False  # its path is elementwise, and its noise has the shape of a sample

    @staticmethod
    def parameter_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's parameters for samples of ``event_shape``."""
        return (*event_shape, 2)

    @staticmethod
    def sample_shape(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row's sample."""
        return tuple(event_shape)

    @staticmethod
    def path(parameters: Tensor, u: Tensor) -> Tensor:
        """Return mean + std * Phi^-1(u), where ``u`` has the shape of a sample."""
        mean, log_std = parameters.unbind(-1)
        return mean + log_std.exp() * Gaussian.normal(u)

    @staticmethod
    def normal(u: Tensor) -> Tensor:
        """Return Phi^-1(u), the standard normal number that the path shifts and scales."""
        return math.sqrt(2) * torch.erfinv(2 * open_uniform(u) - 1)

    @staticmethod
    def hard(z: Tensor) -> Tensor:
        """Return z itself, which is the sample."""
        return z

    @classmethod
    def sample(cls, parameters: Tensor, u: Tensor) -> Tensor:
        """Return the sample that belongs to the uniform noise ``u``, ``(..., D)``."""
        return cls.path(parameters, u)

    @staticmethod
    def score(parameters: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d (mean, log std), in the shape of ``parameters``."""
        mean, log_std = parameters.unbind(-1)
        return Gaussian.score_of(parameters, (b - mean) / log_std.exp())

    @staticmethod
    def score_of(parameters: Tensor, normal: Tensor) -> Tensor:
        """Return the score of mean + std * ``normal`` from that number itself, in the shape of ``parameters``.

        (b - mean) / std loses all digits in single precision where the mean is large and the standard deviation small.
        """
        return torch.stack([normal / parameters[..., 1].exp(), normal.square() - 1], -1)

    @staticmethod
    def log_prob(parameters: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``."""
        mean, log_std = parameters.unbind(-1)
        normal = (b - mean) / log_std.exp()
        return (-0.5 * normal.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    @staticmethod
    def mean(parameters: Tensor) -> Tensor:
        """Return the mean of a sample, ``(..., D)``."""
        return parameters[..., 0]


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """Return weight * values, and 0 where the weight is 0, even if the value is infinite (an impossible sample)."""
    return torch.where(weight == 0, torch.zeros_like(weight), weight * torch.where(weight == 0, 0.0, values))


FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Bernoulli, Categorical, Gaussian)}


def expand_event(values: Tensor, family: type[Family], parameters: bool = False) -> Tensor:
    """Make per-row values ``(...)`` broadcast against samples: ``(..., 1, ..)``.

    With ``parameters`` they broadcast against the family's parameters instead, which differ for a Gaussian.
    """
    extra = family.parameter_dims if parameters else family.event_dims
    return values.reshape(values.shape + (1,) * extra)


def sum_event(values: Tensor, family) -> Tensor:
    """Sum over the event dimensions of a sample: ``(..., event)`` -> ``(...)``."""
    return values.sum(tuple(range(-family.event_dims, 0)))


def normal(u: Tensor) -> Tensor:
    """Turn uniform noise into standard normal noise."""
    return Gaussian.sample(torch.zeros(*u.shape, 2, dtype=u.dtype), u)
