"""The small networks that baselines and surrogates are made of."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp.numerics.sums import total

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "elu": F.elu}


def glorot_(weight: Tensor, fan_in: int | None = None) -> Tensor:
    """Draw Glorot-uniform weights ``(out, in)`` in place, the default of the original code.

    ``fan_in`` is the number of inputs where the weight is a part of a larger one.
    """
    bound = math.sqrt(6 / ((fan_in or weight.shape[1]) + weight.shape[0]))
    return nn.init.uniform_(weight, -bound, bound)


def he_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw normal weights of variance 2 / inputs in every affine map of a module, in place (He et al. 2015).

    This is what slim's variance scaling, the REBAR code's initialiser, draws, but for its truncation.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            weight = torch.randn(part.weight.shape, generator=generator, dtype=part.weight.dtype)
            with torch.no_grad():
                part.weight.copy_(weight * math.sqrt(2 / part.in_features))


def uniform_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights and biases of every affine map within 1 / sqrt(inputs) of zero, in place, as PyTorch does."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            bound = 1 / math.sqrt(part.in_features)
            for parameter in part.parameters():
                drawn = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                with torch.no_grad():
                    parameter.copy_((2 * drawn - 1) * bound)


class Linear(nn.Linear):
    """An affine map with Glorot-uniform weights and zero bias."""

    def reset_parameters(self) -> None:
        """Draw the initial weights and set the bias to zero."""
        glorot_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MLP(nn.Module):
    """A network with ``depth`` hidden layers of ``width`` units and a linear output."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        width: int,
        depth: int,
        activation: str = "relu",
        output_shape: tuple[int, ...] = (),
    ):
        super().__init__()
        self.input_dims, self.output_shape = len(input_shape), tuple(output_shape)
        sizes = [math.prod(input_shape), *[width] * depth]
        self.hidden = nn.ModuleList(Linear(i, o) for i, o in pairwise(sizes))
        self.out = Linear(sizes[-1], math.prod(output_shape))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs ``(..., *input_shape)`` to outputs ``(..., *output_shape)``."""
        x = x.flatten(-self.input_dims)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.out(x).reshape(x.shape[:-1] + self.output_shape)


def squared_weights(network: nn.Module) -> Tensor:
    """Return the sum of the squares of all parameters, which weight decay takes half of."""
    return total(p.square().sum() for p in network.parameters())


class Surrogate(nn.Module):
    """The learned control variate r(z, context) of RELAX, a network with ``depth`` hidden layers and one output a row.

    With none it is an affine map. The first layer is split into a part for z and a part for the context, so that the
    context, which is the larger input in a VAE, is multiplied once however often r is evaluated or differentiated in z.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        context_shape: tuple[int, ...] | None,
        width: int,
        depth: int,
        activation: str = "relu",
    ):
        super().__init__()
        self.z_dims = len(z_shape)
        self.context_dims = len(context_shape or ())
        z_size, context_size = math.prod(z_shape), math.prod(context_shape) if context_shape else 0
        width = width if depth else 1
        self.from_z = Linear(z_size, width)
        glorot_(self.from_z.weight, z_size + context_size)
        self.from_context = None
        if context_size:
            self.from_context = Linear(context_size, width, bias=False)
            glorot_(self.from_context.weight, z_size + context_size)
        self.hidden = nn.ModuleList(Linear(width, width) for _ in range(depth - 1))
        self.out = Linear(width, 1) if depth else None
        self.activation = ACTIVATIONS[activation]

    def features(self, context: Tensor | None) -> Tensor | float:
        """Compute the context's share of the first layer, ``(N, width)``; zero where the network takes no context.

        Raises:
            ValueError: The network takes a context, and none is given.
        """
        if self.from_context is None:
            return 0.0
        if context is None:
            raise ValueError("the surrogate was built with context_shape: pass context=")
        return self.from_context(context.flatten(-self.context_dims))

    def forward(self, z: Tensor, features: Tensor | float) -> Tensor:
        """Return r at z ``(..., N, *z_shape)`` with the ``features`` of the context, ``(..., N)``."""
        h = self.from_z(z.flatten(-self.z_dims)) + features
        if self.out is None:
            return h.squeeze(-1)
        h = self.activation(h)
        for layer in self.hidden:
            h = self.activation(layer(h))
        return self.out(h).squeeze(-1)
