"""`Chain`: layers of latent variables, each with logits that depend on the samples of those below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from relax_exp.estimators.pathwise import Pathwise, Reparameterization
from relax_exp.estimators.unordered import Unordered
from relax_exp.latent import checks, core
from relax_exp.latent.layer import Latent


class ChainResult(NamedTuple):
    """What a call of a `Chain` returns.

    Attributes:
        loss: The losses, in the batch's shape.
        samples: One for each layer, without a gradient, ``([K,] *batch, *event_shape)``.
    """

    loss: Tensor
    samples: tuple[Tensor, ...]


class Chain(nn.Module):
    """Layers of latent variables, bottom first, each a `Latent`.

        z = Chain(Latent("relax", "bernoulli", (32,)), Latent("relax", "bernoulli", (16,)))
        encoders = [enc1, lambda b1, x: enc2(b1)]
        loss, (b1, b2) = z(encoders, f, x)      # f((b1, b2), (logits1, logits2), x)
        loss.mean().backward()

    Gradients, tuning, modes and errors are those of `Latent`. The tuning losses of all layers are summed and
    differentiated together, as a layer's variance depends on the temperatures above it. Layers may have different
    estimators: all take the same number of samples K, and none is pathwise unless all are; "reparameterization" of a
    Gaussian layer goes with everything. "unordered" takes one layer only. ValueError otherwise.

    score_term=False hands f the logits without their gradient at the samples, so that d log q / d logits, which has
    mean zero, adds no variance: right wherever f contains the logits in a sum of log q alone, as a one-sample -ELBO
    does, and wrong for an analytic KL. A bound such as VIMCO's weighs log q, so there it always keeps its gradient.
    """

    def __init__(self, *layers: Latent, score_term: bool = True):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.score_term = score_term
        check_compatible(layers)

    def _latents(self) -> list[Latent]:
        return [layer for layer in self.layers if isinstance(layer, Latent)]

    def noise(self, n: int, generator: torch.Generator | None = None, like: Tensor | None = None) -> list[core.Noise]:
        """Draw the uniform noise of one call with n rows, by layer, for ``noise=``."""
        layers = self._latents()
        samples = max(layer.samples for layer in layers)
        noise = []
        for layer in layers:
            extra = samples if layer.samples == 1 else 1  # a reparameterised layer among those of K chains
            drawn = layer.noise(n * extra, generator, like)
            noise.append({k: v.reshape(extra, n, *v.shape[1:]) if extra > 1 else v for k, v in drawn.items()})
        return noise

    def forward(
        self,
        encoders: Sequence[Callable[..., Tensor | Distribution]],
        f: Callable[..., Tensor],
        *rows: Tensor,
        contexts: Sequence[Callable[..., Tensor] | None] | None = None,
        generator: torch.Generator | None = None,
        noise: Sequence[core.Noise] | None = None,
    ) -> ChainResult:
        """Draw a sample of every layer, evaluate f, and return losses that carry all gradients.

        Args:
            encoders: One for each layer, called as ``encoder(*samples below, *rows)``. It returns that layer's logits
                (or a ``torch.distributions`` object) one row a row. The first is called once, on the row tensors as
                they are, and its logits' batch is that of the chain.
            f: Called as ``f(samples, logits, *rows)`` with tuples in the order of the layers, everything ``(R, ...)``,
                it returns losses ``(R,)``.
            rows: Row tensors, ``(*batch, ...)``, which encoders, contexts and f get.
            contexts: None, or one for each layer, called as the encoders and without a gradient, None where a layer has
                no context.
            generator: Draws the noise.
            noise: From `noise`, instead of drawing it.
        """
        layers = self._latents()
        checks.as_many(encoders, layers, "encoders")
        contexts = [None] * len(layers) if contexts is None else contexts
        checks.as_many(contexts, layers, "contexts")
        first, batch, n = layers[0]._flat(encoders[0](*rows))
        flat = checks.rows_of(rows, batch, "first encoder's logits")

        def parameters(i: int, below: list[Tensor], rows: list[Tensor]) -> Tensor:
            if i == 0:
                return first
            made, got, _ = layers[i]._flat(encoders[i](*shaped(below), *rows))
            checks.one_a_row(got, below[0].shape[0], f"encoder {i}")
            return made

        def shaped(points: list[Tensor]) -> list[Tensor]:
            return [b.reshape(b.shape[0], *layer.event_shape) for b, layer in zip(points, layers, strict=False)]

        def loss(samples: list[Tensor], logits: list[Tensor], rows: list[Tensor]) -> Tensor:
            shown = (x.reshape(x.shape[0], *layer.parameter_shape) for x, layer in zip(logits, layers, strict=True))
            return checks.losses_of(f(tuple(shaped(samples)), tuple(shown), *rows), samples[0], "f")

        def context(make: Callable[..., Tensor]) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
            return lambda below, rows: make(*shaped(below), *rows)

        for layer, make in zip(layers, contexts, strict=True):
            checks.has_context(layer.estimator, make, layer.name)
        program = core.Program(
            [lambda below, rows, i=i: parameters(i, below, rows) for i in range(len(layers))],
            loss,
            [None if make is None else context(make) for make in contexts],
            flat,
            n,
            self.score_term,
        )
        noise = self.noise(n, generator, first) if noise is None else noise
        with checks.explained(", ".join(layer.name for layer in layers)):
            made = core.step([layer.estimator for layer in layers], program, noise, self.training)
        if self.training:
            for layer, buffers in zip(layers, made.buffers, strict=True):
                checks.write_buffers(layer.estimator, buffers, layer.name)
        samples = (layer._unflat(b, batch) for layer, b in zip(layers, made.samples, strict=True))
        return ChainResult(made.losses.reshape(batch), tuple(samples))


def check_compatible(layers: Sequence[Latent]) -> None:
    """Check that the estimators of the layers go together.

    Raises:
        ValueError: They do not.
        TypeError: There are none, or something else is among them.
    """
    if not layers or not all(isinstance(layer, Latent) for layer in layers):
        raise TypeError("Chain takes one Latent for each layer: Chain(Latent(...), Latent(...))")
    others = [layer for layer in layers if not isinstance(layer.estimator, Reparameterization)]
    if len({layer.samples for layer in others}) > 1:
        each = ", ".join(f"{layer.name} {layer.samples}" for layer in others)
        raise ValueError(
            f"the layers of a Chain take the same number of samples, as whole chains are drawn; got {each}"
        )
    if len({isinstance(layer.estimator, Pathwise) for layer in others}) > 1:
        raise ValueError(
            "a Chain has pathwise layers only, or none (but reparameterization, of a Gaussian layer); got "
            + ", ".join(layer.name for layer in layers)
        )
    if len({layer.estimator.target for layer in others}) > 1:
        bounds = ", ".join(dict.fromkeys(layer.name for layer in others if layer.estimator.target == "bound"))
        raise ValueError(
            f"{bounds} trains a bound, the others a mean: take estimators of a bound for all layers, or for none"
        )
    if len({layer.estimator.bound_samples for layer in others}) > 1:
        each = ", ".join(f"{layer.name} {layer.estimator.bound_samples}" for layer in others)
        raise ValueError(f"the layers of a Chain train one bound, of as many samples each; got {each}")
    if len(layers) > 1 and any(layer.estimator.shared for layer in layers):
        raise ValueError("each layer of a Chain has a temperature and baseline of its own: leave out shared=True")
    if len(layers) > 1 and any(isinstance(layer.estimator, Unordered) for layer in layers):
        raise ValueError("unordered takes one layer: the states of a row must share their logits; rloo takes several")
