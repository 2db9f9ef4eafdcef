"""The categorical VAE: the whole step against enumeration, relaxed objectives, replicas, resuming, pseudo-actions."""

import functools
import json

import pytest
import torch
import torch.nn.functional as F
from digits import digits, patches
from running import beside_and_alone, execute, numbers, resolve, stop
from torch.distributions import kl_divergence
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.utils._pytree import tree_map

from relax_exp import testing
from relax_exp.config import yaml_files
from relax_exp.config.plans import names
from relax_exp.distributions import Categorical
from relax_exp.enumeration import checks, hierarchies
from relax_exp.errors import ConfigError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import Model, draw
from relax_exp.tasks.categorical_vae import CategoricalVAE
from relax_exp.tasks.layered_gradients import by_layer

SMALL = {"depth": 1, "width": 5}
ANNEALED = {"name": "concrete", "schedule": "annealed", "temperature": 1.0, "minimum": 0.5, "rate": 0.1}


def make(estimator, images=None, **options) -> CategoricalVAE:
    options = {"variables": 2, "categories": 3, "hidden": [4, 3], "batch_size": 3, "variance_draws": 5} | options
    return make_task("categorical_vae", estimator, images or digits("threshold"), dtype=torch.float64, **options)


def moved(task: CategoricalVAE, seed: int = 0) -> Model:
    """A model with nothing special about it."""
    generator = stream(seed, "moved")
    model = task.init(generator)
    return tree_map(lambda v: v + 0.5 * torch.randn(v.shape, generator=generator, dtype=v.dtype), model)


@pytest.mark.parametrize(
    "estimator, options",
    [
        ({"name": "arsm"}, {"pinned": True}),
        ({"name": "rloo"}, {"learned_prior": True, "centred": True}),
        ({"name": "unordered", "samples": 3}, {}),
        ({"name": "relax", "noise": "tied", **SMALL}, {"activation": "tanh"}),
        ({"name": "relax", "noise": "independent", **SMALL}, {"layers": 2, "variables": 1}),
        ({"name": "arsm"}, {"layers": 2, "variables": 1}),
    ],
    ids=["arsm", "rloo", "unordered", "relax", "relax2", "arsm2"],
)
def test_the_whole_step_against_enumeration(estimator, options):
    task = make(estimator, patches("threshold"), **options)
    model, x = moved(task), task.data[:3].double()
    names = {key.split(".")[0] for key in model.params}
    assert names == {"encoder", "decoder", "prior"} - (set() if options.get("learned_prior") else {"prior"})

    def one(noise):
        return hierarchies.flat(task.gradients(model, {"x": task.data[:3]}, noise).params)

    hierarchy = task.hierarchy
    exact = hierarchies.flat(hierarchies.exact_parameter_gradient(hierarchy, model.params, x))
    verdict = checks.compare(one, task.noise_shapes(), exact, 20_000, stream(0, "draws"), 2_000)
    assert verdict.largest_z < testing.threshold(verdict.tests), verdict
    assert exact.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["unordered", "straight_through", "decoupled_st"])
def test_the_training_bound_is_the_mean_of_single_samples(name):
    """Samples that are not drawn from q, or not each by itself, have its mean no less."""
    found = []
    for estimator in ({"name": name}, {"name": "rloo"}):
        task = make(estimator, patches("threshold"))
        model = moved(task)._replace(tuning=task.init(stream(0, "init")).tuning)
        noise = draw(task.noise_shapes(), 4000, stream(1, "noise"), torch.float64)
        call = torch.func.vmap(lambda n: task.gradients(model, {"x": task.data[:3]}, n).metrics["train/elbo"])  # noqa: B023
        found.append(call(noise))
    (ours, error), (wanted, other) = ((v.mean().item(), v.std().item() / len(v) ** 0.5) for v in found)
    assert ours == pytest.approx(wanted, abs=5 * (error**2 + other**2) ** 0.5)


