"""Atari: its gradients, its variance, and whole runs."""

import json
import math

import pytest
import torch
from atari_task import batch_for, make, noise_for
from processes import Command, kill, save_always
from running import check_complete, check_tensorboard, execute, meta

from relax_exp import estimators
from relax_exp.distributions import Categorical
from relax_exp.enumeration.checks import compare, perturbed
from relax_exp.errors import ConfigError, RunError
from relax_exp.models.nature_cnn import nature, pull_back
from relax_exp.numerics.random_streams import stream
from relax_exp.testing import threshold

SHORT = "task=atari device=cpu task.max_frames=160 task.evaluate_episodes=2 task.variance_draws=3 task.envs=4 "


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_the_gradient_of_a2c_is_that_of_its_loss(clip):
    task = make(entropy=0.03, value_coef=0.7, clip=clip)
    model = task.init(stream(0, "init"))
    batch = batch_for(task, model.params)
    got = task.gradients(model, batch, noise_for(task))
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    seen = nature(params, batch["observation"])
    policy = torch.distributions.Categorical(logits=seen.logits)
    log_p = policy.log_prob(batch["action"].squeeze(1).argmax(-1))
    advantage = (batch["return"] - seen.values).detach()
    value_loss = (batch["return"] - seen.values).square().mean()
    loss = -(advantage * log_p).mean() - 0.03 * policy.entropy().mean() + 0.7 * value_loss
    loss.backward()
    size = torch.nn.utils.clip_grad_norm_(params.values(), clip)
    assert float(got.metrics["grad/norm"]) == pytest.approx(float(size))
    assert float(got.loss) == pytest.approx(loss.item())
    for name, leaf in params.items():
        assert torch.allclose(got.params[name], leaf.grad, rtol=1e-5, atol=1e-9), name


def test_relax_begins_as_a2c():
    a2c, relax = make(), make("relax")
    model = relax.init(stream(0, "init"))
    assert any(leaf.abs().sum() > 0 for leaf in model.tuning.values())
    batch, noise = batch_for(relax, model.params), noise_for(relax)
    one, other = relax.gradients(model, batch, noise), a2c.gradients(model._replace(tuning={}), batch, noise)
    for name in one.params:
        assert torch.allclose(one.params[name], other.params[name], rtol=1e-9)
    assert one.tuning["of.network.out.weight"].abs().sum() > 0  # and learns to be something else


def test_relax_is_unbiased_at_fixed_states():
    """Actions drawn from the policy, each with a return of its own: the gradient at the logits, by enumeration."""
    task = make("relax", batch_size=2)
    drawn = task._build(stream(0, "init"))
    tuning = perturbed(drawn.of, stream(0, "tuning"))
    model = task.init(stream(0, "init"))._replace(tuning={f"of.{k}": v for k, v in tuning.items()})
    generator = stream(0, "problem")
    logits = torch.randn(2, 1, task.actions, generator=generator, dtype=task.dtype)
    returns, values = torch.randn(2, task.actions, generator=generator, dtype=task.dtype), torch.tensor([0.4, -1.0])
    features = torch.rand(2, 512, generator=generator, dtype=task.dtype)
    p = logits.squeeze(1).softmax(-1)
    loss = values.unsqueeze(1) - returns
    exact = p * (loss - (p * loss).sum(-1, keepdim=True))

    def one(noise):
        action = Categorical.sample(logits, noise["act"])
        f_b = (action.squeeze(1) * loss).sum(-1)
        out = task._estimate(model, model.tuning, logits, action, f_b, noise, features)
        return out.grad.flatten()

    shapes = {"act": (2, 1, task.actions), **drawn.of.noise_shapes(2)}
    verdict = compare(one, shapes, exact.flatten(), 200_000, stream(0, "draws"), 20_000, rows=2)
    assert max(verdict.largest_z, verdict.row_z) < threshold(verdict.tests), verdict
    assert verdict.variance > 1e-3


