"""Estimators in a hierarchy of latents, checked against enumeration of all its states."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from relax_exp import estimators
from relax_exp.distributions import expectation
from relax_exp.enumeration.checks import CHUNK_NUMBERS, Verdict, chunk_size, compare, perturbed
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.numerics.random_streams import stream
from relax_exp.numerics.sums import total
from relax_exp.tasks.base import Model
from relax_exp.tasks.layered_gradients import Hierarchy, by_layer, context_shapes

STEP = 1e-3  # of differences of a loss
HIERARCHIES = {
    "bernoulli 3+3": [Layer("bernoulli", (3,)), Layer("bernoulli", (3,))],
    "categorical 2x3 + bernoulli 3": [Layer("categorical", (2, 3)), Layer("bernoulli", (3,))],
    "categorical 1x3 + 1x3": [Layer("categorical", (1, 3)), Layer("categorical", (1, 3))],
}


def check_hierarchy(
    name: str,
    options: dict[str, Any],
    layers: list[Layer],
    draws: int,
    seed: int = 0,
    rows: int = 2,
    pixels: int = 4,
    score_term: str = "dropped",
    of: type[DiscreteVAE] = DiscreteVAE,
) -> Verdict:
    """Compare the gradient of *all* parameters of a tiny model with enumeration of all its latents.

    The parameters are those of encoder, decoder and prior. The model is a VAE, or another one that its class builds.
    """
    generator, hierarchy, model, x = tiny_hierarchy(name, options, layers, seed, rows, pixels, score_term, of)
    built = hierarchy.estimators
    shapes = hierarchy.noise_shapes(rows)

    def one(noise: dict[str, Tensor]) -> Tensor:
        return flat(hierarchy.gradients(model, x, by_layer(noise, len(layers))).params)

    exact = flat(
        exact_parameter_gradient(hierarchy, model.params, x, built[0].bound_samples, built[0].target == "bound")
    )
    chunk = max(1, min(chunk_size(draws, shapes, built[0].evaluations), CHUNK_NUMBERS // len(exact)))
    return compare(one, shapes, exact, draws, generator, chunk)


def check_relaxed(
    name: str,
    options: dict[str, Any],
    layers: list[Layer],
    draws: int,
    seed: int = 0,
    of: type[DiscreteVAE] = DiscreteVAE,
) -> Verdict:
    """Compare the gradient of a pathwise estimator in a tiny model with differences of its relaxed loss, draw by draw.

    The loss has to be smooth (Concrete). As every draw is compared by itself, few draws are enough.
    """
    generator, hierarchy, model, x = tiny_hierarchy(name, options, layers, seed, of=of)
    shapes = hierarchy.noise_shapes(len(x))
    sizes = {k: v.numel() for k, v in model.params.items()}

    def one(noise: dict[str, Tensor]) -> Tensor:
        own = by_layer(noise, len(layers))
        start = flat(model.params)

        def loss(direction: Tensor, step: float) -> Tensor:
            parts = torch.split(start + step * direction, list(sizes.values()))
            params = {k: part.view(model.params[k].shape) for k, part in zip(sizes, parts, strict=True)}
            return hierarchy.relaxed(params, model.tuning, model.buffers, x, own, hierarchy.trained)[0].mean()

        def slope(direction: Tensor) -> Tensor:
            """Of fourth order in the step."""
            near, far = (loss(direction, k * STEP) - loss(direction, -k * STEP) for k in (1, 2))
            return (8 * near - far) / (12 * STEP)

        difference = flat(hierarchy.gradients(model, x, own).params) - vmap(slope)(torch.eye(len(start), dtype=x.dtype))
        return difference.abs()

    exact = torch.zeros(sum(sizes.values()), dtype=x.dtype)
    return compare(one, shapes, exact, draws, generator, min(draws, 100))


def tiny_hierarchy(
    name: str,
    options: dict[str, Any],
    layers: list[Layer],
    seed: int = 0,
    rows: int = 2,
    pixels: int = 4,
    score_term: str = "dropped",
    of: type[DiscreteVAE] = DiscreteVAE,
) -> tuple[torch.Generator, Hierarchy, Model, Tensor]:
    """Build a model small enough to enumerate, a VAE if nothing else is said, with an estimator.

    Returns:
        The generator of the draws to come, the hierarchy, its state, and images.
    """
    generator = stream(seed, f"hierarchy {name} {layers}")
    uniform = torch.rand((rows + 1, pixels), generator=generator, dtype=torch.float64)
    x, mean = uniform[:rows].round(), uniform[rows]
    vae = of(layers, mean.float()).double()
    if options.get("granularity") == "parameter":
        options = options | {"tensors": 2}  # weights and biases of a linear encoder
    if options.get("baseline") == "input":
        options = options | {"inputs": pixels}
    built = [
        estimators.build(name, layer.family, layer.shape, shape, generator, **options).double()
        for layer, shape in zip(layers, context_shapes(vae), strict=True)
    ]
    params = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in vae.named_parameters()}
    states = [perturbed(estimator, generator) for estimator in built]
    tuned = [dict(estimator.named_parameters()) for estimator in built]
    model = Model(
        params,
        [{k: v for k, v in state.items() if k in names} for state, names in zip(states, tuned, strict=True)],
        [{k: v for k, v in state.items() if k not in names} for state, names in zip(states, tuned, strict=True)],
    )
    return generator, Hierarchy(vae, built, score_term=score_term), model, x


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """Return all gradients as one vector."""
    return torch.cat([g.flatten() for g in gradients.values()])


def exact_parameter_gradient(
    hierarchy: Hierarchy, params: dict[str, Tensor], x: Tensor, samples: int = 1, bound: bool = False
) -> dict[str, Tensor]:
    """Compute the gradient of the exact minibatch-mean -ELBO by enumeration of all layers.

    With ``bound`` it is that of the bound of ``samples`` samples.
    """
    vae = hierarchy.vae
    states = [f.enumerate(layer.shape, dtype=x.dtype) for f, layer in zip(vae.families, vae.layers, strict=True)]
    joint = list(itertools.product(*(range(len(s)) for s in states)))
    chosen = [s[[index[i] for index in joint]].unsqueeze(1) for i, s in enumerate(states)]

    def of_rows(params: dict[str, Tensor]) -> Tensor:
        def state(i: int, logits: Tensor) -> Tensor:
            return chosen[i].expand(-1, len(x), *logits.shape[-len(vae.layers[i].shape) :])

        f, (logits, states, *_) = hierarchy.bound_terms(params, x, state)
        log_p = total(family.log_prob(*of) for family, *of in zip(vae.families, logits, states, strict=True))
        return expectation(log_p, f, samples if bound else None).mean()

    return grad(of_rows)(params)
