"""The binary VAE: one or two layers of Bernoulli latents between linear or nonlinear maps (RELAX draft, section 6.2).

The objective is f = -ELBO = log q(b | x) - log p(x, b), with one estimator for each layer of latents. Protocol of the
original code: centred input x - mean, layer inputs 2b - 1, Glorot weights, pixel logits with a constant from the
clipped training mean, learned prior logits, Adam with betas .9 and .99999, batches of 24, images in file order in the
first epoch and shuffled from then on. The hidden layers of the nonlinear model's decoder are as wide as the image has
pixels: the original code passes one number as output size and as width of the hidden layers (the text says 200).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp import estimators
from relax_exp.data import GREY, ImageData
from relax_exp.models.mlp import he_, uniform_
from relax_exp.models.vae import MODELS, DiscreteVAE, Layer
from relax_exp.numerics import cpu_programs
from relax_exp.numerics.moments import Moments
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import Model, Task, draw, summarize_variance
from relax_exp.tasks.layered_gradients import Hierarchy, by_layer, context_shapes
from relax_exp.tasks.moving_variance import MovingVariance
from relax_exp.tasks.registry import CategoricalVAEOptions, SequenceOptions, StructuredOptions, VAEOptions
from relax_exp.tasks.stacked_evaluation import Stacked

BOUND_SAMPLES = 100
BOUND_IMAGES = 1000  # of the validation set, at each evaluation
BLOCK = 10  # images in one pass of the bound, and in one draw of its noise
NAMES = {"valid": "validation", "test": "test"}  # of the parts of a data set
DRAWS_AT_ONCE = 10  # of the gradient's variance, at most
EVALUATIONS_AT_ONCE = 50_000  # of f, in these draws
INITIAL_WEIGHTS = {"he": he_, "torch": uniform_}  # drawn in the place of Glorot's


def parts(part: str, images: int) -> dict[str, str]:
    """Say of the metrics on so many validation or test images which of them they are measured on."""
    first = f"first {BOUND_IMAGES:,} images" if images > BOUND_IMAGES else f"all {images:,} images"
    each = {f"{part}/{name}": first for name in ("elbo", "bound100", "relaxed_kl", "relaxed_density")}
    return each | {f"{part}/{name}_full": f"all {images:,} images" for name in ("elbo", "bound100")}


class LatentModel(Task):
    """A model with layers of discrete latents and an estimator for each: what `network` builds, on `ImageData`.

    Metrics: ``train/elbo``, mean one-sample bound of the discrete model over the steps since the last evaluation;
    ``valid/elbo`` and ``valid/bound100`` on the first 1,000 validation images, with ``_full`` on all of them; at the
    end ``test/elbo`` and ``test/bound100`` (with ``test_samples`` for 100) on all test images, and the same with
    ``_best`` for the parameters kept from the evaluation at ``best_step``, which had the highest ``valid/elbo_full`` of
    those that measured it (without ``bound_every``: the highest ``valid/elbo``); the gradient's log-variance over
    encoder parameters, direct part included; ``train/moving_variance`` (see `MovingVariance`) where asked for; the
    scalars of the estimators. Bounds are in nats per image, higher is better.
    """

    relaxed: str = "elbo"  # what pathwise estimators train, see `Hierarchy.relaxed`
    test_samples: int = BOUND_SAMPLES  # of the bound on test images
    initial_weights: str = "glorot"
    moving: MovingVariance | None = None
    part: str = "valid"  # of the images, what evaluations are on
    has_test: bool = True  # besides
    data_noise = ("binarize",)
    data: Tensor
    options: VAEOptions | CategoricalVAEOptions | SequenceOptions | StructuredOptions

    def __init__(self, estimator: dict[str, Any], options: Any, data: ImageData, **given: Any):
        super().__init__(estimator, options, **given)
        if self.has_test:
            self.selection = "valid/elbo_full" if options.bound_every else "valid/elbo"
        self.dynamic, self.grey = data.binarize == "dynamic", data.binarize in GREY
        self.image_shape = data.image_shape
        self.data, self.valid, self.tested = (x.to(self.device) for x in (data.train, data.valid, data.test))
        self.measured_on = parts(self.part, len(self.valid))
        self.mean = data.mean.to(self.dtype)  # the networks take it to the device
        self.hierarchy = self._build(stream(0, "template"))
        self.measured = Hierarchy(self.hierarchy.vae.for_values(), self.hierarchy.estimators)
        self.evaluations = self.hierarchy.evaluations
        self._compiled = self._sums
        self.stacked = Stacked(self, BLOCK) if self.device.type != "cpu" else None

    def _build(self, generator: torch.Generator) -> Hierarchy:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            vae = self.network()
        options = self.estimator_options
        granular, sized = (options.get(k) == v for k, v in (("granularity", "parameter"), ("baseline", "input")))
        known = {"inputs": len(self.mean)} if sized else {}
        extras: list[dict[str, Any]] = [
            known | ({"tensors": len(list(part.parameters()))} if granular else {}) for part in vae.encoder
        ]
        built = [
            estimators.build(
                self.estimator_name, layer.family, layer.shape, context, generator=generator, **options, **extra
            )
            for layer, context, extra in zip(vae.layers, context_shapes(vae), extras, strict=False)
        ]
        if self.initial_weights in INITIAL_WEIGHTS:
            INITIAL_WEIGHTS[self.initial_weights](vae, generator)
        vae, built = vae.to(self.device, self.dtype), [it.to(self.device, self.dtype) for it in built]
        # Where the objective has no log q there is no such term.
        return Hierarchy(vae, built, self.relaxed, getattr(self.options, "score_term", "dropped"))

    def network(self) -> DiscreteVAE:
        """Build the model, with weights from the global generator."""
        raise NotImplementedError

    def init(self, generator):
        built = self._build(generator)
        return Model(
            {k: v.detach() for k, v in built.vae.named_parameters()},
            [{k: v.detach() for k, v in estimator.named_parameters()} for estimator in built.estimators],
            [dict(estimator.named_buffers()) for estimator in built.estimators] + self._moments(built.vae),
        )

    def _moments(self, vae: DiscreteVAE) -> list[dict]:
        """Return the initial moving averages of the gradient as a list of one; empty where none are kept."""
        return [self.moving.start(dict(vae.named_parameters()))] if self.moving else []

    def noise_shapes(self):
        """Return the shapes of the noise of layer l under ``l.name``.

        There is ``binarize`` too, where the pixels are drawn anew at each step.
        """
        shapes = self.hierarchy.noise_shapes(self.batch_size)
        return shapes | {"binarize": (self.batch_size, len(self.mean))} if self.dynamic else shapes

    def pixels(self, rows: Tensor, uniform: Tensor | None) -> Tensor:
        """Return rows of ``data`` as pixels in [0, 1]; ``uniform`` binarises grey values."""
        if self.dynamic and uniform is not None:
            return (uniform < rows / 255).to(self.dtype)
        return rows.to(self.dtype) / 255 if self.grey else rows.to(self.dtype)

    def of_data(self):
        """Return the constants of the networks that come from the mean of the training images."""
        return self.hierarchy.vae.of_data()

    def gradients(self, model, batch, noise, fixed=None):
        """Draw all gradients of one replica once, with parameters of the model in ``fixed`` held constant."""
        batch = dict(batch)
        x = self.pixels(batch.pop("x"), noise.get("binarize"))
        noise = by_layer(noise, self.hierarchy.vae.depth)
        if self.moving is None:
            return self.hierarchy.gradients(model, x, noise, fixed, batch)
        *buffers, moments = model.buffers
        out = self.hierarchy.gradients(model._replace(buffers=buffers), x, noise, fixed, batch)
        if fixed is None:
            moments, variance = self.moving(moments, out.params)
            out = out._replace(metrics=out.metrics | {"train/moving_variance": variance})
        return out._replace(buffers=[*out.buffers, moments])

    def _sample(self, uniforms: list[Tensor]):
        return lambda i, logits: self.measured.families[i].sample(logits, uniforms[i])

    def evaluate(self, models, seeds, step, final):
        """Return bounds on validation images and the gradient's variance."""
        every = self.options.bound_every
        full = final or bool(every and step % every == 0)
        some = self._each(models.params, self.valid[:BOUND_IMAGES], seeds, "evaluation/bound", step)
        results = [{f"{self.part}/{k}": v for k, v in row.items()} for row in some]
        if full:
            everything = self._each(models.params, self.valid, seeds, "evaluation/bound_full", step)
            results = [
                row | {f"{self.part}/{k}_full": v for k, v in other.items()}
                for row, other in zip(results, everything, strict=True)
            ]
        return [row | other for row, other in zip(results, self.variance(models, seeds, step), strict=True)]

    def test(self, params, best, seeds):
        """Return bounds on the test images, of the last parameters and of the best."""
        last = self._each(params, self.tested, seeds, "evaluation/test", samples=self.test_samples)
        pairs = list(zip(tree_leaves(params), tree_leaves(best), strict=True))
        other = [i for i in range(len(seeds)) if not all(torch.equal(now[i], then[i]) for now, then in pairs)]
        kept = dict(enumerate(last))
        if other:
            chosen = tree_map(lambda leaf: leaf[other], best)
            chosen_seeds = [seeds[i] for i in other]
            measured = self._each(chosen, self.tested, chosen_seeds, "evaluation/test", samples=self.test_samples)
            kept |= dict(zip(other, measured, strict=True))
        return [
            {f"test/{k}": v for k, v in row.items()} | {f"test/{k}_best": v for k, v in kept[i].items()}
            for i, row in enumerate(last)
        ]

    def variance(self, models, seeds, step):
        """Return the log-variance of the gradient of the encoder's parameters."""
        if self.stacked:
            return self.stacked.variances(models, seeds, step, self._draws_at_once)
        return [self._variance(tree_map(lambda leaf, i=i: leaf[i], models), seed, step) for i, seed in enumerate(seeds)]

    def compile(self):
        """Compile the bound."""
        if self.stacked:
            self.stacked.compile()
        else:
            self._compiled = cpu_programs.compile(self._sums)

    def _each(
        self, params, images: Tensor, seeds: list[int], *purpose, samples: int = BOUND_SAMPLES
    ) -> list[dict[str, float]]:
        """Return `_bounds` of every replica, ``params`` stacked; each draws from its seed's stream for the purpose."""
        generators = [stream(seed, *purpose) for seed in seeds]
        if self.stacked:
            return self.stacked.bounds(params, images, generators, samples)
        return [
            self._bounds(tree_map(lambda leaf, i=i: leaf[i], params), images, generator, samples)
            for i, generator in enumerate(generators)
        ]

    def _sums(self, params, x: Tensor, uniforms: list[Tensor]) -> Tensor:
        """Return the sums over images of the mean one-sample bound and of the importance bound, ``(2,)``."""
        log_w = -self.measured.bound_terms(params, x, self._sample(uniforms))[0]
        return torch.stack([log_w.mean(0).sum(), (log_w.logsumexp(0) - math.log(len(log_w))).sum()])

    def _bounds(
        self, params: dict[str, Tensor], images: Tensor, generator: torch.Generator, samples: int
    ) -> dict[str, float]:
        """Return the mean one-sample bound over ``images``, ``elbo``, and that of ``samples``, such as ``bound100``."""
        totals = torch.zeros(2, dtype=torch.float64)
        for rows in images.split(BLOCK):
            x = self.pixels(rows, self._uniform(generator, *rows.shape) if self.dynamic else None)
            layers = self.hierarchy.vae.layers
            uniforms = [self._uniform(generator, samples, len(rows), *layer.shape) for layer in layers]
            whole = (samples, len(rows)) == (BOUND_SAMPLES, BLOCK)
            sums = self._compiled if whole else self._sums  # of one shape only
            totals += sums(params, x, uniforms).double().cpu()
        elbo, bound = (totals / len(images)).tolist()
        return {"elbo": elbo, f"bound{samples}": bound}

    def _uniform(self, generator: torch.Generator, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=self.dtype).to(self.device)

    @property
    def _draws_at_once(self) -> int:
        return max(1, min(DRAWS_AT_ONCE, EVALUATIONS_AT_ONCE // (self.batch_size * self.evaluations)))

    def _still(self, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows of the minibatch on which variances are measured, and the noise that binarises them."""
        of_batch, shapes = stream(seed, "variance/batch"), self.noise_shapes()
        start = int(torch.randint(len(self.data) - self.batch_size + 1, (), generator=of_batch))
        still = {"binarize": self._uniform(of_batch, *shapes["binarize"])} if self.dynamic else {}
        return self.data[start : start + self.batch_size], still

    def encoder_gradient(self, model: Model, rows: Tensor, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return one draw of the gradient of the encoder's parameters, the others held constant."""
        encoder = {k: v for k, v in model.params.items() if k.startswith("encoder.")}
        others = {k: v for k, v in model.params.items() if k not in encoder}
        return self.gradients(model._replace(params=encoder), {"x": rows}, noise, fixed=others).params

    def _variance(self, model: Model, seed: int, step: int) -> dict[str, float]:
        """Measure the encoder's gradient at fixed parameters, on a minibatch that stays the same for the whole run."""
        rows, still = self._still(seed)
        shapes = {k: shape for k, shape in self.noise_shapes().items() if k not in still}
        generator = stream(seed, "evaluation/variance", step)

        def one(noise):
            return self.encoder_gradient(model, rows, noise | still)

        moments, n, at_once = Moments(), self.options.variance_draws, self._draws_at_once
        for start in range(0, n, at_once):
            noise = draw(shapes, min(at_once, n - start), generator, self.dtype)
            noise = {k: v.to(self.device) for k, v in noise.items()}
            moments.add(torch.cat([g.flatten(1) for g in vmap(one)(noise).values()], 1))
        return {k: float(v) for k, v in summarize_variance(moments.variance).items()}

    def images(self, models, replica, seed):
        """Return eight of the images of evaluations above their reconstructions, and sixteen draws from the prior."""
        params = tree_map(lambda leaf: leaf[replica], models.params)
        generator = stream(seed, "evaluation/images")
        x = self.pixels(self.valid[:8], None)
        uniforms = [self._uniform(generator, 16, *layer.shape) for layer in self.hierarchy.vae.layers]
        _, (_, samples, *_) = self.hierarchy.bound_terms(params, x, self._sample([u[:8] for u in uniforms]))
        reconstruction = torch.sigmoid(self.hierarchy.call(params, "decode", 0, samples[0]))
        prior = self.hierarchy.call(params, "generate", uniforms)
        shape, rows = (-1, 1, *self.image_shape), torch.cat([x, reconstruction])
        return {
            f"{NAMES[self.part]} images above their reconstructions": rows.reshape(shape).cpu(),
            "draws from the prior": prior.reshape(shape).cpu(),
        }


class VAE(LatentModel):
    """The binary VAE, ``task=vae``, on images of `relax_exp.data.load`."""

    name = "vae"
    betas = (0.9, 0.99999)
    options: VAEOptions

    def __init__(self, estimator: dict[str, Any], options: VAEOptions, data: ImageData, **given: Any):
        self.first_epoch, self.initial_weights = options.first_epoch, options.initial_weights
        self.moving = None if options.moving_variance is None else MovingVariance(options.moving_variance)
        super().__init__(estimator, options, data, **given)

    def network(self):
        """Build the published model of that name; its decoder is as wide as the image where nothing else is said."""
        depth, nonlinear = MODELS[self.options.model]
        widths = self.options.hidden, self.options.decoder_hidden or len(self.mean)
        hidden, back = [(width,) * 2 if nonlinear else () for width in widths]
        return DiscreteVAE([Layer("bernoulli", (self.options.latents,))] * depth, self.mean, hidden, back)
