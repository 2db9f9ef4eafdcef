"""The categorical VAE: one or two layers of 20 variables with 10 categories (Yin, Yue & Zhou 2019).

The binary VAE's objective and estimators with categorical layers between the maps of ARSM's public code: pixels as they
are through 784-512-256 LeakyReLU(.2) and its mirror, a uniform prior that stays, Adam, batches of 200 images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from relax_exp.data import GREY, ImageData
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.numerics.optimizers import BETAS, warmup_cosine
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.registry import CategoricalVAEOptions, SequenceOptions
from relax_exp.tasks.vae import BOUND_IMAGES, LatentModel

PER_EPOCH = "updates_per_epoch"


def joined(data: ImageData) -> ImageData:
    """Return the data set with training and validation images in one, and the test images in both other places."""
    train, (more, own) = torch.cat([data.train, data.valid]), (len(data.valid), len(data.train))
    scale = 255 if data.binarize in GREY else 1
    mean = (data.mean * own + data.valid.double().sum(0) / scale) / (own + more)
    return data._replace(train=train, valid=data.test, mean=mean)


class CategoricalVAE(LatentModel):
    """The categorical VAE, ``task=categorical_vae``, with the metrics of `LatentModel`.

    ``relaxed`` is the objective that pathwise estimators train (see `Hierarchy.relaxed`), logged as
    ``train/relaxed_*``; ``train/elbo`` is always that of the discrete model at hard samples. With ``concrete`` the
    relaxed objectives are also evaluated on the first 1,000 validation images: ``valid/relaxed_kl``,
    ``valid/relaxed_density``. With ``train_images="all"`` the validation images are trained on, and evaluations are of
    the test images: ``test/elbo_full`` each time, at least with one sample for each image, and the others, which then
    begin with ``test/`` too. No parameters are selected.
    """

    name = "categorical_vae"
    betas = BETAS
    warmup_epochs: int = 0
    cosine_epochs: int | None = None

    options: CategoricalVAEOptions

    def __init__(
        self, estimator: dict[str, Any], options: CategoricalVAEOptions | SequenceOptions, data: ImageData, **given: Any
    ):
        self.relaxed = options.relaxed
        if isinstance(options, CategoricalVAEOptions):
            self.initial_weights, self.optimizer = options.initial_weights, options.optimizer
            self.warmup_epochs, self.cosine_epochs = options.warmup_epochs, options.cosine_epochs
            if options.train_images == "all":
                data, self.part, self.has_test = joined(data), "test", False
        super().__init__(estimator, options, data, **given)

    def of_data(self):
        """Return what `LatentModel.of_data` does, and the updates of an epoch."""
        return super().of_data() | {PER_EPOCH: torch.tensor(len(self.data) // self.batch_size, device=self.device)}

    def gradients(self, model, batch, noise, fixed=None):
        return super().gradients(model, {k: v for k, v in batch.items() if k != PER_EPOCH}, noise, fixed)

    def rate(self, lr, t, batch):
        """Return the learning rate of the step's epoch, see `warmup_cosine`."""
        if not self.warmup_epochs and self.cosine_epochs is None:
            return lr
        epoch = t // batch.get(PER_EPOCH, len(self.data) // self.batch_size)
        return warmup_cosine(lr, epoch, self.warmup_epochs, self.cosine_epochs)

    def network(self):
        keys = ("hidden", "activation", "centred", "learned_prior", "pinned")
        layers = [Layer("categorical", (self.options.variables, self.options.categories))] * self.options.layers
        return DiscreteVAE(layers, self.mean, **{key: getattr(self.options, key) for key in keys})

    def evaluate(self, models, seeds, step, final):
        """Return what `LatentModel.evaluate` does, and the relaxed objectives where there is a relaxation."""
        results = super().evaluate(models, seeds, step, final)
        if self.part == "test":
            for i, seed in enumerate(seeds):
                if "test/elbo_full" not in results[i]:
                    results[i]["test/elbo_full"] = self._one_sample_bound(models, i, seed, step)
        first = self.hierarchy.estimators[0]
        if first.target != "path":
            return results
        kinds = ("kl", "density") if first.density else ("kl",)
        for i, seed in enumerate(seeds):
            model = tree_map(lambda leaf, i=i: leaf[i], models)
            for kind in kinds:
                results[i][f"{self.part}/relaxed_{kind}"] = self._relaxed_bound(model, kind, seed, step)
        return results

    def _one_sample_bound(self, models, replica: int, seed: int, step: int) -> float:
        """Return the mean over all images of evaluations of the bound with one sample for each."""
        params = tree_map(lambda leaf: leaf[replica], models.params)
        generator, total = stream(seed, "evaluation/one_sample", step), 0.0
        for rows in self.valid.split(BOUND_IMAGES):
            x = self.pixels(rows, self._uniform(generator, *rows.shape) if self.dynamic else None)
            uniforms = [self._uniform(generator, len(rows), *layer.shape) for layer in self.hierarchy.vae.layers]
            total -= float(self.hierarchy.bound_terms(params, x, self._sample(uniforms))[0].double().sum())
        return total / len(self.valid)

    def _relaxed_bound(self, model, kind: str, seed: int, step: int) -> float:
        """Return minus the relaxed objective, with one sample for each of the first validation images."""
        rows = self.valid[:BOUND_IMAGES]
        generator = stream(seed, "evaluation/relaxed", step)
        x = self.pixels(rows, self._uniform(generator, *rows.shape) if self.dynamic else None)
        noise = [
            {k: self._uniform(generator, *shape) for k, shape in estimator.noise_shapes(len(x)).items()}
            for estimator in self.hierarchy.estimators
        ]
        return float(-self.hierarchy.relaxed(model.params, model.tuning, model.buffers, x, noise, kind)[0].mean())
