"""The standard convolutional network of Atari agents, with a policy and a state value on one trunk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp.numerics import onednn

FILTERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # number, size, stride
FEATURES = 512
FRAMES, SIDE = 4, 84  # of an observation
aten = torch.ops.aten


def init_nature(actions: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the parameters of the network of Mnih et al. (2015), "Nature DQN", for observations ``(4, 84, 84)``.

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

    Attributes:
        layers: `pixels` and the output of each layer of filters, channels last.
        features: The hidden layer, ``(N, 512)``.
        logits: Of the actions, ``(N, A)``.
        values: Of the states, ``(N,)``.
    """

    layers: tuple[Tensor, ...]
    features: Tensor
    logits: Tensor
    values: Tensor


def _fold(x: Tensor, stride: int) -> Tensor:
    """Turn columns into channels: ``(N, C, H, W)`` -> ``(N, stride C, H, W / stride)``.

    That is how it lies in memory, channels last. A filter that moves by ``stride`` columns moves by one then, and has
    more channels: CPUs gain a tenth from that. On a GPU it was not measured.
    """
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h, w // stride, stride * c).permute(0, 3, 1, 2)


def _unfold(x: Tensor, stride: int) -> Tensor:
    """Undo `_fold`."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h, w * stride, c // stride).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> Tensor:
    """Flatten ``(N, C, H, W)`` to ``(N, H W C)``, as it lies in memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def as_applied(params: dict[str, Tensor]) -> list[Tensor]:
    """Return the weights of filters and hidden layer, folded, and over 255 instead of the pixels, which costs less."""
    first, *others = (params[f"filters.{i}.weight"] for i in range(len(FILTERS)))
    last = [weight.contiguous(memory_format=torch.channels_last) for weight in (first / 255, *others)]
    folded = [_fold(weight, stride) for weight, (_, _, stride) in zip(last, FILTERS, strict=True)]
    return [*folded, params["hidden.weight"]]


@cache
def _helper() -> ThreadPoolExecutor:
    """Return a pool of one thread, for work beside the network's on a core that is idle while the games wait."""

    def begin() -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        torch.set_grad_enabled(False)

    return ThreadPoolExecutor(1, "helper", begin)


