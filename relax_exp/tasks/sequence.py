"""Text with categorical latents over time: ``task=sequence``, what the review of the relaxations (001) asks for.

The corpus, bundled as ``data/founding.txt``, is in the public domain: the Declaration of Independence of the United
States, most of their Constitution of 1787 and the Bill of Rights; 25 kB, used in lower case.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relax_exp.data import ImageData
from relax_exp.errors import SettingError
from relax_exp.models.mlp import Linear
from relax_exp.models.vae import DiscreteVAE, Layer, network
from relax_exp.tasks.categorical_vae import CategoricalVAE
from relax_exp.tasks.registry import SequenceOptions

ALPHABET = " abcdefghijklmnopqrstuvwxyz,.;"
BLOCK, HELD_OUT = 512, 8  # every eighth block of so many characters is held out
GIVEN = 2  # characters before a window that it starts from, at least: what the counts need
STRIDES = 4  # training windows begin at every quarter of a window


def read_corpus() -> list[str]:
    """Read the blocks of the normalised text: lower case, other characters left out, runs of blanks as one."""
    text = resources.files("relax_exp.data").joinpath("founding.txt").read_text(encoding="utf-8").lower()
    text = " ".join("".join(c if c in ALPHABET else " " if c.isspace() or c == "-" else "" for c in text).split())
    return [text[start : start + BLOCK] for start in range(0, len(text), BLOCK)]


def split(blocks: list[str]) -> tuple[list[str], list[str]]:
    """Return the training and the held-out blocks."""
    held = [block for i, block in enumerate(blocks) if i % HELD_OUT == HELD_OUT - 1]
    return [block for i, block in enumerate(blocks) if i % HELD_OUT != HELD_OUT - 1], held


def windows(blocks: list[str], given: int, length: int, stride: int) -> Tensor:
    """Return rows of characters as uint8 indices, ``(N, given + length)``.

    Of each, ``given`` characters are to start from and ``length`` to model.

    Raises:
        SettingError: No block is so long.
    """
    if given + length > BLOCK:
        raise SettingError(
            f"windows of {given + length} characters, {given} to start from and {length} to model, are longer than the "
            f"text's blocks of {BLOCK}: lower task.variables, task.segment or task.order"
        )
    indices = [torch.tensor([ALPHABET.index(c) for c in block], dtype=torch.uint8) for block in blocks]
    return torch.cat([block.unfold(0, given + length, stride) for block in indices if len(block) >= given + length])


def count_bits(train: list[str], rows: Tensor, given: int) -> float:
    """Compute the bits per character of an order-2 count model on ``rows``.

    Witten-Bell interpolates it down to uniform: p(c | ab) = (n(abc) + t(ab) p(c | b)) / (n(ab) + t(ab)), t the number
    of different characters seen after ab.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for block in train:
        for i in range(len(block)):
            for order in range(min(i, 2) + 1):
                counts[block[i - order : i]][block[i]] += 1

    def probability(context: str, c: str) -> float:
        seen, lower = counts[context], probability(context[1:], c) if context else 1 / len(ALPHABET)
        return (seen[c] + len(seen) * lower) / (seen.total() + len(seen)) if seen else lower

    texts = ["".join(ALPHABET[i] for i in row) for row in rows.tolist()]
    bits = [-math.log2(probability(text[i - 2 : i], text[i])) for text in texts for i in range(given, len(text))]
    return sum(bits) / len(bits)


class SequenceModel(DiscreteVAE):
    """A model of text with one latent for each ``segment`` characters, which says something else at each place in it.

        p(z_1) prod_k p(z_k | z_{k-1}) prod_t p(x_t | the ``order`` characters before it, its segment's z)

    is the model and q(z_k | x) its approximate posterior. x is rows of one-hot characters, flat. q sees the segment and
    its two neighbours. Without latents (one category) it is the autoregressive model alone, and the bound its
    likelihood.
    """

    def __init__(self, layer: Layer, mean: Tensor, segment: int, order: int, hidden: int):
        super().__init__([layer], torch.zeros(1))  # maps of its own take the place of the images'
        categories = layer.shape[1]
        self.segment, self.order, letters = segment, order, len(ALPHABET)
        self.given = max(order, GIVEN)
        self.encoder = network(3 * segment * letters, categories, (hidden,), "tanh")
        self.decoder = nn.ModuleDict({"latent": Linear(categories, segment * hidden), "out": Linear(hidden, letters)})
        if order:
            self.decoder["past"] = Linear(order * letters, hidden, bias=False)
        self.prior = nn.Parameter(torch.zeros(categories))
        self.transition = Linear(categories, categories, bias=False)
        self.register_buffer("mean", mean.clone())

    def text(self, x: Tensor) -> Tensor:
        """Return x as ``(..., N, given + T, letters)``."""
        return x.unflatten(-1, (-1, len(ALPHABET)))

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


class Sequence(CategoricalVAE):
    """Text with categorical latents over time, ``task=sequence``, with the metrics of `CategoricalVAE` per window.

    It has them in bits per character too, where lower is better: ``train/bpc`` and ``valid/bpc`` of the discrete bound
    with one sample, ``valid/bpc100`` with a hundred; ``valid/bpc_counts`` of an order-2 count model on the same
    characters.
    """

    name = "sequence"
    has_test = False  # the text has two parts only

    options: SequenceOptions

    def __init__(self, estimator: dict[str, Any], options: SequenceOptions, **given: Any):
        self.length = options.variables * options.segment
        train, held = split(read_corpus())
        start = max(options.order, GIVEN)
        rows = windows(train, start, self.length, max(1, self.length // STRIDES))
        valid = windows(held, start, self.length, self.length)
        self.counted = count_bits(train, valid, start)
        mean = F.one_hot(rows.long(), len(ALPHABET)).double().mean(0).flatten()
        data = ImageData("founding", rows, valid, valid, mean, (1, rows.shape[1]), "static")
        super().__init__(estimator, options, data, **given)
        self.measured_on = {key: said.replace("images", "windows") for key, said in self.measured_on.items()}
        self.measured_on |= {f"valid/{name}": self.measured_on["valid/elbo"] for name in ("bpc", "bpc100")}

    def network(self):
        options = self.options
        layer = Layer("categorical", (options.variables, options.categories))
        return SequenceModel(layer, self.mean, options.segment, options.order, options.hidden)

    def pixels(self, rows, uniform):
        """Return indices as flat one-hot characters."""
        return F.one_hot(rows.long(), len(ALPHABET)).to(self.dtype).flatten(-2)

    def bits(self, nats):
        """Return bits per character of a bound in nats per window."""
        return -nats / (self.length * math.log(2))

    def gradients(self, model, batch, noise, fixed=None):
        out = super().gradients(model, batch, noise, fixed)
        return out._replace(metrics=out.metrics | {"train/bpc": self.bits(out.metrics["train/elbo"])})

    def evaluate(self, models, seeds, step, final):
        """Return what `CategoricalVAE.evaluate` does, also in bits per character, beside the counts."""
        rows = super().evaluate(models, seeds, step, final)
        for row in rows:
            row |= {"valid/bpc": self.bits(row["valid/elbo"]), "valid/bpc100": self.bits(row["valid/bound100"])}
            row["valid/bpc_counts"] = self.counted
        return rows

    def images(self, models, replica, seed):
        """Return nothing, since the data are text."""
        return {}
