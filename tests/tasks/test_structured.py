"""Structured prediction: every estimator against enumeration, the objective by hand, replicas, resuming, refusals."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from digits import digits, patches
from running import beside_and_alone, execute, numbers, resolve, stop
from torch.func import functional_call
from torch.utils._pytree import tree_map

from relax_exp import estimators, testing
from relax_exp.config import compatibility
from relax_exp.config import resolve as config
from relax_exp.enumeration import hierarchies
from relax_exp.enumeration.hierarchies import HIERARCHIES, tiny_hierarchy
from relax_exp.errors import ConfigError
from relax_exp.models.structured import HalfPredictor
from relax_exp.models.vae import Layer
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw
from relax_exp.tasks.layered_gradients import by_layer
from relax_exp.tasks.registry import TASKS
from relax_exp.tasks.structured import Structured
from relax_exp.training.replicas import Replicas

SMALL = {"depth": 1, "width": 5}
CASES = [
    (name, options, layers)
    for name, entry in estimators.REGISTRY.items()
    for options in entry.variants
    for layers in HIERARCHIES
    if all(layer.family in entry.families for layer in HIERARCHIES[layers]) and name != "unordered"
]


def make(estimator, images=None, **options) -> Structured:
    options = {"variables": 2, "batch_size": 3, "variance_draws": 5, "test_samples": 7} | options
    return make_task("structured", estimator, images or digits(), dtype=torch.float64, **options)


@pytest.mark.parametrize(("name", "options", "layers"), CASES, ids=str)
def test_every_parameter_against_enumeration(name, options, layers):
    """Both layers' maps and the one to the lower half; no f of a layer depends on its logits but through the sample."""
    verdict = hierarchies.check_hierarchy(name, options, HIERARCHIES[layers], 20_000, of=HalfPredictor)
    first, *_ = HIERARCHIES[layers]
    if estimators.build(name, first.family, first.shape, (4,), **options).unbiased:
        assert verdict.largest_z < testing.threshold(110 * len(CASES))
        assert verdict.cosine > 0.98


@pytest.mark.parametrize("layers", HIERARCHIES)
def test_a_relaxed_loss_is_differentiated_as_a_whole(layers):
    verdict = hierarchies.check_relaxed("concrete", {}, HIERARCHIES[layers], 100, of=HalfPredictor)
    assert verdict.largest_z < testing.threshold(verdict.tests)
    assert verdict.variance < 1e-18


@pytest.mark.parametrize("name", ["straight_through", "concrete"])
def test_biased_gradients_are_told_apart(name):
    verdict = hierarchies.check_hierarchy(name, {}, HIERARCHIES["bernoulli 3+3"], 20_000, of=HalfPredictor)
    assert verdict.largest_z > testing.threshold(110 * len(CASES))


@pytest.mark.parametrize("score_term", ["dropped", "kept"])
@pytest.mark.parametrize(("name", "options"), [("rebar", {}), ("double_cv", {}), ("vimco", {"samples": 2})])
def test_there_is_no_score_term(name, options, score_term):
    """F has no log q: whatever would be done with its gradient, nothing changes."""
    layers = HIERARCHIES["bernoulli 3+3"]
    ours, theirs = (
        tiny_hierarchy(name, options, layers, score_term=said, of=HalfPredictor) for said in ("dropped", score_term)
    )
    noise = draw(ours[1].noise_shapes(2), 1, stream(0, "noise"), torch.float64)
    noise = by_layer({k: v[0] for k, v in noise.items()}, 2)
    found = [hierarchy.gradients(model, x, noise).params for _, hierarchy, model, x in (ours, theirs)]
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("categories", [None, 3])
@pytest.mark.parametrize("centred", [True, False])
def test_the_objective_by_hand(categories, centred):
    """Maps, samples and log p(lower | b) written out, for digits of 64 pixels of which 32 are given."""
    task = make({"name": "reinforce"}, categories=categories, centred=centred)
    model, rows = task.init(stream(0, "init")), task.data[:3]
    params = tree_map(
        lambda v: v + 0.3 * torch.randn(v.shape, dtype=v.dtype, generator=stream(0, "moved")), model.params
    )
    assert {k: tuple(v.shape) for k, v in params.items()} == {
        "encoder.0.weight": (2 * (categories or 1), 32),
        "encoder.0.bias": (2 * (categories or 1),),
        "encoder.1.weight": (2 * (categories or 1), 2 * (categories or 1)),
        "encoder.1.bias": (2 * (categories or 1),),
        "decoder.0.weight": (32, 2 * (categories or 1)),
        "decoder.0.bias": (32,),
    }
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
    x, mean = rows.double(), digits().mean
    code = x[:, :32] - mean[:32] * centred
    for layer in range(2):
        logits = code @ params[f"encoder.{layer}.weight"].T + params[f"encoder.{layer}.bias"]
        u = noise[f"{layer}.u"]
        if categories is None:
            code = 2 * (u.log() - (-u).log1p() + logits > 0).double() - 1
        else:
            z = logits.view(3, 2, 3).log_softmax(-1) - (-u.log()).log()
            code = F.one_hot(z.argmax(-1), 3).double().flatten(1)
    constant = torch.logit(mean[32:].clamp(0.001, 0.999)) * centred
    pixels = code @ params["decoder.0.weight"].T + params["decoder.0.bias"] + constant
    expected = -F.binary_cross_entropy_with_logits(pixels, x[:, 32:], reduction="none").sum(-1).mean()
    out = task.gradients(model._replace(params=params), {"x": rows}, noise)
    torch.testing.assert_close(out.metrics["train/elbo"], expected)
    torch.testing.assert_close(out.loss, -expected)


