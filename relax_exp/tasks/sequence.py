"""A model of text with categorical latents over time: ``task=sequence``."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F

from relax_exp.data import ImageData, text_corpus
from relax_exp.models.sequence import SequenceModel
from relax_exp.models.vae import Layer
from relax_exp.tasks.categorical_vae import CategoricalVAE
from relax_exp.tasks.registry import SequenceOptions

STRIDES = 4  # training windows begin at every quarter of a window


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
        train, held = text_corpus.split(text_corpus.read_corpus())
        self.given = max(options.order, text_corpus.GIVEN)
        rows = text_corpus.windows(train, self.given, self.length, max(1, self.length // STRIDES))
        valid = text_corpus.windows(held, self.given, self.length, self.length)
        self.counted = text_corpus.count_bits(train, valid, self.given)
        mean = F.one_hot(rows.long(), len(text_corpus.ALPHABET)).double().mean(0).flatten()
        data = ImageData("founding", rows, valid, valid, mean, (1, rows.shape[1]), "static")
        super().__init__(estimator, options, data, **given)
        self.measured_on = {key: said.replace("images", "windows") for key, said in self.measured_on.items()}
        self.measured_on |= {f"valid/{name}": self.measured_on["valid/elbo"] for name in ("bpc", "bpc100")}

    def network(self):
        options = self.options
        layer = Layer("categorical", (options.variables, options.categories))
        letters = len(text_corpus.ALPHABET)
        return SequenceModel(layer, self.mean, letters, self.given, options.segment, options.order, options.hidden)

    def pixels(self, rows, uniform):
        """Return indices as flat one-hot characters."""
        return F.one_hot(rows.long(), len(text_corpus.ALPHABET)).to(self.dtype).flatten(-2)

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
