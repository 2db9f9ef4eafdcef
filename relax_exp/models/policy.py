"""The policy of the control tasks: a small network from a state to the logits of a discrete action."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


def init_policy(sizes: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the parameters of a network through layers of these sizes, from the states' to the number of actions.

    Orthogonal weights, sqrt(2) times in the hidden layers, and zero biases, as in the published code.
    """
    params = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        gain = 2**0.5 if i < len(sizes) - 2 else 1.0
        params[f"{i}.weight"] = nn.init.orthogonal_(torch.empty(outputs, inputs), gain, generator)
        params[f"{i}.bias"] = torch.zeros(outputs)
    return params


def policy_logits(params: dict[str, Tensor], x: Tensor, activation: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    """Map states ``(N, S)`` to logits, or means, ``(N, A)``; all may be stacked over replicas, ``(R, N, S)``."""
    layers = len(params) // 2
    for i in range(layers):
        x = x @ params[f"{i}.weight"].mT + params[f"{i}.bias"].unsqueeze(-2)
        x = activation(x) if i < layers - 1 else x
    return x
