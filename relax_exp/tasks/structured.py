"""Structured prediction: the lower half of a digit from the upper half, ``task=structured``.

The benchmark of MuProp (Gu et al. 2016), Gumbel-Softmax (Jang et al. 2017) and ARM (Yin & Zhou 2019): a stochastic
network 392-200-200-392 with two layers of Bernoulli latents, or of 20 variables with 10 categories, and linear maps. It
is trained on one sample, f(b) = -log p(lower | b), and judged by log (1/m) sum_i p(lower | b^i), m = 1000 (Gu et al.:
100), with latents drawn given the upper half. Both bound log p(lower | upper) from below, the second more closely.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from relax_exp.data import ImageData
from relax_exp.models.structured import HalfPredictor
from relax_exp.models.vae import Layer
from relax_exp.numerics.optimizers import BETAS
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.registry import StructuredOptions
from relax_exp.tasks.vae import NAMES, LatentModel


class Structured(LatentModel):
    """Lower halves of images given their upper halves, with the metrics of `LatentModel`.

    Its "ELBO" is E[log p(lower | b)], the bound with one sample; on test images the other bound has ``test_samples``
    samples, ``test/bound1000`` for instance. Nats per image (half an image is predicted), higher is better; the papers
    print them with the other sign. The gradient whose variance is measured is that of the maps to the latents.
    """

    name = "structured"
    betas = BETAS
    options: StructuredOptions

    def __init__(self, estimator: dict[str, Any], options: StructuredOptions, data: ImageData, **given: Any):
        self.optimizer, self.test_samples = options.optimizer, options.test_samples
        super().__init__(estimator, options, data, **given)

    def network(self):
        variables, categories = self.options.variables, self.options.categories
        layer = (
            Layer("bernoulli", (variables,)) if categories is None else Layer("categorical", (variables, categories))
        )
        return HalfPredictor([layer] * self.options.layers, self.mean, self.options.centred)

    def images(self, models, replica, seed):
        """Return eight of the images of evaluations above two draws of their lower halves."""
        params = tree_map(lambda leaf: leaf[replica], models.params)
        generator = stream(seed, "evaluation/images")
        x, given = self.pixels(self.valid[:8], None), self.hierarchy.vae.given
        rows = [x]
        for _ in range(2):
            uniforms = [self._uniform(generator, len(x), *layer.shape) for layer in self.hierarchy.vae.layers]
            _, (_, samples, *_) = self.hierarchy.bound_terms(params, x, self._sample(uniforms))
            lower = torch.sigmoid(self.hierarchy.call(params, "predict", samples[-1]))
            rows.append(torch.cat([x[:, :given], lower], -1))
        shown = torch.cat(rows).reshape(-1, 1, *self.image_shape).cpu()
        return {f"{NAMES[self.part]} images above two predictions of their lower halves": shown}
