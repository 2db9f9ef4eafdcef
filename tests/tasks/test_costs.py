"""``evaluations`` of a latent-variable model is what its decoder is asked, for every estimator."""

import math

import pytest
import torch
from torch.func import functional_call

from relax_exp import estimators
from relax_exp.enumeration.hierarchies import tiny_hierarchy
from relax_exp.estimators.pathwise import Pathwise
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.tasks.base import draw
from relax_exp.tasks.layered_gradients import by_layer

LAYERS = {"bernoulli": Layer("bernoulli", (3,)), "categorical": Layer("categorical", (1, 3))}
CELLS = [
    (name, options, family, depth)
    for name, entry in estimators.REGISTRY.items()
    for options in entry.variants
    for family in entry.families
    if family in LAYERS
    for depth in (1, 2)
    if not (name == "unordered" and depth == 2)
]


def prepared(name, options, family, depth, **more):
    generator, hierarchy, model, x = tiny_hierarchy(name, options, [LAYERS[family]] * depth, **more)
    noise = draw(hierarchy.noise_shapes(len(x)), 1, generator, torch.float64)
    return hierarchy, model, x, by_layer({k: v[0] for k, v in noise.items()}, depth)


@pytest.fixture
def asked(monkeypatch):
    """Rows that the map of the uppermost layer has been asked to decode: every evaluation of f has one for each row."""
    rows, decode = [], DiscreteVAE.decode

    def counted(self, layer, b):
        if layer == self.depth - 1:
            rows.append(math.prod(b.shape[: -len(self.layers[layer].shape)]))
        return decode(self, layer, b)

    monkeypatch.setattr(DiscreteVAE, "decode", counted)
    return rows


@pytest.mark.parametrize("score_term", ["dropped", "kept"])
@pytest.mark.parametrize(("name", "options", "family", "depth"), CELLS, ids=str)
def test_the_decoder_is_asked_as_often_as_is_said(asked, name, options, family, depth, score_term):
    hierarchy, model, x, noise = prepared(name, options, family, depth, score_term=score_term)
    hierarchy.gradients(model, x, noise)
    assert sum(asked) == hierarchy.evaluations * len(x)


@pytest.mark.parametrize("score_term", ["dropped", "kept"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["double_cv", "rodeo"])
def test_the_slope_from_the_first_pass_is_that_of_f(monkeypatch, name, depth, score_term):
    """The gradient is the one of an evaluation made for df/db alone, log q included."""
    options = {"samples": 3} | ({"width": 8} if name == "rodeo" else {})
    hierarchy, model, x, noise = prepared(name, options, "bernoulli", depth, score_term=score_term)
    ours = hierarchy.gradients(model, x, noise)
    monkeypatch.setattr(type(hierarchy.estimators[0]), "uses_slope", False)
    theirs = hierarchy.gradients(model, x, noise)
    torch.testing.assert_close(ours.params, theirs.params)
    torch.testing.assert_close(ours.tuning, theirs.tuning)


HARD = [
    (name, options, family, depth)
    for name, options, family, depth in CELLS
    if estimators.lookup(name).target == "path" and estimators.needs(name, options) == "gradient"
    if name != "decoupled_st"  # its samples are no draws from q, so the bound has a pass of its own
]


@pytest.mark.parametrize(("name", "options", "family", "depth"), HARD, ids=str)
def test_the_bound_read_from_a_hard_pass_is_the_discrete_one(name, options, family, depth):
    hierarchy, model, x, noise = prepared(name, options, family, depth)
    logged = hierarchy.gradients(model, x, noise).metrics["train/elbo"]
    assert all(isinstance(it, Pathwise) for it in hierarchy.estimators)

    def sample(i, logits):
        state = model.tuning[i], model.buffers[i]
        drawn = functional_call(hierarchy.estimators[i], state, (logits,), {"noise": noise[i]})
        assert ((drawn == 0) | (drawn == 1)).all()
        return drawn

    f, _ = hierarchy.bound_terms(model.params, x, sample)
    torch.testing.assert_close(logged, -f.mean())
