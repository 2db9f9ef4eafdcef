"""The policy of the control tasks: a small network from a state to logits, or to the means of a Gaussian action."""

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


def tangent_kernel(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the inner products of the derivatives of all outputs of `policy_logits` with tanh, its tangent kernel.

    Element (r A + a, r' A + a') is that of output a at row r of ``x`` ``(..., N, S)`` with output a' at row r'; the
    result is ``(..., N A, N A)``. The derivative with respect to a weight is the outer product of what comes to the
    layer, backwards and forwards, so no derivative is ever written out; the memory is that of a few such results.
    """
    layers, inputs = len(params) // 2, [x]
    for i in range(layers - 1):
        inputs.append(torch.tanh(inputs[-1] @ params[f"{i}.weight"].mT + params[f"{i}.bias"].unsqueeze(-2)))
    outputs = params[f"{layers - 1}.bias"].shape[-1]
    back = torch.eye(outputs, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], outputs, outputs)
    parts: list[Tensor] = []
    for i in reversed(range(layers)):
        into = torch.cat([inputs[i], torch.ones_like(inputs[i][..., :1])], -1).repeat_interleave(outputs, -2)
        flat = back.flatten(-3, -2)
        part = (into @ into.mT).mul_(flat @ flat.mT)
        parts = [parts[0].add_(part) if parts else part]
        if i:
            back = (back @ params[f"{i}.weight"]) * (1 - inputs[i].square()).unsqueeze(-2)
    return parts[0]
