"""What estimators ask of a family of variables, and the arithmetic on events that families share."""

from __future__ import annotations

import torch
from torch import Tensor


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


def expand_event(values: Tensor, family: type[Family], parameters: bool = False) -> Tensor:
    """Make per-row values ``(...)`` broadcast against samples: ``(..., 1, ..)``.

    With ``parameters`` they broadcast against the family's parameters instead, which differ for a Gaussian.
    """
    extra = family.parameter_dims if parameters else family.event_dims
    return values.reshape(values.shape + (1,) * extra)


def sum_event(values: Tensor, family) -> Tensor:
    """Sum over the event dimensions of a sample: ``(..., event)`` -> ``(...)``."""
    return values.sum(tuple(range(-family.event_dims, 0)))


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """Return weight * values, and 0 where the weight is 0, even if the value is infinite (an impossible sample)."""
    return torch.where(weight == 0, torch.zeros_like(weight), weight * torch.where(weight == 0, 0.0, values))


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