def packed(params: dict[str, Tensor], rows: int) -> list[Tensor | Future[Any]]:
    """Return `as_applied` for callers that apply the weights often, to so many rows, and not in compiled programs.

    The weights are packed where that gains. The hidden layer's, 6 MB, are packed while the caller goes on, and needs
    the filters first.
    """
    *folded, hidden = as_applied(params)
    if not onednn.packs(hidden):
        return [*folded, hidden]
    packing = _helper().submit(onednn.packed_linear, hidden, rows)
    side, ready = SIDE, []
    for weight, (_, size, stride) in zip(folded, FILTERS, strict=True):
        shape = (rows, weight.shape[1], side, side // stride)
        ready.append(onednn.packed_convolution(weight, (stride, 1), shape))
        side = (side - size) // stride + 1
    return [*ready, packing]


def pixels(observations: Tensor, out: Tensor) -> Tensor:
    """Turn bytes into floats, channels last, both ``(N, 4, 84, 84)``.

    It goes frame by frame, which takes half the time of all at once.
    """
    for frame in range(FRAMES):
        out[:, frame].copy_(observations[:, frame])
    return out


def nature(params: dict[str, Tensor], observations: Tensor, applied: list[Any] | None = None) -> Activations:
    """Apply the network to observations ``(N, 4, 84, 84)``, bytes or their `pixels`.

    ``applied`` are the `packed` parameters, where there are any.
    """
    *filters, hidden = applied or as_applied(params)
    layers = [observations.to(params["hidden.weight"].dtype, memory_format=torch.channels_last)]
    for i, (weight, (_, _, stride)) in enumerate(zip(filters, FILTERS, strict=True)):
        x, bias = _fold(layers[-1], stride), params[f"filters.{i}.bias"]
        layers.append(onednn.convolution_relu(x, weight, bias, (stride, 1)))
    if isinstance(hidden, Future):
        hidden = hidden.result()
    features = onednn.linear_relu(_flat(layers[-1]), hidden, params["hidden.bias"])
    logits = F.linear(features, params["policy.weight"], params["policy.bias"])
    values = F.linear(features, params["value.weight"], params["value.bias"]).squeeze(-1)
    return Activations(tuple(layers), features, logits, values)


def pull_back(params: dict[str, Tensor], seen: Activations, at_logits: Tensor, at_values: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of the parameters from those at the logits and the values.

    This is reverse mode from the given activations: what autograd would do, except that the forward pass is not
    repeated. A rollout has been through it already, and it is a quarter of the arithmetic of an update.
    """
    grads = {}

    def through(name: str, grad: Tensor) -> Tensor:
        grads[f"{name}.weight"], grads[f"{name}.bias"] = grad.mT @ seen.features, grad.sum(0)
        return grad @ params[f"{name}.weight"]

    grad = through("policy", at_logits) + through("value", at_values.unsqueeze(-1))
    function = torch.ops.relax_exp.nature_backward if grad.device.type == "cpu" else _backward
    leaves = iter(function(grad, seen.features, list(seen.layers), as_applied(params)))
    for name in ("hidden", *(f"filters.{i}" for i in reversed(range(len(FILTERS))))):
        grads[f"{name}.weight"], grads[f"{name}.bias"] = next(leaves), next(leaves)
    return {name: grads[name] for name in params}


def _through(i: int, grad: Tensor, below: Tensor, weight: Tensor, *needed: bool) -> tuple[Tensor, ...]:
    """Return the gradients below layer i of filters, of its weight and of its bias, all folded."""
    number, _, stride = FILTERS[i]
    options = [number], [stride, 1], [0, 0], [1, 1], False, [0, 0], 1
    return aten.convolution_backward(grad, below, weight, *options, needed)


def _of_filters(i: int, grad: Tensor, below: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    _, weight, bias = _through(i, grad, below, weight, False, True, True)
    return _unfold(weight, FILTERS[i][2]).contiguous(), bias


def _at_once(job: Callable) -> Callable:
    done = job()
    return lambda: done


def _backward(
    grad: Tensor,
    features: Tensor,
    layers: list[Tensor],
    weights: list[Tensor],
    later: Callable = _at_once,
    parts: int = 1,
) -> list[Tensor]:
    """Gradients of weight and bias of the hidden layer and of the filters, from the last, by that at the features.

    ``later(job)`` begins what nothing else here waits for and returns what gives its result; the last such job, the
    largest, is divided in ``parts``.
    """
    *filters, hidden = weights
    grad, flat = aten.threshold_backward(grad, features, 0), _flat(layers[-1])
    jobs = [later(lambda grad=grad: (onednn.mm(grad.mT, flat), grad.sum(0)))]
    _, channels, height, width = layers[-1].shape
    grad = onednn.mm(grad, hidden).unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    for i in reversed(range(len(FILTERS))):
        stride = FILTERS[i][2]
        grad, below = aten.threshold_backward(grad, layers[i + 1], 0), _fold(layers[i], stride)
        if i:
            jobs.append(later(partial(_of_filters, i, grad, below, filters[i])))
            grad = _unfold(_through(i, grad, below, filters[i], True, False, False)[0], stride)
    *others, own = (
        partial(_of_filters, 0, *rows, filters[0]) for rows in zip(grad.chunk(parts), below.chunk(parts), strict=True)
    )
    others = [later(job) for job in others]
    weight, bias = own()
    for job in others:
        more = job()
        weight, bias = weight + more[0], bias + more[1]
    return [leaf for job in jobs for leaf in job()] + [weight / 255, bias]


library = torch.library.Library("relax_exp", "FRAGMENT")
library.define("nature_backward(Tensor grad, Tensor features, Tensor[] layers, Tensor[] weights) -> Tensor[]")


@torch.library.impl(library, "nature_backward", "CPU")
def _(grad: Tensor, features: Tensor, layers: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """`_backward`, with the helper where torch has one thread."""
    if torch.get_num_threads() > 1:
        return _backward(grad, features, layers, weights)
    return _backward(grad, features, layers, weights, lambda job: _helper().submit(job).result, 2)


@torch.library.register_fake("relax_exp::nature_backward")
def _(grad: Tensor, features: Tensor, layers: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    shapes = [(FEATURES, weights[-1].shape[1]), (FEATURES,)]
    for i in reversed(range(len(FILTERS))):
        number, size, _ = FILTERS[i]
        shapes += [(number, layers[i].shape[1], size, size), (number,)]
    return [grad.new_empty(shape) for shape in shapes]
