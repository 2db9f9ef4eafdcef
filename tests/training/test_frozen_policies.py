"""Policies that are frozen at a return: the same for every estimator, kept while it is tuned, and measured."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from relax_exp.config import yaml_files
from relax_exp.config.resolve import resolve
from relax_exp.errors import RunError
from relax_exp.runs.build import build_task, build_trainer
from relax_exp.training import frozen_policies
from relax_exp.training.episodes import log_signal

RUN = "task=cartpole task.max_steps=40 task.entropy=0 seeds=[0,1] task.variance_draws=30 "


def trainer(line):
    words = (RUN + line).split()
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        config = resolve(compose("config", words), words)
    device = torch.device("cpu")
    return build_trainer(build_task(config, device), config["seeds"], config["lrs"], device, False)


def test_all_estimators_meet_the_same_policies_which_do_not_learn():
    found = {}
    for name in ("a2c", "relax", "arsm"):
        one = trainer(f"estimator={name} task.freeze_at=25")
        start = {k: v.clone() for k, v in one.state.model.tuning.items()}
        list(one.advance(1))
        params = {k: v.clone() for k, v in one.state.model.params.items()}
        list(one.advance(2))
        assert all(torch.equal(params[k], v) for k, v in one.state.model.params.items())
        assert name == "arsm" or any(not torch.equal(start[k], v) for k, v in one.state.model.tuning.items())
        (row, _) = one.variance(3)
        assert row["grad/log_variance"] > row["grad/log_signal"]
        found[name] = params
    for key, value in found["a2c"].items():
        assert torch.equal(value, found["relax"][key]) and torch.equal(value, found["arsm"][key])


def test_a_warm_up_is_at_the_frozen_policies():
    one, other = (trainer(f"estimator=relax estimator.warmup={n} task.freeze_at=25") for n in (2, 0))
    list(one.warm_up(2))
    list(other.advance(1))
    assert all(torch.equal(other.state.model.params[k], v) for k, v in one.state.model.params.items())
    list(one.advance(1))
    assert all(torch.equal(other.state.model.params[k], v) for k, v in one.state.model.params.items())


def test_a_return_that_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(frozen_policies, "MOST", 25)
    one = trainer("estimator=a2c task.freeze_at=1000")
    with pytest.raises(
        RunError, match=r"task\.freeze_at=1000: the policies of seeds 0, 1 do not return so much within 25"
    ):
        next(one.advance(1))


def test_the_signal_is_the_square_of_the_mean_without_its_noise():
    generator = torch.Generator().manual_seed(0)
    draws = 0.5 + torch.randn((50, 20_000), generator=generator, dtype=torch.float64)
    assert draws.mean(0).square().mean() > 0.265, "noise adds 1 / 50"
    assert float(log_signal(draws).exp()) == pytest.approx(0.25, rel=0.02)
