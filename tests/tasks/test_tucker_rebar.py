"""REBAR as its authors' code has it: the options of ``rebar`` that ``experiment=tucker_rebar`` sets.

That its gradient is right is decided in test_verify.py.
"""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.utils._pytree import tree_map

from relax_exp import estimators
from relax_exp.config.resolve import resolve
from relax_exp.config.yaml_files import CONFIGS
from relax_exp.data import load
from relax_exp.estimators import registry
from relax_exp.models.mlp import he_
from relax_exp.models.vae import DiscreteVAE, Layer
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw
from relax_exp.tasks.vae import VAE

TUCKER = {"name": "rebar", **registry.TUCKER}


def make(estimator=TUCKER, **options) -> VAE:
    options = {"model": "linear2", "latents": 4, "batch_size": 5, "dtype": torch.float64} | options
    return make_task("vae", estimator, load("digits"), **options)


def drawn(task: VAE):
    model = tree_map(lambda x: x, task.init(stream(0, "init")))
    noise = draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64)
    return model, {"x": task.data[:5]}, {k: v[0] for k, v in noise.items()}


def test_the_preset_has_them_all():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        resolved = resolve(compose("config", ["experiment=tucker_rebar"]), ["experiment=tucker_rebar"])
    assert {k: resolved["estimator"][k] for k in registry.TUCKER} == registry.TUCKER
    assert resolved["estimator"]["lr_scale"] == 10
    assert resolved["task"]["score_term"] == "dropped"
    assert resolved["lrs"] == [3e-4]


def test_the_relaxation_tends_to_the_mean():
    rebar = estimators.build("rebar", event_shape=(3,), relaxation="muprop").double()
    logits, z = torch.tensor([[-2.0, 0.3, 1.0]]).double(), torch.tensor([[4.0, -1.0, 0.5]]).double()
    soft = rebar.soften(z, logits, torch.tensor(1e6).double())
    torch.testing.assert_close(soft, torch.sigmoid(logits), rtol=0, atol=1e-5)
    half = torch.tensor(0.5).double()
    torch.testing.assert_close(rebar.soften(z, logits, half), torch.sigmoid(z / 0.5 + 0.5 / 1.5 * logits))


@pytest.mark.parametrize("eta", [0.25, 1.0, 1.75])
def test_a_bounded_eta_starts_where_it_is_told(eta):
    rebar = estimators.build("rebar", bounded_eta=True, eta=eta)
    assert rebar.scale.item() == pytest.approx(eta)
    with torch.no_grad():
        rebar.eta.fill_(100.0)
    assert rebar.scale.item() == 2.0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 2, so not eta=2\.5"):
        estimators.build("rebar", bounded_eta=True, eta=2.5)
    rebar = estimators.build("rebar", baseline="input", context_shape=(2,))
    with pytest.raises(ValueError, match="pass context="):
        rebar(torch.zeros(1, 1), lambda b: b.sum(-1), generator=torch.Generator())


def test_layers_share_temperature_and_baseline():
    task = make()
    model, batch, noise = drawn(task)
    out = task.gradients(model, batch, noise)
    first, second = out.tuning
    assert first["log_temperature"] != 0 and first["baseline.out.weight"].abs().sum() > 0
    for name, gradient in second.items():
        assert (gradient == 0).all() == (name != "eta"), name
    moved = [model.tuning[0], {**model.tuning[1], "log_temperature": torch.tensor(3.0).double()}]
    torch.testing.assert_close(task.gradients(model._replace(tuning=moved), batch, noise).params, out.params)


def test_the_objective_is_the_mean_square_over_all_parameters_of_the_encoder():
    """With the direct part gone, all of the encoder's gradient is in it; and its derivative is the tuning gradient."""
    task = make()
    model, batch, noise = drawn(task)
    out = task.gradients(model, batch, noise)
    encoder = torch.cat([g.flatten() for k, g in out.params.items() if k.startswith("encoder.")])
    assert out.tuning_loss.item() == pytest.approx(encoder.square().mean().item(), rel=1e-10)

    def loss(name, index, step):
        tuning = [dict(layer) for layer in model.tuning]
        moved = tuning[0][name].clone()
        moved.view(-1)[index] += step
        tuning[0][name] = moved
        return task.gradients(model._replace(tuning=tuning), batch, noise).tuning_loss

    for name in ("log_temperature", "eta", "baseline.hidden.0.weight", "baseline.out.bias"):
        slope = (loss(name, 0, 1e-5) - loss(name, 0, -1e-5)) / 2e-5
        torch.testing.assert_close(out.tuning[0][name].view(-1)[0], slope, rtol=1e-5, atol=1e-9)


def test_weights_of_variance_two_over_inputs():
    vae = DiscreteVAE([Layer("bernoulli", (300,))], torch.full((200,), 0.5))
    he_(vae, stream(0, "weights"))
    for weight, inputs in ((vae.encoder[0].weight, 200), (vae.decoder[0].weight, 300)):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.02)
    assert not torch.equal(
        make(initial_weights="he").init(stream(0, "a")).params["encoder.0.weight"],
        make().init(stream(0, "a")).params["encoder.0.weight"],
    )
