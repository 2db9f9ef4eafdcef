"""Variational autoencoders with layers of discrete latents, and the terms of their bound."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp.distributions import INDEPENDENT, Bernoulli, BernoulliValues, Family
from relax_exp.models.mlp import Linear

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "leaky_relu": partial(nn.LeakyReLU, 0.2)}
MODELS = {"linear1": (1, False), "linear2": (2, False), "nonlinear": (1, True)}  # layers of latents, nonlinear maps


class Layer(NamedTuple):
    """One layer of latents: "bernoulli" with shape (D,) or "categorical" with shape (D, C)."""

    family: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The count of numbers in one row's sample."""
        return math.prod(self.shape)


def network(inputs: int, outputs: int, widths: Sequence[int], activation: str) -> nn.Module:
    """Build a linear map, after hidden layers of the ``widths`` if there are any."""
    sizes = [inputs, *widths]
    hidden = [part for i, o in pairwise(sizes) for part in (Linear(i, o), ACTIVATIONS[activation]())]
    return nn.Sequential(*hidden, Linear(sizes[-1], outputs)) if hidden else Linear(inputs, outputs)


class DiscreteVAE(nn.Module):
    """A variational autoencoder with one or more layers of discrete latents.

    It has the encoder q(b_0 | x) q(b_1 | b_0).., the decoder p(x | b_0) p(b_0 | b_1).. and the prior p(b_last). x is
    ``(..., N, pixels)`` in {0, 1}, and b_l is ``(..., N, *layers[l].shape)``, in [0, 1] where relaxed. Input is centred
    and Bernoulli layers are coded as 2b - 1, as in the REBAR code; one-hot samples are coded as they are. The module is
    called as ``vae(method_name, *args)``, which is what ``functional_call`` can reach.

    Args:
        layers: The layers of latents, from the one next to x.
        mean: The mean of the training images, ``(pixels,)``.
        hidden: Widths of hidden layers between x and b_0, in the encoder's order.
        activation: That of the hidden layers.
        decoder_hidden: Widths of hidden layers between b_0 and the pixels, in the decoder's order; None: as ``hidden``,
            mirrored. The maps between layers of latents are linear.
        centred: False: x as it is, and no constant in the pixels' logits.
        learned_prior: False: a uniform one.
        pinned: The encoder gives all but the first logit of a categorical variable, which is 0 (ARSM's code).
    """

    prior: Tensor
    mean: Tensor
    pixel_bias: Tensor

    def __init__(
        self,
        layers: list[Layer],
        mean: Tensor,
        hidden: Sequence[int] = (),
        decoder_hidden: Sequence[int] | None = None,
        activation: str = "tanh",
        centred: bool = True,
        learned_prior: bool = True,
        pinned: bool = False,
    ):
        super().__init__()
        self.pinned = pinned
        self.layers = layers
        self.families: list[type[Family]] = [INDEPENDENT[layer.family] for layer in layers]
        self.pixels: type[Family] = Bernoulli
        self.depth = len(layers)
        sizes = [len(mean), *(layer.size for layer in layers)]
        outputs = [layer.size - layer.shape[0] if pinned else layer.size for layer in layers]
        between = [()] * (self.depth - 1)
        widths = [tuple(hidden), *between]
        self.encoder = nn.ModuleList(map(network, sizes, outputs, widths, [activation] * self.depth))
        back = [tuple(hidden)[::-1] if decoder_hidden is None else tuple(decoder_hidden), *between]
        self.decoder = nn.ModuleList(map(network, sizes[1:], sizes, back, [activation] * self.depth))
        prior = torch.zeros(layers[-1].shape)
        if learned_prior:
            self.prior = nn.Parameter(prior)
        else:
            self.register_buffer("prior", prior)
        clipped = mean.clamp(0.001, 0.999)
        self.register_buffer("mean", mean.clone() if centred else torch.zeros_like(mean))
        self.register_buffer("pixel_bias", (clipped.log() - (-clipped).log1p()) * centred)

    def of_data(self) -> dict[str, Tensor]:
        """Return the buffers that come from ``mean``, by name."""
        return {"mean": self.mean, "pixel_bias": self.pixel_bias}

    def for_values(self) -> DiscreteVAE:
        """Return a copy, with the same parameters, for passes that nothing differentiates: they are quicker."""
        made = copy.copy(self)
        made.families = [BernoulliValues if family is Bernoulli else family for family in self.families]
        made.pixels = BernoulliValues
        return made

    def forward(self, method: str, *args):
        """Call the method of that name with the other arguments."""
        return getattr(self, method)(*args)

    def code(self, layer: int, b: Tensor) -> Tensor:
        """Return what other networks see of b_layer, or of x for layer -1, ``(..., N, size)``."""
        if layer < 0:
            return b - self.mean
        return 2 * b - 1 if self.layers[layer].family == "bernoulli" else b.flatten(-2)

    def encode(self, layer: int, below: Tensor) -> Tensor:
        """Return the logits of b_layer given what lies below it (x for layer 0)."""
        logits, shape = self.encoder[layer](self.code(layer - 1, below)), self.layers[layer].shape
        return F.pad(logits.unflatten(-1, (shape[0], -1)), (1, 0)) if self.pinned else logits.unflatten(-1, shape)

    def decode(self, layer: int, b: Tensor) -> Tensor:
        """Return the logits of what lies below b_layer (the pixels for layer 0)."""
        logits = self.decoder[layer](self.code(layer, b))
        return logits + self.pixel_bias if layer == 0 else logits.unflatten(-1, self.layers[layer - 1].shape)

    def log_p(self, layer: int, b: Tensor, below: Tensor) -> Tensor:
        """Return log p(below | b_layer), ``(..., N)``, where below is x for layer 0."""
        family = self.families[layer - 1] if layer else self.pixels
        return family.log_prob(self.decode(layer, b), below)

    def prior_logits(self, b: Tensor) -> Tensor:
        """Return the logits of the prior of b_last.

        They may depend on b itself where its variables come one after another.
        """
        return self.prior

    def log_prior(self, b: Tensor) -> Tensor:
        """Return log p(b_last), ``(..., N)``."""
        return self.families[-1].log_prob(self.prior_logits(b), b)

    def chain(self, x: Tensor, convert: Callable[[int, Tensor], Tensor], first: Tensor | None = None):
        """Pass x through the encoder, with b_l = ``convert(l, logits_l)``, and collect the terms of the bound.

        Args:
            x: ``(..., N, pixels)``.
            convert: Makes a sample, hard or soft, from the number of the layer and its logits.
            first: The logits of layer 0, where they are known already.

        Returns:
            Lists by layer: logits, samples, log q(b_l | below) and log p(below | b_l), these two ``(..., N)`` each; and
            log p(b_last), ``(..., N)``.
        """
        logits, samples, log_q, log_p = [], [], [], []
        below = x
        for layer in range(self.depth):
            logits.append(first if layer == 0 and first is not None else self.encode(layer, below))
            samples.append(convert(layer, logits[-1]))
            log_q.append(self.families[layer].log_prob(logits[-1], samples[-1]))
            log_p.append(self.log_p(layer, samples[-1], below))
            below = samples[-1]
        return logits, samples, log_q, log_p, self.log_prior(below)

    def above(
        self, layer: int, s: Tensor, logits: Tensor, below: Tensor, convert: Callable[[int, Tensor], Tensor], x: Tensor
    ) -> Tensor:
        """Return -ELBO less the terms of the layers under ``layer``, as a function of s in the place of its sample.

        The layers above follow s by ``convert``. x is for models in which they say something of it.
        """
        value = self.families[layer].log_prob(logits, s) - self.log_p(layer, s, below)
        for k in range(layer + 1, self.depth):
            below, upper = s, self.encode(k, s)
            s = convert(k, upper)
            value = value + self.families[k].log_prob(upper, s) - self.log_p(k, s, below)
        return value - self.log_prior(s)

    def relaxed(self, x: Tensor, convert: Callable[[int, Tensor], Tensor], divergence) -> tuple[Tensor, Tensor]:
        """Compute the relaxed loss, -log p(x | s_0) plus ``divergence(l, q_logits, p_logits, s_l)`` of all layers.

        s_l is convert(l, q_logits).

        Returns:
            The loss, ``(N,)``, and the logits of layer 0.
        """
        s = x
        q_logits, soft = [], []
        for layer in range(self.depth):
            q_logits.append(self.encode(layer, s))
            s = convert(layer, q_logits[-1])
            soft.append(s)
        p_logits = [*(self.decode(k, soft[k]) for k in range(1, self.depth)), self.prior_logits(soft[-1])]
        apart = (divergence(k, q_logits[k], p_logits[k], soft[k]) for k in range(self.depth))
        return sum(apart) - self.log_p(0, soft[0], x), q_logits[0]

    def generate(self, uniforms: list[Tensor]) -> Tensor:
        """Return the pixel probabilities of draws from the prior; ``uniforms`` by layer are ``(N, *shape)``."""
        logits = self.prior.expand_as(uniforms[-1])
        for layer in reversed(range(self.depth)):
            logits = self.decode(layer, self.families[layer].sample(logits, uniforms[layer]))
        return torch.sigmoid(logits)
