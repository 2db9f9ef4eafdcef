"""The VAE's metrics against enumeration and against gradients drawn one by one."""

import itertools
import math

import pytest
import torch
from digits import digits
from torch.utils._pytree import tree_map

from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw
from relax_exp.tasks.vae import VAE
from relax_exp.training.replicas import Replicas

REBAR = {"name": "rebar", "noise": "tied"}


def make(estimator=REBAR, binarize="static", **options) -> VAE:
    options = {"latents": 2, "batch_size": 6, "dtype": torch.float64, "variance_draws": 25} | options
    return make_task("vae", estimator, digits(binarize), **options)


def trained(task: VAE, steps: int = 40, seed: int = 0):
    """The model of one replica after some steps at a high rate, so that nothing is special about it."""
    replicas = Replicas(task, [seed], [0.03])
    for _ in replicas.advance(steps):
        pass
    return replicas.state.model


def bernoulli(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def exact(task: VAE, model, x: torch.Tensor) -> tuple[float, float]:
    """ELBO and log-likelihood of one layer of latents, by enumeration, written out with the weights themselves."""
    p = {k: v[0] for k, v in model.params.items()}
    mean = digits().mean
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=task.options.latents)), dtype=torch.float64)
    logits = (x - mean) @ p["encoder.0.weight"].T + p["encoder.0.bias"]
    clipped = mean.clamp(0.001, 0.999)
    pixels = (2 * states - 1) @ p["decoder.0.weight"].T + p["decoder.0.bias"] + torch.log(clipped / (1 - clipped))
    pixels = pixels.unsqueeze(1).expand(-1, len(x), -1)
    log_q = bernoulli(logits.expand(len(states), -1, -1), states.unsqueeze(1).expand(-1, len(x), -1))
    prior = bernoulli(p["prior"].expand_as(states), states).unsqueeze(1)
    log_joint = prior + bernoulli(pixels, x.expand(len(states), -1, -1))
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0).mean()
    return elbo.item(), log_joint.logsumexp(0).mean().item()


def test_the_bounds_are_those_of_the_model():
    task = make()
    model = trained(task)
    (row,) = task.evaluate(model, [0], 10, True)
    elbo, likelihood = exact(task, model, task.valid.double())
    assert likelihood - elbo > 0.05
    assert row["valid/elbo"] == pytest.approx(elbo, abs=0.02)  # 250 images x 100 draws
    assert elbo + 0.05 < row["valid/bound100"] < likelihood + 0.01
    assert row["valid/bound100"] == pytest.approx(likelihood, abs=0.05)
    assert row["valid/elbo_full"] == pytest.approx(elbo, abs=0.02)  # other draws, and here the same images
    assert row["valid/elbo_full"] != row["valid/elbo"]


@pytest.mark.parametrize("model", ["linear2", "nonlinear"])
def test_the_bound_is_better_than_the_elbo(model):
    task = make(model=model, latents=5, hidden=8)
    (row,) = task.evaluate(trained(task), [0], 10, False)
    assert row["valid/bound100"] > row["valid/elbo"] + 0.1
    assert "valid/bound100_full" not in row


@pytest.mark.parametrize("estimator", [REBAR, {"name": "straight_through"}, {"name": "decoupled_st"}])
def test_the_training_bound_is_the_elbo_on_average(estimator):
    task = make(estimator, batch_size=1297)
    model = trained(task, steps=3)
    elbo, _ = exact(task, model, task.data.double())
    one = tree_map(lambda leaf: leaf[0], model)
    noise = draw(task.noise_shapes(), 20, stream(0, "test"), task.dtype)
    values = torch.func.vmap(lambda n: task.gradients(one, {"x": task.data}, n).metrics["train/elbo"])(noise)
    assert values.mean().item() == pytest.approx(elbo, abs=5 * values.std().item() / math.sqrt(20))


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
@pytest.mark.parametrize("model", ["linear1", "linear2"])
def test_the_variance_is_that_of_gradients_drawn_one_by_one(binarize, model):
    task = make(binarize=binarize, model=model, latents=3)
    models = trained(task, 5, seed=7)
    (row,) = task.evaluate(models, [7], 30, False)
    one = tree_map(lambda leaf: leaf[0], models)

    of_batch, of_draws = stream(7, "variance/batch"), stream(7, "evaluation/variance", 30)
    start = int(torch.randint(len(task.data) - 6 + 1, (), generator=of_batch))
    batch = {"x": task.data[start : start + 6]}
    shapes, still = task.noise_shapes(), {}
    if binarize == "dynamic":  # the minibatch is the same for all draws
        still = {"binarize": torch.rand(shapes.pop("binarize"), generator=of_batch, dtype=task.dtype)}
    gradients = []
    for count in 10, 10, 5:
        noise = draw(shapes, count, of_draws, task.dtype)
        for i in range(count):
            grads = task.gradients(one, batch, {k: v[i] for k, v in noise.items()} | still).params
            gradients.append(torch.cat([g.flatten() for k, g in grads.items() if k.startswith("encoder.")]))
    variance = torch.stack(gradients).var(0)
    assert row["grad/log_variance"] == pytest.approx(variance.mean().log().item(), rel=1e-9)
    assert row["grad/mean_log_variance"] == pytest.approx(variance.clamp(min=1e-307).log().mean().item(), abs=0.5)


