"""Independent normal variables: sample by reparameterisation, score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relax_exp.distributions.base import Family
from relax_exp.distributions.noise import standard_normal


class Gaussian(Family):
    """Independent normal variables, with samples ``(..., D)``.

    The parameters ``(..., D, 2)`` are the mean and the log standard deviation. ``path`` is the reparameterisation
    itself and ``hard`` the identity: LAX treats b = z.
    """

    name = "gaussian"
    event_dims = 1
    shape_dims, parameter_dims = 1, 2  # of the event's shape, and of one row's parameters
    discrete = False

    @classmethod
    def parameter_shape(cls, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's parameters for samples of ``event_shape``."""
        return (*event_shape, 2)

    @classmethod
    def path(cls, parameters: Tensor, u: Tensor) -> Tensor:
        """Return mean + std * Phi^-1(u), where ``u`` has the shape of a sample."""
        mean, log_std = parameters.unbind(-1)
        return mean + log_std.exp() * standard_normal(u)

    @classmethod
    def hard(cls, z: Tensor) -> Tensor:
        """Return z itself, which is the sample."""
        return z

    @classmethod
    def score(cls, parameters: Tensor, b: Tensor) -> Tensor:
        """Return the score d log p(b) / d (mean, log std), in the shape of ``parameters``."""
        mean, log_std = parameters.unbind(-1)
        return Gaussian.score_of(parameters, (b - mean) / log_std.exp())

    @classmethod
    def score_of(cls, parameters: Tensor, normal: Tensor) -> Tensor:
        """Return the score of mean + std * ``normal`` from that number itself, in the shape of ``parameters``.

        (b - mean) / std loses all digits in single precision where the mean is large and the standard deviation small.
        """
        return torch.stack([normal / parameters[..., 1].exp(), normal.square() - 1], -1)

    @classmethod
    def log_prob(cls, parameters: Tensor, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, ``(...)``."""
        mean, log_std = parameters.unbind(-1)
        normal = (b - mean) / log_std.exp()
        return (-0.5 * normal.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    @classmethod
    def mean(cls, parameters: Tensor) -> Tensor:
        """Return the mean of a sample, ``(..., D)``."""
        return parameters[..., 0]
