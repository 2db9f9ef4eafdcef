"""What a run has trained comes back by name, and evaluates to the numbers that the run has logged."""

import json
import shutil

import pytest
import torch
from running import TOY, VAE, execute, stop, whole

from relax_exp.errors import RunError
from relax_exp.numerics.trees import stack
from relax_exp.runs.trained import load


@pytest.mark.parametrize("line", [TOY, VAE])
def test_the_last_evaluation_comes_out_again(line):
    path = whole(line)
    logged = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()][-2:]
    found = load(path)
    assert [(it.seed, it.lr, it.step) for it in found] == [(row["seed"], row["lr"], row["step"]) for row in logged]
    models = stack([it.model for it in found])
    for measured, row in zip(found[0].task.evaluate(models, [0, 1], found[0].step, False), logged, strict=True):
        assert measured == {key: row[key] for key in measured}


def test_parameters_have_names():
    (first, _) = load(whole(VAE))
    assert first.model.params["decoder.0.weight"].shape == (64, 3)
    assert set(first.best["params"]) == set(first.model.params) and 0 < first.best["step"] <= 24


def test_policies_and_unfinished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute("task=cartpole estimator=a2c steps=2 eval_every=1 task.max_steps=5 out=run")
    (policy,) = load("run")
    assert policy.step == 2 and policy.best is None
    stop(TOY.replace("out=run", "out=run-stopped"), 40)
    first, _ = load("run-stopped")
    assert first.step == 40 and torch.isfinite(first.model.params["logit"]).all()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.yaml"):
        load(tmp_path)
    shutil.copy(whole(TOY) / "config.yaml", tmp_path)
    with pytest.raises(RunError, match=r"has no checkpoint\.pt"):
        load(tmp_path)