def test_the_variance_in_single_precision():
    double, single = make(variance_draws=30), make(variance_draws=30, dtype=torch.float32)
    model = trained(double)
    (a,) = double.variance(model, [0], 1)
    (b,) = single.variance(tree_map(torch.Tensor.float, model), [0], 1)  # from other draws
    assert a["grad/log_variance"] == pytest.approx(b["grad/log_variance"], abs=0.5)


def test_two_draws_are_enough():
    task = make(variance_draws=2)
    (row,) = task.evaluate(trained(task, 1), [0], 1, False)
    assert math.isfinite(row["grad/log_variance"])


def test_dynamic_binarisation_draws_pixels_anew():
    task = make(binarize="dynamic")
    grey = task.data[:4]
    uniform = torch.rand(5000, 4, 64, generator=stream(0, "test"), dtype=torch.float64)
    pixels = task.pixels(grey, uniform)
    assert pixels.dtype == torch.float64 and set(pixels.unique().tolist()) == {0.0, 1.0}
    assert (pixels.mean(0) - grey / 255).abs().max() < 0.04
    assert "binarize" in task.noise_shapes() and "binarize" not in make().noise_shapes()
    step, model = task.gradients, tree_map(lambda leaf: leaf[0], trained(task, 1))
    noise = draw(task.noise_shapes(), 2, stream(0, "test"), task.dtype)
    first, second = ({k: v[i] for k, v in noise.items()} for i in range(2))
    other = step(model, {"x": task.data[:6]}, first | {"binarize": second["binarize"]})
    assert other.loss != step(model, {"x": task.data[:6]}, first).loss


def test_replicas_are_evaluated_as_if_alone():
    task = make()
    replicas = Replicas(task, [3, 4], [0.01])
    rows = task.evaluate(replicas.state.model, [3, 4], 5, False)
    (alone,) = task.evaluate(tree_map(lambda leaf: leaf[1:], replicas.state.model), [4], 5, False)
    assert rows[1] == alone != rows[0]


def test_the_start_of_the_published_protocol():
    task = make(latents=200)
    params = task.init(stream(0, "init")).params
    for name, fan in ("encoder.0", 264), ("decoder.0", 264):
        weight = params[f"{name}.weight"]
        bound = math.sqrt(6 / fan)
        assert weight.abs().max() < bound and weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not params[f"{name}.bias"].any()
    assert not params["prior"].any()
    assert task.betas == (0.9, 0.99999)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_pictures(binarize):
    task = make(binarize=binarize, model="linear2")
    pictures = task.images(trained(task, 2), 0, 0)
    assert {k: tuple(v.shape) for k, v in pictures.items()} == {
        "validation images above their reconstructions": (16, 1, 8, 8),
        "draws from the prior": (16, 1, 8, 8),
    }
    assert all(((picture >= 0) & (picture <= 1)).all() for picture in pictures.values())
    expected = task.valid[:8].double() / (255 if binarize == "dynamic" else 1)
    assert (pictures["validation images above their reconstructions"][:8].flatten(1) == expected).all()


