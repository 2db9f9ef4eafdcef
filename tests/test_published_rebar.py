"""The published gradient of REBAR with two layers, in the VAE itself: biased at layer 2's encoder and nowhere else."""

import published_rebar
import torch
from torch.func import vmap

from relax_exp.enumeration import hierarchies
from relax_exp.estimators.registry import TUCKER
from relax_exp.tasks.base import draw
from relax_exp.tasks.layered_gradients import by_layer

DRAWS = 4000


def test_only_the_encoder_of_the_second_layer_is_biased(monkeypatch):
    monkeypatch.setattr(hierarchies, "Hierarchy", published_rebar.Published)
    layers = hierarchies.HIERARCHIES["bernoulli 3+3"]
    generator, hierarchy, model, x = hierarchies.tiny_hierarchy("rebar", dict(TUCKER), layers)
    exact = hierarchies.exact_parameter_gradient(hierarchy, model.params, x)
    noise = draw(hierarchy.noise_shapes(len(x)), DRAWS, generator, torch.float64)
    drawn = vmap(lambda noise: hierarchy.gradients(model, x, by_layer(noise, 2)).params)(noise)
    error = {k: g.std(0).clamp(min=1e-12) / DRAWS**0.5 for k, g in drawn.items()}
    z = {k: float(((g.mean(0) - exact[k]) / error[k]).abs().max()) for k, g in drawn.items()}
    assert min(z.pop("encoder.1.weight"), z.pop("encoder.1.bias")) > 8
    assert max(z.values()) < 5
