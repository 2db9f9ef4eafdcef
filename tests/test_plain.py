"""The benchmark's plain PyTorch step has our gradients: what is timed beside ours does the same work."""

import pytest
import torch
from plain import PlainVAE

from relax_exp.data import load
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw

CASES = {
    "reinforce": {},
    "concrete": {},
    "rebar tied": {"noise": "tied"},
    "rebar independent": {"noise": "independent"},
    "relax tied": {"noise": "tied", "width": 7, "weight_decay": 1e-3},
    "relax independent": {"noise": "independent", "width": 7, "weight_decay": 1e-3},
    "disarm": {},
    "rloo": {"samples": 4},
}


@pytest.mark.parametrize("score_term", ["dropped", "kept"])
@pytest.mark.parametrize("model", ["linear1", "linear2", "nonlinear"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_ours(model, case, score_term):
    name = case.split()[0]
    estimator = {"name": name, **CASES[case]}
    options = {"latents": 6, "hidden": 5, "batch_size": 4, "score_term": score_term, "dtype": torch.float64}
    task = make_task("vae", estimator, load("digits"), model=model, **options)
    state = task.init(stream(0, "init"))
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
    x = task.data[:4]
    ours = task.gradients(state, {"x": x}, noise)
    plain = PlainVAE(task, state, name, weight_decay=estimator.get("weight_decay", 0.0))
    plain.gradients(x.double(), noise)
    vae = task.hierarchy.vae
    for key, expected in ours.params.items():
        torch.testing.assert_close(vae.get_parameter(key).grad, expected, rtol=1e-8, atol=1e-12, msg=key)
    for layer, expected in zip(task.hierarchy.estimators, ours.tuning, strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(layer.get_parameter(key).grad, value, rtol=1e-7, atol=1e-12, msg=key)