@pytest.mark.parametrize("noise", ["tied", "independent"])
def test_rebar_with_an_eta_for_every_tensor(noise):
    """With equal etas it is REBAR; its tuning loss is the mean square of the encoder's score part; each eta counts."""
    granular = make({"name": "rebar", "noise": noise, "granularity": "parameter"}, model="nonlinear", hidden=3)
    layer = make({"name": "rebar", "noise": noise}, model="nonlinear", hidden=3)
    model = granular.init(stream(0, "init"))
    assert model.tuning[0]["eta"].shape == (6,)
    shared = model._replace(tuning=[{**model.tuning[0], "eta": torch.tensor(1.0, dtype=torch.float64)}])
    drawn = tree_map(lambda x: x[0], draw(granular.noise_shapes(), 1, stream(0, "noise"), torch.float64))
    batch = {"x": granular.data[:6]}
    ours, theirs = granular.gradients(model, batch, drawn), layer.gradients(shared, batch, drawn)
    torch.testing.assert_close(ours.params, theirs.params)
    names = [name for name in model.params if name.startswith("encoder.")]
    for k, name in enumerate(names):
        eta = model.tuning[0]["eta"].clone()
        eta[k] = 2.0
        moved = granular.gradients(model._replace(tuning=[{**model.tuning[0], "eta": eta}]), batch, drawn).params
        assert [other for other in model.params if not torch.equal(moved[other], ours.params[other])] == [name]

    def tuning_loss(eta):
        return granular.gradients(model._replace(tuning=[{**model.tuning[0], "eta": eta}]), batch, drawn).tuning_loss

    step, eta = 1e-4, model.tuning[0]["eta"]
    slopes = [(tuning_loss(eta + d) - tuning_loss(eta - d)) / (2 * step) for d in step * torch.eye(6).double()]
    torch.testing.assert_close(ours.tuning[0]["eta"], torch.stack(slopes), rtol=1e-5, atol=1e-9)


def test_test_bounds_are_those_of_the_last_and_of_the_kept_parameters():
    task = make()
    model = trained(task)
    other = trained(task, steps=3)
    (row,) = task.test(model.params, other.params, [0])
    elbo, likelihood = exact(task, model, task.tested.double())
    assert row["test/elbo"] == pytest.approx(elbo, abs=0.02)  # 250 images x 100 draws
    assert row["test/bound100"] == pytest.approx(likelihood, abs=0.05)
    elbo, likelihood = exact(task, other, task.tested.double())
    assert row["test/elbo_best"] == pytest.approx(elbo, abs=0.02)
    assert row["test/bound100_best"] == pytest.approx(likelihood, abs=0.05)


def test_parameters_are_kept_from_the_best_evaluation():
    replicas = Replicas(make(), [0, 1], [0.03])
    values = {1: [-3.0, -9.0], 2: [-1.0, -5.0], 3: [-2.0, float("nan")], 4: [-1.5, -4.0]}
    kept = {}
    replicas.task.evaluate = lambda models, seeds, step, final: [{"valid/elbo": value} for value in values[step]]
    for step in replicas.advance(4):
        kept[step] = tree_map(torch.clone, replicas.state.model.params)
        rows = replicas.evaluate([0, 1], step, step == 4)
    for name, leaf in replicas.best["params"].items():
        assert (leaf[0] == kept[2][name][0]).all() and (leaf[1] == kept[4][name][1]).all()
    assert [row["best_step"] for row in rows] == [2, 4]
    assert rows[0]["test/elbo"] != rows[0]["test/elbo_best"]
    assert rows[1]["test/elbo"] == rows[1]["test/elbo_best"]


def test_bounds_on_all_validation_images_choose_where_they_are_measured():
    assert make(bound_every=5).selection == "valid/elbo_full"
    assert make().selection == "valid/elbo"


@pytest.mark.parametrize(("given", "width"), [(None, 64), (7, 7)])
def test_the_decoder_of_the_nonlinear_model_is_as_wide_as_the_image_or_as_said(given, width):
    task = make(model="nonlinear", latents=5, hidden=8, decoder_hidden=given)
    shapes = {k: tuple(v.shape) for k, v in task.hierarchy.vae.named_parameters()}
    assert [shapes[f"decoder.0.{i}.weight"] for i in (0, 2, 4)] == [(width, 5), (width, width), (64, width)]
    assert [shapes[f"encoder.0.{i}.weight"] for i in (0, 2, 4)] == [(8, 64), (8, 8), (5, 8)]


def test_the_first_epoch_is_in_file_order_where_that_is_asked_for():
    file, shuffled = (Replicas(make(first_epoch=order, batch_size=60), [5], [0.1]) for order in ("file", "shuffled"))
    per_epoch = 1297 // 60
    first = file._epoch_rows(5, 0, per_epoch)
    assert (first.flatten() == torch.arange(per_epoch * 60)).all()
    assert (first != shuffled._epoch_rows(5, 0, per_epoch)).any()
    assert (file._epoch_rows(5, per_epoch, 30) == shuffled._epoch_rows(5, per_epoch, 30)).all()
