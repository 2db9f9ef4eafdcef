"""ReinMax's VAE: grey pixels, PyTorch's first weights, every image trained on, and evaluations on the test images."""

import math

import torch
import torch.nn.functional as F
from digits import digits
from torch.utils._pytree import tree_map

from relax_exp.models.mlp import uniform_
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw
from relax_exp.training.replicas import Replicas

MODEL = {"layers": 1, "variables": 3, "categories": 4, "hidden": [6, 5], "activation": "relu", "relaxed": "kl",
         "train_images": "all", "initial_weights": "torch", "optimizer": "radam", "variance_draws": 3}  # fmt: skip


def make(**options):
    given = {"batch_size": 20, "dtype": torch.float64, **MODEL, **options}
    return make_task("categorical_vae", {"name": "reinmax", "temperature": 1.3}, digits("none"), **given)


def test_grey_images_and_the_split():
    task, images = make(), digits("none")
    assert images.train.max() == 255 and len(images.train.unique()) == 17  # sixteenths, in 256 steps
    assert task.data.shape == (1297 + 250, 64) and torch.equal(task.data[1297:], images.valid)
    assert torch.equal(task.valid, images.test)
    torch.testing.assert_close(task.mean, task.data.double().mean(0) / 255)
    assert torch.equal(task.pixels(task.data[:2], None), task.data[:2].double() / 255)
    kept = make(train_images="train")
    assert torch.equal(kept.data, images.train) and torch.equal(kept.valid, images.valid)


def test_first_weights_are_those_of_pytorch():
    layer = torch.nn.Linear(400, 300)
    uniform_(layer, stream(0, "weights"))
    bound = 1 / math.sqrt(400)
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert parameter.abs().max() <= bound and abs(float(parameter.std()) - bound / math.sqrt(3)) < 0.05 * bound
    first = make().init(stream(0, "init")).params
    biases = [v for k, v in first.items() if k.endswith("bias")]
    assert len(biases) == 6 and all(b.abs().min() > 0 for b in biases)


def test_the_objective_is_cross_entropy_and_exact_divergence():
    task = make()
    model = task.init(stream(0, "init"))
    noise = tree_map(lambda x: x[0], draw(task.noise_shapes(), 1, stream(1, "noise"), task.dtype))
    rows = task.data[:20]
    out = task.gradients(model, {"x": rows}, noise)
    p, x = model.params, rows.double() / 255

    def affine(x, name):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    hidden = affine(affine(x, "encoder.0.0").relu(), "encoder.0.2").relu()
    logits = affine(hidden, "encoder.0.4").unflatten(-1, (3, 4))
    q = logits.softmax(-1)
    gumbel = -(-noise["0.u"].log()).log()
    b = F.one_hot((logits + gumbel).argmax(-1), 4).double()
    hidden = affine(affine(b.flatten(1), "decoder.0.0").relu(), "decoder.0.2").relu()
    cross_entropy = F.binary_cross_entropy_with_logits(affine(hidden, "decoder.0.4"), x, reduction="none").sum(-1)
    divergence = (q * (q.log() + math.log(4))).sum((-1, -2))
    torch.testing.assert_close(out.metrics["train/relaxed_kl"], -(cross_entropy + divergence).mean())


def test_evaluations_are_on_the_test_images():
    replicas = Replicas(make(), [0, 1], [1e-3])
    list(replicas.advance(3))
    first, second = replicas.evaluate([0, 1], 3, False)
    assert not any(name.startswith("valid/") for name in first) and first["test/elbo_full"] != second["test/elbo_full"]
    assert abs(first["test/elbo_full"] - first["test/elbo"]) < 0.5  # one sample, and a hundred, of 250 images
    (last,) = replicas.evaluate([0], 3, True)
    assert last["test/bound100_full"] >= last["test/elbo_full"] and "best_step" not in last
    pictures = replicas.task.images(replicas.models([0, 1]), 0, 0)
    assert next(iter(pictures)) == "test images above their reconstructions"