def test_the_variance_is_that_of_rows_drawn_again():
    """The variance of the mean of N rows drawn with replacement is their variance over N, in every parameter."""
    task = make(variance_draws=80, dtype=torch.float32)
    model = task.init(stream(0, "init"))
    batch = batch_for(task, model.params)
    seen = batch["seen"]
    advantage = batch["return"] - seen.values
    at_logits = -advantage.unsqueeze(-1) * (batch["action"].squeeze(1) - seen.logits.softmax(-1))
    rows = []
    for i in range(task.batch_size):
        only = at_logits * (torch.arange(task.batch_size) == i).unsqueeze(1)
        grads = pull_back(model.params, seen, only, torch.zeros_like(seen.values))
        rows.append(torch.cat([v.flatten() for k, v in grads.items() if not k.startswith("value.")]))
    exact = torch.stack(rows).var(0, correction=0) / task.batch_size
    got = task.segment_variance(model, batch, 0, 1)
    assert got["grad/log_variance"] == pytest.approx(exact.mean().log().item(), abs=0.5)
    again = task.segment_variance(model, batch, 0, 1)
    assert got == again != task.segment_variance(model, batch, 0, 2)


def test_a_run_on_pong(tmp_path):
    """Two updates: its numbers, its film, its table; and the same command again."""
    line = SHORT + f"estimator=relax batch_size=8 steps=2 eval_every=1 compile=false out={tmp_path / 'run'}"
    assert execute(line) == 0
    rows = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["agent_steps"] for row in rows] == [8, 16]
    assert rows[-1]["frames"] == 64
    for key in ("value_loss", "policy_loss", "entropy", "eval/return", "grad/log_variance", "time/frames_per_second"):
        assert math.isfinite(rows[-1][key]), key
    assert rows[-1]["entropy"] <= math.log(6) + 1e-6
    score = rows[-1]["eval/return"]
    assert rows[-1]["eval/human_normalised"] == pytest.approx((score + 20.7) / (14.6 + 20.7))
    assert (tmp_path / "run" / "episode_seed-0_lr-0.0007.gif").read_bytes().startswith(b"GIF89a")
    assert "human-normalised score" in (tmp_path / "run" / "table.md").read_text()
    assert "played again" in meta(tmp_path / "run")["environment_state"]
    check_tensorboard(tmp_path / "run")
    assert execute(line) == 0


@pytest.mark.slow
def test_killed_and_continued(tmp_path):
    """The command, stopped in the middle, against the command left alone."""
    line = SHORT + "estimator=a2c batch_size=8 steps=8 eval_every=4 compile=false out=run"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert Command(line, tmp_path / "one").wait()[0] == 0
    Command(line, tmp_path / "two", save_always, kill("step", 6)).wait()
    assert Command(line, tmp_path / "two").wait()[0] == 0
    check_complete(tmp_path / "two" / "run", tmp_path / "one" / "run")


@pytest.mark.parametrize(
    "env, text",
    [
        ("ALE/Pnog-v5", "there is no environment ALE/Pnog-v5; did you mean ALE/Pong-v5"),
        ("CartPole-v1", "not an Atari game in its current version: use ALE/NAME-v5"),
        ("PongNoFrameskip-v4", "use ALE/NAME-v5"),
    ],
)
def test_games_that_there_are_not(env, text):
    with pytest.raises(RunError, match=text):
        make(env=env)


@pytest.mark.parametrize(
    "typed, text",
    [
        ("'seeds=[0,1]'", "one replica a run: for several runs type -m seed=0,1,2"),
        ("'lrs=[1e-3,1e-4]'", "one replica a run"),
        ("batch_size=81", "batch_size=81 agent steps in task.envs=16 games: must be a multiple, as 80"),
        ("'track=[relax]'", "leave track out"),
        ("task.sticky=1", "task.sticky"),
    ],
)
def test_configurations_that_cannot_be(typed, text):
    with pytest.raises(ConfigError, match=text):
        execute(f"task=atari estimator=a2c {typed}")


def test_estimators_that_need_more_than_a_sample_are_refused():
    with pytest.raises(ConfigError, match="rebar is not for task=atari: use one of a2c, relax"):
        execute("task=atari estimator=rebar")
    assert {"a2c", "relax"} <= set(estimators.names("categorical"))
