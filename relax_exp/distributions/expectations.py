"""Expectations as sums: over enumerated states, or over the nodes of a quadrature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

NODES = 120  # of the quadrature for a Gaussian


def expectation(log_p: Tensor, values: Tensor, samples: int | None = None) -> Tensor:
    """Sum the values of all states weighted with their probabilities.

    Args:
        log_p: The states' log-probabilities, ``(S, ...)``, which may carry a gradient.
        values: What has a mean, in the same shape.
        samples: K, for the mean of the bound -log mean_k exp(-values_k) over K independent states instead, a sum over
            all S^K of them.

    Returns:
        The expectation, ``(...)``.
    """
    if samples is None:
        return (log_p.exp() * values).sum(0)
    index = torch.tensor(list(itertools.product(range(len(values)), repeat=samples)))
    bounds = math.log(samples) - (-values[index]).logsumexp(1)
    return (log_p[index].sum(1).exp() * bounds).sum(0)


def quadrature(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nodes of the Gauss-Hermite quadrature of one normal variable, ``(NODES, ..., 1)``, and their weights.

    The parameters ``(..., 1, 2)`` are its mean and log standard deviation; the nodes are differentiable in them. The
    weights ``(NODES,)`` sum to one.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    mean, log_std = parameters.unbind(-1)
    points = mean + log_std.exp() * torch.as_tensor(nodes).reshape(-1, *[1] * mean.dim())
    return points, torch.as_tensor(weights / weights.sum())
