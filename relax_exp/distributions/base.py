"""What estimators ask of a family of variables, and the arithmetic on events that families share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

Device = torch.device | str | None


LARGEST = 1e9  # of a logit


class Family:
    """What estimators ask of a family of variables; every function acts on the trailing dimensions.

    A family is a class without instances. What it does not have raises NotImplementedError. By default its parameters
    and samples have the event's shape, and a sample is the hard value of its path.

    Attributes:
        name: What configurations call it.
        event_dims: Trailing dimensions of a sample.
        shape_dims, parameter_dims: Dimensions of the event's shape, and of one row's parameters.
        discrete: Whether its samples can be enumerated, and have a relaxation.
        structured: Whether its noise has another shape than a sample, so that its path is not elementwise.
    """

    name: ClassVar[str]
    event_dims: ClassVar[int]
    shape_dims: ClassVar[int]
    parameter_dims: ClassVar[int]
    discrete: ClassVar[bool]
    structured: ClassVar[bool] = False

    @classmethod
    def of(cls, event_shape: tuple[int, ...]) -> type[Family]:
        """Return the family for events of that shape; most are the same for all."""
        return cls

    @classmethod
    def parameter_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's parameters: that of the event, unless a family differs."""
        return tuple(event_shape)

    @classmethod
    def sample_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's sample: that of the event, unless a family differs."""
        return tuple(event_shape)

    @classmethod
    def path(cls, logits: Tensor, u: Tensor, /) -> Tensor:
        """Return z, of which the sample is a function, from uniform noise; differentiable in the parameters."""
        raise NotImplementedError

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return the sample that z stands for."""
        raise NotImplementedError

    @classmethod
    def sample(cls, logits: Tensor, u: Tensor, /) -> Tensor:
        """Return the sample that belongs to the uniform noise ``u``."""
        return cls.hard(cls.path(logits, u))

    @classmethod
    def conditional_path(cls, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ ~ p(z | b) for uniform v, differentiable in the parameters."""
        raise NotImplementedError

    @classmethod
    def conditional_slope(cls, logits: Tensor, b: Tensor, z: Tensor) -> Tensor:
        """Return d z~ / d parameters along `conditional_path`, elementwise."""
        raise NotImplementedError

    @classmethod
    def conditional_pull(cls, logits: Tensor, b: Tensor, z: Tensor, grad: Tensor) -> Tensor:
        """Turn a gradient in z~ into one in the natural parameter along `conditional_path`, where it is structured."""
        raise NotImplementedError

    @classmethod
    def grad_to_logits(cls, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient in the natural parameter of the path into one in the logits."""
        raise NotImplementedError

    @classmethod
    def score(cls, logits: Tensor, b: Tensor, /) -> Tensor:
        """Return the score d log p(b) / d parameters."""
        raise NotImplementedError

    @classmethod
    def score_of(cls, logits: Tensor, normal: Tensor, /) -> Tensor:
        """Return the score of a sample from the standard normal number that gave it, where it is not discrete."""
        raise NotImplementedError

    @classmethod
    def log_prob(cls, logits: Tensor, b: Tensor, /) -> Tensor:
        """Return log p(b), summed over the event."""
        raise NotImplementedError

    @classmethod
    def relax(cls, z: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the relaxed sample."""
        raise NotImplementedError

    @classmethod
    def log_density(cls, logits: Tensor, log_s: Tensor, temperature: Tensor | float) -> Tensor:
        """Return the log density of the logarithm of a relaxed sample, summed over the event."""
        raise NotImplementedError

    @classmethod
    def mean(cls, logits: Tensor, /) -> Tensor:
        """Return the mean."""
        raise NotImplementedError

    @classmethod
    def enumerate(
        cls, event_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Return all samples, ``(states, ...)``."""
        raise NotImplementedError


def bounded(logits: Tensor) -> Tensor:
    """Return logits with infinite ones, of masked actions, as large ones, whose differences are numbers."""
    return logits.clamp(-LARGEST, LARGEST)


def expand_event(values: Tensor, family: type[Family], parameters: bool = False) -> Tensor:
    """Make per-row values ``(...)`` broadcast against samples: ``(..., 1, ..)``.

    With ``parameters`` they broadcast against the family's parameters instead, which differ for a Gaussian.
    """
    extra = family.parameter_dims if parameters else family.event_dims
    return values.reshape(values.shape + (1,) * extra)


def sum_event(values: Tensor, family: type[Family]) -> Tensor:
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


def digits(base: int, places: int, device: Device = None) -> Tensor:
    """Return all numbers of ``places`` digits in ``base``, in order, ``(base^places, places)``, made on the device."""
    number = torch.arange(base**places, device=device).unsqueeze(-1)
    return number // base ** torch.arange(places - 1, -1, -1, device=device) % base