def test_bounds_by_enumeration(monkeypatch):
    """With many samples the bound is log p(lower | upper), from all sixteen states; one sample's mean is below it."""
    task = make({"name": "reinforce"}, patches(), test_samples=20_000)
    task.tested = task.valid = task.valid[:4]
    params = {k: v + 0.5 for k, v in task.init(stream(0, "init")).params.items()}
    x, vae = task.valid.double(), task.hierarchy.vae
    bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def log_bernoulli(logits, b):
        logits, b = torch.broadcast_tensors(logits, b)
        return -F.binary_cross_entropy_with_logits(logits, b, reduction="none").sum(-1)

    def call(method, *args):
        return functional_call(vae, params, (method, *args))

    joint, values = [], []
    for first in bits:
        for second in bits:
            log_q = log_bernoulli(call("encode", 0, x), first) + log_bernoulli(call("encode", 1, first), second)
            joint.append(log_q)
            values.append(log_bernoulli(call("predict", second), x[:, 2:]))
    joint, values = torch.stack(joint), torch.stack(values)
    torch.testing.assert_close(joint.exp().sum(0), torch.ones(4, dtype=torch.float64))
    exact, one = (joint + values).logsumexp(0).mean(), (joint.exp() * values).sum(0).mean()
    stacked = {k: v.unsqueeze(0) for k, v in params.items()}
    (measured,) = task.test(stacked, stacked, [0])
    assert set(measured) == {f"test/{name}{end}" for name in ("elbo", "bound20000") for end in ("", "_best")}
    assert measured["test/bound20000"] == pytest.approx(exact.item(), abs=0.01)
    assert measured["test/elbo"] == pytest.approx(one.item(), abs=0.01)
    assert measured["test/elbo"] < measured["test/bound20000"] - 0.01


def test_what_is_predicted_is_not_seen():
    """The latents depend on the upper half alone; a baseline may look at both."""
    vae = make({"name": "nvil"}).hierarchy.vae
    x = torch.rand(3, 64, dtype=torch.float64)
    other = torch.cat([x[:, :32], torch.rand(3, 32, dtype=torch.float64)], -1)
    assert torch.equal(vae.encode(0, x), vae.encode(0, other)) and not torch.equal(vae.code(-1, x), vae.code(-1, other))
    upside = torch.cat([torch.rand(3, 32, dtype=torch.float64), x[:, 32:]], -1)
    assert not torch.equal(vae.encode(0, x), vae.encode(0, upside))
    b = torch.ones(3, 2, dtype=torch.float64)
    assert torch.equal(vae.log_lower(b, x), vae.log_lower(b, upside))


@pytest.mark.parametrize(
    ("name", "options", "layers"), [case for case in CASES if case[2] != "categorical 2x3 + bernoulli 3"], ids=str
)
def test_the_network_is_asked_as_often_as_is_said(monkeypatch, name, options, layers):
    generator, hierarchy, model, x = tiny_hierarchy(name, options, HIERARCHIES[layers], of=HalfPredictor)
    noise = draw(hierarchy.noise_shapes(len(x)), 1, generator, torch.float64)
    asked, predict = [], HalfPredictor.predict

    def counted(self, b):
        asked.append(math.prod(b.shape[: -len(self.layers[-1].shape)]))
        return predict(self, b)

    monkeypatch.setattr(HalfPredictor, "predict", counted)
    hierarchy.gradients(model, x, by_layer({k: v[0] for k, v in noise.items()}, 2))
    assert sum(asked) == hierarchy.evaluations * len(x)


@pytest.mark.parametrize(
    "estimator, options",
    [
        ({"name": "relax", "noise": "tied", **SMALL}, {}),
        ({"name": "arsm"}, {"categories": 3}),
        ({"name": "concrete", "temperature": 1.0}, {"categories": 3, "layers": 3}),
        ({"name": "nvil"}, {"layers": 1, "binarize": "dynamic"}),
        ({"name": "disarm"}, {"optimizer": "momentum"}),
    ],
    ids=["relax", "arsm", "concrete", "nvil", "momentum"],
)
def test_replicas_equal_the_runs_made_alone(estimator, options):
    images = digits(options.get("binarize", "static"))
    options = {k: v for k, v in options.items() if k != "binarize"}
    task = make(estimator, images, **options)
    beside_and_alone(task)


