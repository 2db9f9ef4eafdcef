"""The categorical VAE: one or two layers of 20 variables with 10 categories (003, and both papers reviewed in 001).

The binary VAE's objective and estimators with categorical layers between the maps of ARSM's public code: pixels as they
are through 784-512-256 LeakyReLU(.2) and its mirror, a uniform prior that stays, Adam, batches of 200 images.
"""

from __future__ import annotations

from torch.utils._pytree import tree_map

from relax_exp.estimators.pathwise import Concrete, Pathwise
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.numerics.optimizers import BETAS
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.vae import BOUND_IMAGES, VAE


class CategoricalVAE(VAE):
    """The categorical VAE, ``task=categorical_vae``, with metrics as for `VAE`.

    ``relaxed`` is the objective that pathwise estimators train (see `Hierarchy.relaxed`), logged as
    ``train/relaxed_*``; ``train/elbo`` is always that of the discrete model at hard samples. With ``concrete`` the
    relaxed objectives are also evaluated on the first 1,000 validation images: ``valid/relaxed_kl``,
    ``valid/relaxed_density``.
    """

    name = "categorical_vae"
    betas = BETAS

    def __init__(
        self,
        *args,
        layers: int = 1,
        variables: int = 20,
        categories: int = 10,
        hidden: list[int] | tuple[int, ...] = (512, 256),
        activation: str = "leaky_relu",
        centred: bool = False,
        learned_prior: bool = False,
        pinned: bool = False,
        relaxed: str = "elbo",
        **kwargs,
    ):
        self.layers = [Layer("categorical", (variables, categories))] * layers
        self.architecture = {
            "hidden": tuple(hidden),
            "activation": activation,
            "centred": centred,
            "learned_prior": learned_prior,
            "pinned": pinned,
        }
        self.relaxed = relaxed
        super().__init__(*args, **kwargs)

    def network(self):
        return DiscreteVAE(self.layers, self.mean, **self.architecture)

    def evaluate(self, models, seeds, step, final):
        """Return what `VAE.evaluate` does, and the relaxed objectives where there is a relaxation."""
        results = super().evaluate(models, seeds, step, final)
        first = self.hierarchy.estimators[0]
        if not isinstance(first, Pathwise):
            return results
        kinds = ("kl", "density") if isinstance(first, Concrete) else ("kl",)
        for i, seed in enumerate(seeds):
            model = tree_map(lambda leaf, i=i: leaf[i], models)
            for kind in kinds:
                results[i][f"valid/relaxed_{kind}"] = self._relaxed_bound(model, kind, seed, step)
        return results

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
