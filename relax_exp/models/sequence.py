"""A model of text with categorical latents over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp.models.mlp import Linear
from relax_exp.models.vae import DiscreteVAE, Layer, network


class SequenceModel(DiscreteVAE):
    """A model of text with one latent for each ``segment`` characters, which says something else at each place in it.

        p(z_1) prod_k p(z_k | z_{k-1}) prod_t p(x_t | the ``order`` characters before it, its segment's z)

    is the model and q(z_k | x) its approximate posterior. x is rows of one-hot characters, flat. q sees the segment and
    its two neighbours. Without latents (one category) it is the autoregressive model alone, and the bound its
    likelihood.

    layer: the latents, ``(variables, categories)``. mean: of x over the training rows. letters: how many different
    characters there are; given: characters at the head of a row that it starts from, at least ``order``. hidden: units.
    """

    def __init__(self, layer: Layer, mean: Tensor, letters: int, given: int, segment: int, order: int, hidden: int):
        super().__init__([layer], torch.zeros(1))  # maps of its own take the place of the images'
        categories = layer.shape[1]
        self.segment, self.order, self.letters, self.given = segment, order, letters, given
        self.encoder = network(3 * segment * letters, categories, (hidden,), "tanh")
        self.decoder = nn.ModuleDict({"latent": Linear(categories, segment * hidden), "out": Linear(hidden, letters)})
        if order:
            self.decoder["past"] = Linear(order * letters, hidden, bias=False)
        self.prior = nn.Parameter(torch.zeros(categories))
        self.transition = Linear(categories, categories, bias=False)
        self.register_buffer("mean", mean.clone())

    def text(self, x: Tensor) -> Tensor:
        """Return x as ``(..., N, given + T, letters)``."""
        return x.unflatten(-1, (-1, self.letters))

    def encode(self, layer, below):
        """Return logits ``(N, variables, categories)`` from the text."""
        segments = self.text(below)[..., self.given :, :].unflatten(-2, (-1, self.segment)).flatten(-2)
        padded = F.pad(segments, (0, 0, 1, 1))
        return self.encoder(torch.cat([padded[..., :-2, :], segments, padded[..., 2:, :]], -1))

    def log_p(self, layer, b, below):
        """Return log p(x | z) of the T characters after the given ones."""
        text, length = self.text(below), self.segment * b.shape[-2]
        hidden = self.decoder["latent"](b).unflatten(-1, (self.segment, -1)).flatten(-3, -2)
        if self.order:
            starts = range(self.given - self.order, self.given)
            hidden = hidden + self.decoder["past"](torch.cat([text[..., i : i + length, :] for i in starts], -1))
        logits = self.decoder["out"](torch.tanh(hidden))
        return (logits.log_softmax(-1) * text[..., self.given :, :]).sum((-2, -1))

    def prior_logits(self, b):
        """Return the logits of every z_k given the one before it."""
        first = self.prior.expand(*b.shape[:-2], 1, -1)
        return torch.cat([first, self.prior + self.transition(b[..., :-1, :])], -2)
