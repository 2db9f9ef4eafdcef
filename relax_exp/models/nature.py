"""The standard convolutional network of Atari agents, with a policy and a state value on one trunk."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp import products

FILTERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # number, size, stride
FEATURES = 512
FRAMES, SIDE = 4, 84  # of an observation


def init_nature(actions: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters for observations ``(4, 84, 84)``: the network of Mnih et al. (2015), "Nature DQN".

    Orthogonal weights with the gains of the public A2C implementations: sqrt(2), .01 for the policy, 1 for the value;
    zero biases.
    """
    params, channels, side = {}, FRAMES, SIDE

    def add(name: str, shape: tuple[int, ...], gain: float) -> None:
        params[f"{name}.weight"] = nn.init.orthogonal_(torch.empty(shape), gain, generator)
        params[f"{name}.bias"] = torch.zeros(shape[0])

    for i, (number, size, stride) in enumerate(FILTERS):
        add(f"filters.{i}", (number, channels, size, size), 2**0.5)
        channels, side = number, (side - size) // stride + 1
    add("hidden", (FEATURES, channels * side * side), 2**0.5)
    add("policy", (actions, FEATURES), 0.01)
    add("value", (1, FEATURES), 1.0)
    return params


class Activations(NamedTuple):
    """What the network computes on the way, from which `pull_back` goes on.

    layers: `pixels` and the output of each layer of filters, channels last; features ``(N, 512)``; logits ``(N, A)``;
    values ``(N,)``.
    """

    layers: tuple[Tensor, ...]
    features: Tensor
    logits: Tensor
    values: Tensor


def filters(params: dict[str, Tensor]) -> list[Tensor]:
    """Weights of the filters as they are applied; pixels / 255 cost less in the weights.

    Channels last is the layout that CPUs convolve fastest, by a third here.
    """
    first, *others = (params[f"filters.{i}.weight"] for i in range(len(FILTERS)))
    return [weight.contiguous(memory_format=torch.channels_last) for weight in (first / 255, *others)]


def _flat(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, H W C)``, as it lies in memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def pixels(observations: Tensor, out: Tensor) -> Tensor:
    """Bytes to floats, channels last, both ``(N, 4, 84, 84)``; frame by frame takes half the time of all at once."""
    for frame in range(FRAMES):
        out[:, frame].copy_(observations[:, frame])
    return out


def nature(params: dict[str, Tensor], observations: Tensor, weights: list[Tensor] | None = None) -> Activations:
    """The network at observations ``(N, 4, 84, 84)``, bytes or their `pixels`.

    ``weights``: what `filters` made of the parameters, for who calls this often.
    """
    weights = weights or filters(params)
    layers = [observations.to(params["hidden.weight"].dtype, memory_format=torch.channels_last)]
    for i, (_, _, stride) in enumerate(FILTERS):
        layers.append(F.conv2d(layers[-1], weights[i], params[f"filters.{i}.bias"], stride).relu_())
    features = products.linear(_flat(layers[-1]), params["hidden.weight"], params["hidden.bias"]).relu()
    logits = F.linear(features, params["policy.weight"], params["policy.bias"])
    values = F.linear(features, params["value.weight"], params["value.bias"]).squeeze(-1)
    return Activations(tuple(layers), features, logits, values)


def pull_back(params: dict[str, Tensor], seen: Activations, at_logits: Tensor, at_values: Tensor) -> dict[str, Tensor]:
    """Gradients of the parameters from those at the logits and the values: reverse mode from the given activations.

    What autograd would do, except that the forward pass is not repeated: a rollout has been through it already, and it
    is a quarter of the arithmetic of an update.
    """
    grads = {}

    def through(name: str, below: Tensor, grad: Tensor) -> Tensor:
        grads[f"{name}.weight"], grads[f"{name}.bias"] = grad.mT @ below, grad.sum(0)
        return grad @ params[f"{name}.weight"]

    grad = through("policy", seen.features, at_logits) + through("value", seen.features, at_values.unsqueeze(-1))
    grad = through("hidden", _flat(seen.layers[-1]), grad * (seen.features > 0))
    _, channels, height, width = seen.layers[-1].shape
    grad = grad.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    weights = filters(params)
    for i in reversed(range(len(FILTERS))):
        below, above = seen.layers[i : i + 2]
        stride, needed = [FILTERS[i][2]] * 2, [i > 0, True, True]
        grad, weight, bias = torch.ops.aten.convolution_backward(
            grad * (above > 0), below, weights[i], [FILTERS[i][0]], stride, [0, 0], [1, 1], False, [0, 0], 1, needed
        )
        grads[f"filters.{i}.weight"], grads[f"filters.{i}.bias"] = weight / 255 if i == 0 else weight, bias
    return {name: grads[name] for name in params}