def test_biased_gradients_are_told_apart():
    task = make({"name": "straight_through"}, patches("threshold"), relaxed="kl")
    model, x = moved(task), task.data[:3].double()
    exact = hierarchies.flat(hierarchies.exact_parameter_gradient(task.hierarchy, model.params, x))
    one = lambda noise: hierarchies.flat(task.gradients(model, {"x": task.data[:3]}, noise).params)  # noqa: E731
    verdict = checks.compare(one, task.noise_shapes(), exact, 20_000, stream(0, "draws"), 2_000)
    assert verdict.largest_z > testing.threshold(verdict.tests)


def test_the_log_density_is_that_of_torch():
    generator = stream(0, "density")
    logits, z = (torch.randn(5, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    log_s = (z / 0.7).log_softmax(-1)
    expected = ExpRelaxedCategorical(torch.tensor(0.7, dtype=torch.float64), logits=logits).log_prob(log_s).sum(-1)
    torch.testing.assert_close(Categorical.log_density(logits, log_s, 0.7), expected)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["elbo", "kl", "density"])
def test_relaxed_objectives(kind, layers):
    """Written out by hand; the temperature is the estimator's."""
    task = make({"name": "concrete", "temperature": 0.7}, layers=layers, relaxed=kind, learned_prior=True)
    model, x = moved(task), task.data[:3].double()
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
    vae, p = task.hierarchy.vae, model.params
    call = functools.partial(task.hierarchy.call, p)
    below, soft, q = x, [], []
    for layer in range(layers):
        q.append(call("encode", layer, below))
        z = q[-1].log_softmax(-1) - (-noise[f"{layer}.u"].log()).log()
        below = (z / 0.7).softmax(-1)
        soft.append(below)
    pixels = call("decode", 0, soft[0])
    expected = F.binary_cross_entropy_with_logits(pixels, x, reduction="none").sum(-1)
    for layer in range(layers):
        top = layer == layers - 1
        prior = p["prior"].expand_as(q[-1]) if top else call("decode", layer + 1, soft[layer + 1])
        if kind == "density":
            at, log_s = torch.tensor(0.7, dtype=torch.float64), soft[layer].log()
            pair = [ExpRelaxedCategorical(at, logits=logits).log_prob(log_s).sum(-1) for logits in (q[layer], prior)]
            expected = expected + pair[0] - pair[1]
        elif kind == "kl":
            both = [torch.distributions.Categorical(logits=logits) for logits in (q[layer], prior)]
            expected = expected + kl_divergence(*both).sum(-1)
        else:
            expected = expected + (soft[layer] * (q[layer].log_softmax(-1) - prior.log_softmax(-1))).sum((-2, -1))
    args = (model.tuning, model.buffers, x, by_layer(noise, layers), kind)
    torch.testing.assert_close(task.hierarchy.relaxed(p, *args)[0], expected)
    got = task.gradients(model, {"x": task.data[:3]}, noise)
    assert got.metrics[f"train/relaxed_{kind}"].item() == pytest.approx(-expected.mean().item())
    hard = -task.hierarchy.bound_terms(p, x, lambda i, logits: vae.families[i].sample(logits, noise[f"{i}.u"]))[0]
    assert got.metrics["train/elbo"].item() == pytest.approx(hard.mean().item())
    assert set(got.metrics) == {"train/elbo", f"train/relaxed_{kind}"}


def test_the_density_follows_an_annealed_and_a_learned_temperature():
    learned = {"name": "concrete", "schedule": "learned"}
    for estimator in (ANNEALED | {"anneal_every": 1}, learned):
        task = make(estimator, relaxed="density")
        model = task.init(stream(0, "init"))
        noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
        first = task.gradients(model, {"x": task.data[:3]}, noise)
        if estimator is learned:
            assert first.tuning[0]["log_temperature"].abs() > 1e-3
            continue
        later = task.gradients(model._replace(buffers=first.buffers), {"x": task.data[:3]}, noise)
        assert later.loss != first.loss


CASES = {
    "arsm": ({"name": "arsm"}, {"pinned": True}),
    "arsm2": ({"name": "arsm"}, {"layers": 2}),
    "unordered": ({"name": "unordered"}, {}),
    "relax2": ({"name": "relax", "noise": "tied", **SMALL}, {"layers": 2}),
    "density": (ANNEALED | {"anneal_every": 2}, {"relaxed": "density"}),
    "kl2": ({"name": "st_gumbel"}, {"relaxed": "kl", "layers": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_replicas_equal_the_runs_made_alone(case):
    estimator, options = CASES[case]
    task = make(estimator, **options)
    beside_and_alone(task)


def test_pseudo_actions_are_one_batch(monkeypatch):
    task = make({"name": "arsm"}, categories=5)
    sizes = []
    above = type(task.hierarchy.vae).above
    monkeypatch.setattr(
        type(task.hierarchy.vae),
        "above",
        lambda self, i, s, *args: sizes.append(s.shape[0]) or above(self, i, s, *args),
    )
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
    task.gradients(task.init(stream(0, "init")), {"x": task.data[:3]}, noise)
    assert sizes == [10]
    assert task.evaluations == 11


def test_pinned_logits_and_the_architecture():
    task = make_task("categorical_vae", {"name": "arsm"}, digits("threshold"), pinned=True)
    params = task.init(stream(0, "init")).params
    weights = [(k, tuple(v.shape)) for k, v in params.items() if k.endswith("weight")]
    assert weights == [
        ("encoder.0.0.weight", (512, 64)),
        ("encoder.0.2.weight", (256, 512)),
        ("encoder.0.4.weight", (180, 256)),
        ("decoder.0.0.weight", (256, 200)),
        ("decoder.0.2.weight", (512, 256)),
        ("decoder.0.4.weight", (64, 512)),
    ]
    logits = task.hierarchy.call(params, "encode", 0, task.data[:2].float())
    assert logits.shape == (2, 20, 10)
    assert not logits[..., 0].any() and logits[..., 1:].all()
    slope = task.hierarchy.vae.encoder[0][1]
    assert slope(torch.tensor(-1.0)).item() == pytest.approx(-0.2)


LINE = (
    "task=categorical_vae task.dataset=digits task.variables=2 task.categories=3 task.hidden=[4] task.variance_draws=4 "
    "task.relaxed=kl estimator=concrete batch_size=5 steps=8 eval_every=4 seeds=[0,1] "
)


def test_a_run_is_resumed_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert execute(LINE + "out=run") == execute(LINE + "out=other") == 0
    stop(LINE + "out=third", 6)
    assert execute(LINE + "out=third") == 0
    found = [numbers(tmp_path / name) for name in ("run", "other", "third")]
    assert found[0] == found[1] == found[2]
    last = json.loads(found[0][-1])
    relaxed = {"train/relaxed_kl", "valid/relaxed_kl", "valid/relaxed_density"}
    assert relaxed | {"train/elbo", "valid/elbo", "valid/bound100_full", "grad/log_variance"} <= set(last)
    assert "train relaxed" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize(
    "given, words",
    [
        ("estimator=unordered", r"enumerates 10\^20 states"),
        ("estimator=unordered task.variables=2 task.layers=2", "one layer"),
        ("estimator=st_gumbel task.relaxed=density", "use concrete"),
        ("estimator=exact", "the limit is 65536"),
        ("estimator=disarm", "not for categorical"),
        ("estimator=arsm task.layers=3", "must be one of 1, 2"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"task=categorical_vae {given}")


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in (yaml_files.CONFIGS / "experiment").glob("*vae*")} - {*names()})
)
def test_presets_resolve(name):
    resolve(f"experiment={name}")
