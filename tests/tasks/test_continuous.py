"""``task=continuous``: batches of episodes and their advantages by hand, gradients by autograd, runs, refusals."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from processes import Command, kill, save_always
from running import beside_and_alone, check_complete, execute, resolve, whole
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.envs.slots import Slots
from relax_exp.envs.transitions import Steps, advantages, collect, episodes
from relax_exp.errors import ConfigError, RunError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.continuous import Continuous
from relax_exp.training.episode_batches import Batches

SIZE = {"depth": 1, "width": 5, "activation": "tanh"}
A2C, LAX = {"name": "a2c"} | SIZE, {"name": "lax", "weight_decay": 0.0} | SIZE
F64 = {"dtype": torch.float64}


class Ladder(gymnasium.Env):
    """The state counts the steps; the reward is the clipped action; over by itself after as many steps as its seed."""

    observation_space = gymnasium.spaces.Box(-math.inf, math.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    most = 4

    def reset(self, *, seed=None, options=None):
        self.limit, self.taken = seed or 2, 0
        return np.zeros(1), {}

    def step(self, action):
        self.taken += 1
        return np.array([float(self.taken)]), float(action[0]), self.taken == self.limit, self.taken == self.most, {}


def make(estimator=A2C, **options) -> Continuous:
    return make_task("continuous", estimator, **{"hidden": [6], "batch_size": 30} | F64 | options)


def batch_of(task, seed=0, horizon=7):
    """A batch with steps that are not alive."""

    def drawn(name, *shape):
        return torch.randn((2, horizon, *shape), generator=stream(seed, name), **F64)

    alive = (torch.arange(horizon) < torch.tensor([[5], [7]])).double()
    batch = {"state": drawn("s", task.states), "action": drawn("a", task.actions), "alive": alive}
    return batch | {"advantage": 3 * drawn("A") * alive, "target": drawn("t") * alive}


def model_of(task, seed=0):
    model = task.init(stream(seed, "init"))
    return model._replace(params=model.params | {"log_std": torch.full((task.actions,), -0.4, **F64)})


def test_whole_episodes_until_the_share_is_taken():
    env, quota = Slots([Ladder, Ladder, Ladder]), 5
    normal = torch.zeros(3, quota + Ladder.most - 1, 1)
    normal[1] = 3.0
    steps = collect(env, [3, 9, None], lambda s: (0.25 * s, torch.ones_like(s)), normal, quota)
    assert steps.alive.sum(1).tolist() == [5, 6, 0]  # episodes of 3 and 2 steps, of 4 (the limit) and 2, none
    assert np.argwhere(steps.ended[0]).ravel().tolist() == [2, 4]
    assert np.argwhere(steps.ended[1]).ravel().tolist() == [3, 5]
    assert np.argwhere(steps.terminated[1]).ravel().tolist() == [5], "the time limit ends, but does not terminate"
    assert steps.state[0, :5, 0].tolist() == [0, 1, 2, 0, 1]
    assert steps.following[0, :5, 0].tolist() == [1, 2, 3, 1, 2], "before any reset"
    assert steps.action[0, :3, 0].tolist() == [0, 0.25, 0.5] and steps.reward[0, :3].tolist() == [0, 0.25, 0.5]
    assert (steps.action[1, :6] >= 3).all() and (steps.reward[1, :6] == 1).all(), "clipped for the environment only"
    returns, lengths = episodes(steps, 3)
    assert lengths.tolist() == [[3, 2], [4, 2], [0, 0]]
    assert returns.tolist() == [[0.75, 0.25], [4, 2], [0, 0]]
    returns, lengths = episodes(steps, 1)
    assert lengths.tolist() == [[3, 4, 2, 2]] and returns.tolist() == [[0.75, 4, 0.25, 2]]


def test_advantages_by_hand():
    """Two steps and the time limit, two steps and the end, padding; gamma 1/2, lambda 1/2."""
    flags = {"alive": [1, 1, 1, 1, 0], "terminated": [0, 0, 0, 1, 0], "ended": [0, 1, 0, 1, 0]}
    flags = {k: np.array([v], bool) for k, v in flags.items()}
    steps = Steps(None, None, None, None, score=None, **flags)
    rewards, values = np.array([[1.0, 2, 3, 4, 9]]), np.array([[10.0, 20, 30, 40, 9]])
    following = np.array([[20.0, 50, 40, 60, 9]])
    # TD errors: 1 + 10 - 10, 2 + 25 - 20 (bootstrapped), 3 + 20 - 30, 4 - 40 (nothing follows)
    expected = [1 + 7 / 4, 7, -7 - 36 / 4, -36, 0]
    assert advantages(steps, rewards, values, following, 0.5, 0.5).tolist() == [expected]
    # With lambda = 1 advantage + V is the discounted return, bootstrapped at the limit.
    whole = advantages(steps, rewards, values, following, 0.5, 1.0) + values
    assert whole[0, :4].tolist() == [1 + 1 + 12.5, 2 + 25, 3 + 2, 4]


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_of_a2c_is_that_of_its_loss(normalize):
    task = make(entropy=0.3, normalize=normalize)
    model, batch = model_of(task), batch_of(task)
    got = task.gradients(model, batch, {})

    leaves = tree_map(lambda x: x.clone().requires_grad_(), model.params)
    alive = batch["alive"] == 1
    advantage = batch["advantage"][alive]
    if normalize:
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    hidden = torch.tanh(batch["state"][alive] @ leaves["mean"]["0.weight"].T + leaves["mean"]["0.bias"])
    mean = hidden @ leaves["mean"]["1.weight"].T + leaves["mean"]["1.bias"]
    policy = torch.distributions.Normal(mean, leaves["log_std"].exp())
    log_p = policy.log_prob(batch["action"][alive]).sum(-1)
    loss = -(log_p * advantage).mean() - 0.3 * policy.entropy().sum(-1).mean()
    names = {"entropy": policy.entropy().sum(-1).mean()}
    for ours, theirs in zip(tree_leaves(got.params), torch.autograd.grad(loss, tree_leaves(leaves)), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(got.metrics["entropy"], names["entropy"].detach())
    torch.testing.assert_close(got.loss, -batch["target"][alive].mean())
    assert got.tuning["surrogate"] == {}

    value = {k: v.clone().requires_grad_() for k, v in model.tuning["value"].items()}
    error = (task.value({"value": value}, batch["state"][alive]) - batch["target"][alive]).square().mean()
    for ours, theirs in zip(got.tuning["value"].values(), torch.autograd.grad(error, [*value.values()]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_lax_is_unbiased_for_any_control_variate():
    """Gauss-Hermite nodes as the actions of one state, their weights in the place of ``alive``."""
    x, weight = (torch.from_numpy(it) for it in np.polynomial.hermite_e.hermegauss(80))
    task = make(LAX)
    model, state = model_of(task), torch.tensor([0.3, -0.5, 0.2], **F64)
    loss = lambda a: torch.sin(2 * a) + a.square()  # noqa: E731

    def mean_std(params):
        parameters = task.distribution(params, state.unsqueeze(0)).squeeze()
        return parameters[0], parameters[1].exp()

    mean, std = mean_std(model.params)
    action = (mean + std * x).view(1, -1, 1)
    batch = {"state": state.expand(1, 80, 3), "action": action, "alive": (weight / weight.sum()).unsqueeze(0)}
    batch |= {"advantage": -loss(action).squeeze(-1), "target": torch.zeros(1, 80, **F64)}
    got = task.gradients(model, batch, {}).params

    leaves = tree_map(lambda it: it.clone().requires_grad_(), model.params)
    mean, std = mean_std(leaves)
    expectation = (weight / weight.sum() * loss(mean + std * x)).sum()
    for ours, theirs in zip(tree_leaves(got), torch.autograd.grad(expectation, tree_leaves(leaves)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_the_surrogate_is_fitted_to_the_square_norm_of_the_whole_gradient():
    task = make(LAX | {"weight_decay": 0.1})
    model, batch = model_of(task), batch_of(task)
    gradient = task.gradients(model, batch, {}).tuning["surrogate"]
    step = 1e-5
    for key, direction in ((k, torch.randn(v.shape, generator=stream(1, k), **F64)) for k, v in gradient.items()):

        def objective(amount, key=key, direction=direction):
            surrogate = model.tuning["surrogate"]
            moved = surrogate | {key: surrogate[key] + amount * direction}
            params = task.gradients(model._replace(tuning=model.tuning | {"surrogate": moved}), batch, {}).params
            penalty = 0.05 * sum(v.square().sum() for v in moved.values())
            return sum(leaf.square().sum() for leaf in tree_leaves(params)) + penalty

        slope = (objective(step) - objective(-step)) / (2 * step)
        torch.testing.assert_close((gradient[key] * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_the_published_objective_squares_the_mean_gradient_of_each_episode():
    """Slots of 5 and 7 steps with episodes of 2 and 3, and of 7: the mean of three squares, and the same gradient."""
    task, plain = make(LAX, surrogate_objective="episodes"), make(LAX)
    model, batch = model_of(task), batch_of(task)
    batch["episode"] = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [7] * 7], **F64)
    got = task.gradients(model, batch, {})
    total = 0.0
    for e, start, end in ((0, 0, 2), (0, 2, 5), (1, 0, 7)):
        part = {k: v[e : e + 1, start:end] for k, v in batch.items()}
        total += sum(g.square().sum() for g in tree_leaves(plain.gradients(model, part, {}).params)) / 3
    value_loss = plain.gradients(model, batch, {}).metrics["value_loss"]
    torch.testing.assert_close(got.tuning_loss, total + value_loss)
    for ours, theirs in zip(*(tree_leaves(t.gradients(model, batch, {}).params) for t in (task, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_steps_of_a_batch_know_their_episodes():
    task = make(LAX, surrogate_objective="episodes", env="Pendulum-v1", envs=2, batch_size=402)
    trainer = Batches(task, [0, 1], [1e-3])
    noise = {"act": torch.rand(2, 2, task.horizon, task.actions)}
    batch, _, frames = trainer.play(
        trainer.state.model.params, torch.tensor([[1, 2], [3, 4]]), noise, torch.ones(2) > 0
    )
    assert frames.tolist() == [[200] * 4] * 2, "two episodes in each slot"
    for replica in range(2):
        numbers = [batch["episode"][replica, slot, t].item() for slot in range(2) for t in (0, 199, 200, 399)]
        assert numbers == [0, 0, 1, 1, task.horizon, task.horizon, task.horizon + 1, task.horizon + 1]


def test_value_function_and_surrogate_take_as_many_adam_steps_as_told():
    task = make(LAX, value_updates=3, surrogate_updates=2)
    model, lr = model_of(task), torch.tensor(0.01, **F64)
    moments = {k: tree_map(torch.zeros_like, model.tuning) for k in "mv"}
    reference = tree_map(lambda x: x.clone().requires_grad_(), model.tuning)
    adams = {k: torch.optim.Adam(reference[k].values(), lr=0.01, eps=1e-12) for k in reference}
    for t in (1, 2):
        batch = batch_of(task, seed=t)
        tuning, moments = task.tune(model, task.gradients(model, batch, {}), moments, torch.tensor(t), lr, batch, {})
        model = model._replace(tuning=tuning)
        for key, times in (("value", 3), ("surrogate", 2)):
            for _ in range(times):
                at = model._replace(tuning=tree_map(torch.Tensor.detach, reference))
                for name, g in task.gradients(at, batch, {}).tuning[key].items():
                    reference[key][name].grad = g
                adams[key].step()
    for ours, theirs in zip(tree_leaves(model.tuning), tree_leaves(reference), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", [A2C, LAX], ids=lambda e: e["name"])
def test_replicas_equal_the_runs_made_alone(estimator):
    task = make(estimator, envs=2, value_updates=2, surrogate_updates=2)
    together, alone = beside_and_alone(task, (0.01, 0.001), 2, Batches, 1e-5)
    assert together.records.row(2)["frames"] == alone.records.row(0)["frames"] == 2 * 2 * 200
    assert together.records.row(2)["return"] == pytest.approx(alone.records.row(0)["return"], rel=1e-5)
    assert together.records.row(0)["return"] != together.records.row(2)["return"]


LINE = (
    "task=continuous task.hidden=[5] estimator=lax estimator.width=4 estimator.warmup=2 task.value_updates=3 "
    "batch_size=30 'seeds=[0,1]' steps=5 eval_every=2 task.variance_every=4 task.variance_draws=3 out=run "
)


def test_a_run_and_its_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert execute(LINE) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 5, 5]
    last = rows[-1]
    assert last["episodes"] == 5 and last["frames"] == 1000 and last["solved_episodes"] is None
    assert -2000 < last["return"] < 0 and -2000 < last["return100"] < 0
    assert [("grad/log_variance" in row) for row in rows] == [False] * 2 + [True] * 2 + [False] * 2
    assert {"std", "entropy", "value_loss", "explained_variance", "estimator/penalty"} <= set(last)
    assert "| Pendulum-v1 | lax" in (tmp_path / "run" / "table.md").read_text()


def test_from_python_options_have_their_defaults():
    assert make({"name": "lax"}).weight_decay == 0


def test_killed_and_continued(tmp_path):
    for setup in ([save_always, kill("step", 3)], [kill("append", 2, after=True)]):
        code, output = Command(LINE, tmp_path, *setup).wait()
        assert code == -9, output
    code, output = Command(LINE, tmp_path).wait()
    assert code == 0, output
    check_complete(tmp_path / "run", whole(LINE))


def test_what_is_refused():
    assert resolve("task=continuous estimator=a2c")["estimator"]["activation"] == "elu"
    for line, message in {
        "estimator=reinforce": "reinforce is not for task=continuous: use one of a2c, lax",
        "estimator=lax track=[a2c]": "leave track out",
        "estimator=lax task.trace=1.1": "from 0 to 1",
        "estimator=lax task.value_updates=0": "> 0",
    }.items():
        with pytest.raises(ConfigError, match=message):
            resolve(f"task=continuous {line}")
    with pytest.raises(RunError, match=r"CartPole-v1 has discrete actions.*task=cartpole"):
        make(env="CartPole-v1")
    assert make().threshold == math.inf and make(threshold=-200.0).threshold == -200