LINE = (
    "task=structured task.dataset=digits task.variables=2 task.categories=3 task.variance_draws=4 task.test_samples=7 "
    "estimator=rebar batch_size=5 steps=8 eval_every=4 'seeds=[0,1]' "
)


def test_a_run_is_resumed_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert execute(LINE + "out=run") == 0
    stop(LINE + "out=other", 6)
    assert execute(LINE + "out=other") == 0
    found = [numbers(tmp_path / name) for name in ("run", "other")]
    assert found[0] == found[1]
    last = json.loads(found[0][-1])
    assert {"train/elbo", "valid/bound100_full", "test/bound7", "test/bound7_best", "grad/log_variance"} <= set(last)


def test_it_learns():
    """To predict the lower halves of digits better than their mean image does."""
    task = make_task("structured", {"name": "rebar"}, digits(), variables=20, batch_size=50, variance_draws=5)
    replicas = Replicas(task, [0], [0.01])
    mean, lower = digits().mean[32:].clamp(0.001, 0.999), digits().valid[:, 32:].double()
    constant = (lower * mean.log() + (1 - lower) * (-mean).log1p()).sum(-1).mean().item()
    list(replicas.advance(300))
    (row,) = task.evaluate(replicas.state.model, [0], 300, False)
    assert row["valid/bound100"] > constant + 0.5


@pytest.mark.parametrize(
    "given, words",
    [
        ("estimator=arsm", "arsm is not for bernoulli variables, which task=structured has"),
        ("estimator=arm task.categories=10", "arm is not for categorical variables"),
        ("estimator=exact", "the limit is 65536"),
        ("estimator=unordered task.variables=2 task.categories=3", "set task.layers=1"),
        ("estimator=rebar task.layers=4", "must be one of 1, 2, 3"),
        ("estimator=rebar task.categories=1", "must be a whole number > 1, or null"),
        ("estimator=rebar task.optimizer=sgd", "must be one of adam, momentum"),
        ("estimator=rebar task.test_samples=0", "must be a whole number > 0"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"task=structured {given}")


def test_it_has_no_score_term_to_choose():
    with pytest.raises(ConfigError, match=r"unknown key task\.score_term"):
        config.task_options("structured", score_term="kept")


@pytest.mark.parametrize("name", estimators.names("categorical"))
def test_every_categorical_estimator_composes(name):
    resolved = resolve(f"task=structured estimator={name} task.variables=2 task.categories=3 task.layers=1")
    assert (resolved["estimator"]["name"], resolved["task"]["categories"]) == (name, 3)


def test_the_family_follows_the_categories():
    entry = TASKS["structured"]
    assert entry.families == ("bernoulli", "categorical")
    assert [entry.family_of({"categories": n}) for n in (None, 10)] == ["bernoulli", "categorical"]
    assert TASKS["vae"].families == ("bernoulli",) and TASKS["categorical_vae"].families == ("categorical",)
    assert TASKS["verify"].families == ()


def test_an_estimator_for_binary_variables_is_refused_for_categories(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from relax_exp.estimators.score import Reinforce\n\n\nclass Mine(Reinforce):\n    families = ('bernoulli',)\n"
    )
    compatibility.check_own({"name": "structured", "categories": None}, {"path": str(path)})
    with pytest.raises(ConfigError, match="is for bernoulli variables, and task=structured has categorical ones"):
        compatibility.check_own({"name": "structured", "categories": 3}, {"path": str(path)})


def test_pictures_have_the_upper_half_that_was_given():
    task = make({"name": "reinforce"})
    (shown,) = task.images(Replicas(task, [0], [0.1]).state.model, 0, 0).values()
    assert shown.shape == (24, 1, 8, 8)
    for lines in (shown[8:16], shown[16:]):
        assert torch.equal(lines[:, :, :4], shown[:8, :, :4]) and not torch.equal(lines[:, :, 4:], shown[:8, :, 4:])


def test_layers_of_any_kind_follow_each_other():
    layers = [Layer("categorical", (2, 3)), Layer("bernoulli", (4,)), Layer("categorical", (1, 2))]
    net = HalfPredictor(layers, torch.rand(6))
    x = torch.rand(5, 6).round()
    logits, samples, *_, log_p = net.chain(x, lambda i, logits: net.families[i].hard(logits))
    assert [tuple(s.shape[1:]) for s in samples] == [layer.shape for layer in layers]
    assert log_p.shape == (5,)
    torch.testing.assert_close(
        -log_p, net.above(0, samples[0], logits[0], x, lambda i, logits: net.families[i].hard(logits), x)
    )
