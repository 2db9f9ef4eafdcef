"""A stochastic feed-forward network that predicts the lower half of an image from the upper half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relax_exp.models.mlp import Linear
from relax_exp.models.vae import DiscreteVAE, Layer


class HalfPredictor(DiscreteVAE):
    """A chain of discrete latents from the upper half of an image to its lower half, with linear maps between them.

        p(lower | upper) = sum over b of p(b_0 | upper) p(b_1 | b_0) .. p(lower | b_last)

    Images come whole, as rows ``(..., N, pixels)`` in {0, 1}, of which the first half of the pixels is the upper one.
    Nothing is inferred: the latents that are drawn are the model's own, so what stands in the place of a VAE's -ELBO is
    -log p(lower | b_last), without a log q and a log p of the latents. What estimators may look at, `code` of layer -1,
    is the whole image: f depends on both halves, and the latents are drawn from the upper one alone.

    The maps to the latents are ``encoder``, the one to the lower half is ``decoder``. ``centred``: the input is the
    upper half less its mean, and the pixels' logits have a constant from the mean of the lower half.
    """

    def __init__(self, layers: list[Layer], mean: Tensor, centred: bool = True):
        super().__init__(layers, mean, centred=centred, learned_prior=False)
        self.given = len(mean) // 2
        self.encoder[0] = Linear(self.given, layers[0].size)
        self.decoder = nn.ModuleList([Linear(layers[-1].size, len(mean) - self.given)])

    def encode(self, layer: int, below: Tensor) -> Tensor:
        """Return the logits of b_layer given what lies below it, for layer 0 the upper half of the image."""
        code = self.code(layer - 1, below)
        return self.encoder[layer](code if layer else code[..., : self.given]).unflatten(-1, self.layers[layer].shape)

    def predict(self, b: Tensor) -> Tensor:
        """Return the logits of the lower half given b_last, ``(..., N, pixels / 2)``."""
        return self.decoder[0](self.code(self.depth - 1, b)) + self.pixel_bias[self.given :]

    def log_lower(self, b: Tensor, x: Tensor) -> Tensor:
        """Return log p(lower | b_last), ``(..., N)``."""
        return self.pixels.log_prob(self.predict(b), x[..., self.given :])

    def follow(self, layer: int, s: Tensor, convert: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return what stands for b_last where s stands for b_layer, the layers behind it by ``convert``."""
        for k in range(layer + 1, self.depth):
            s = convert(k, self.encode(k, s))
        return s

    def chain(self, x: Tensor, convert: Callable[[int, Tensor], Tensor], first: Tensor | None = None):
        """Pass x through the latents as `DiscreteVAE.chain` does, with its terms.

        All of them are zero, but for log p(lower | b_last) in the place of log p(b_last).
        """
        logits, samples = [], []
        below = x
        for layer in range(self.depth):
            logits.append(first if layer == 0 and first is not None else self.encode(layer, below))
            below = convert(layer, logits[-1])
            samples.append(below)
        log_p = self.log_lower(below, x)
        none = [torch.zeros_like(log_p)] * self.depth
        return logits, samples, none, none, log_p

    def above(self, layer: int, s: Tensor, logits: Tensor, below: Tensor, convert, x: Tensor) -> Tensor:
        """Return -log p(lower | b_last) as a function of s in the place of b_layer."""
        return -self.log_lower(self.follow(layer, s, convert), x)

    def relaxed(self, x: Tensor, convert: Callable[[int, Tensor], Tensor], divergence) -> tuple[Tensor, Tensor]:
        """Compute -log p(lower | s_last), ``(N,)``, and the logits of layer 0; there is no ``divergence``."""
        first = self.encode(0, x)
        return -self.log_lower(self.follow(0, convert(0, first), convert), x), first
