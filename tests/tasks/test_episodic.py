"""Gradients of a policy from episodes against plain autograd, row for row."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from relax_exp import estimators
from relax_exp.config.resolve import task_options
from relax_exp.estimators import SMALL
from relax_exp.models.policy import init_policy, policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import draw
from relax_exp.tasks.episodic import PolicyTask

OPTIONS = {
    "relax": {"surrogate": "network", "weight_decay": 0.1, **SMALL},
    "lax": {"weight_decay": 0.1, **SMALL},
    "rloo": {"samples": 3},
}


def make(name, horizon=6, advantage=None, batch_size=1, **options) -> PolicyTask:
    section = {"name": name, **OPTIONS.get(name, {})} | ({"advantage": advantage} if advantage else {})
    return PolicyTask(
        section, task_options("cartpole", **options), 4, 3, horizon, batch_size=batch_size, dtype=torch.float64
    )


def episodes(task, lengths, seed=0):
    """A batch with episodes of these lengths, and noise."""
    generator = stream(seed, "episodes")
    count, size = len(lengths), task.horizon
    alive = (torch.arange(size) < torch.tensor(lengths).unsqueeze(1)).double()
    u = torch.rand((count, size, task.actions), generator=generator)
    batch = {
        "state": torch.randn((count, size, task.states), generator=generator, dtype=torch.float64),
        "action": torch.nn.functional.one_hot(u.argmax(-1), task.actions).double(),
        "loss": torch.randn((count, size), generator=generator, dtype=torch.float64) * alive,
        "alive": alive,
    }
    if task.replayed:
        batch["values"] = torch.randn((*u.shape,), generator=generator, dtype=torch.float64)
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, generator, torch.float64).items()}
    return batch, noise


def moved(task):
    """A model away from where it starts."""
    model = task.init(stream(0, "init"))
    generator = stream(0, "moved")

    def move(tree):
        return {k: v + 0.2 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in tree.items()}

    return model._replace(params=move(model.params), tuning=move(model.tuning))


@pytest.mark.parametrize("discounted", [False, True])
def test_reinforce_is_the_gradient_of_the_weighted_log_probabilities(discounted):
    task = make("reinforce", batch_size=2, gamma=0.9, entropy=0.3, discount_weight=discounted)
    model, (batch, noise) = moved(task), episodes(task, [6, 3])
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    total = 0.0
    for e, length in enumerate([6, 3]):
        for t in range(length):
            log_p = policy_logits(params, batch["state"][e, t : t + 1])[0].log_softmax(-1)
            chosen = log_p[batch["action"][e, t].argmax()]
            total = total + (0.9**t if discounted else 1.0) * batch["loss"][e, t] * chosen
            total = total + 0.3 * (log_p.exp() * log_p).sum()
    expected = torch.autograd.grad(total / 2, [*params.values()])
    got = task.gradients(model, batch, noise)
    for name, value in zip(params, expected, strict=True):
        assert torch.allclose(got.params[name], value), name
    assert torch.isclose(got.loss, batch["loss"][:, 0].mean())


def test_a2c_fits_its_critic_on_the_steps_of_the_episodes_only():
    task = make("a2c", batch_size=2)
    model, (batch, noise) = moved(task), episodes(task, [6, 2])
    critic = task.row.of
    tuning = {k.removeprefix("of."): v.clone().requires_grad_() for k, v in model.tuning.items()}

    class Value(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = critic.critic

        def forward(self, x):
            return self.critic(x)

    there = batch["alive"] > 0
    error = (batch["loss"][there] - functional_call(Value(), tuning, (batch["state"][there],))).square().mean()
    expected = torch.autograd.grad(error, [*tuning.values()])
    got = task.gradients(model, batch, noise)
    assert torch.isclose(got.tuning_loss, error)
    for value, other in zip(got.tuning.values(), expected, strict=True):
        assert torch.allclose(value, other)


def test_the_published_advantage_is_a_matrix_of_all_pairs_of_steps():
    """As that code writes it: losses (T,) minus values (T, 1), times the log-probabilities (T,), all of it summed."""
    lengths = [6, 2]
    task = make("a2c", batch_size=2, entropy=0.0, advantage="published_error")
    model, (batch, noise) = moved(task), episodes(task, lengths)
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    critic = {k.removeprefix("of.critic."): v for k, v in model.tuning.items()}
    total = 0.0
    for e, t in enumerate(lengths):
        states, actions, losses = (batch[key][e, :t] for key in ("state", "action", "loss"))
        values = functional_call(task.row.of.critic, critic, (states,)).unsqueeze(1)
        log_p = (policy_logits(params, states).log_softmax(-1) * actions).sum(-1)
        advantage = losses - values
        assert advantage.shape == (t, t)
        total = total + (advantage * log_p).sum() / 2
    expected = torch.autograd.grad(total, [*params.values()])
    got, right = task.gradients(model, batch, noise), make("a2c", batch_size=2, entropy=0.0)
    for name, value in zip(params, expected, strict=True):
        assert torch.allclose(got.params[name], value), name
    other = right.gradients(model, batch, noise)
    assert torch.isclose(got.tuning_loss, other.tuning_loss)  # the critic is fitted as it should be
    assert not torch.allclose(got.params["0.weight"], other.params["0.weight"])


@pytest.mark.parametrize("name", ["relax", "lax"])
def test_the_control_variate_is_tuned_by_the_squared_gradient_of_the_policy(name):
    task = make(name, batch_size=2, entropy=0.5)
    model, (batch, noise) = moved(task), episodes(task, [5, 3])

    def objective(tuning):
        out = make(name, batch_size=2, entropy=0.0).gradients(model._replace(tuning=tuning), batch, noise)
        weights = sum(v.square().sum() for k, v in tuning.items() if ".network." in k)
        return sum(g.square().sum() for g in out.params.values()) + 0.1 * 0.5 * weights

    got = task.gradients(model, batch, noise)
    assert torch.isclose(got.tuning_loss, objective(model.tuning))
    for key, value in model.tuning.items():
        step = torch.zeros_like(value)
        step.view(-1)[-1] = 1e-6
        ends = [objective(model.tuning | {key: value + sign * step}) for sign in (1, -1)]
        assert float(got.tuning[key].view(-1)[-1]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_rloo_takes_the_other_episodes_returns_as_baseline():
    task = make("rloo", entropy=0.0)
    model, (batch, noise) = moved(task), episodes(task, [6, 4, 1])
    losses = batch["loss"]
    signal = torch.stack([losses[e] - (losses.sum(0) - losses[e]) / 2 for e in range(3)])
    plain = make("reinforce", batch_size=3, entropy=0.0)
    expected = plain.gradients(moved(plain), batch | {"loss": signal * batch["alive"]}, noise)
    got = task.gradients(model, batch, noise)
    for key, value in expected.params.items():
        assert torch.allclose(got.params[key], value)


def test_groups_of_rloo_do_not_mix():
    """Two groups of three: the mean of their gradients."""
    both = make("rloo", batch_size=2)
    batch, noise = episodes(both, [6, 2, 3, 1, 5, 4])
    got = both.gradients(moved(both), batch, noise).params
    one, parts = make("rloo"), []
    for group in range(2):
        part = {k: v.unflatten(0, (3, 2))[:, group] for k, v in batch.items()}
        parts.append(one.gradients(moved(one), part, noise).params)
    for key, value in got.items():
        assert torch.allclose(value, (parts[0][key] + parts[1][key]) / 2)


@pytest.mark.parametrize("name", estimators.FROM_EPISODES)
def test_what_lies_beyond_an_episode_changes_nothing(name):
    task = make(name, batch_size=2)
    count = task.episodes
    lengths = [6, 3, 1, 5, 2, 4][:count]
    batch, noise = episodes(task, lengths)
    beyond = batch["alive"] == 0
    other = {k: v.clone() for k, v in batch.items()}
    other["state"][beyond], other["action"][beyond] = 7.0, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if "values" in other:
        other["values"][beyond] = 5.0
    one, two = (task.gradients(moved(task), x, noise) for x in (batch, other))
    for part in ("params", "tuning", "buffers", "metrics"):
        for key, value in getattr(one, part).items():
            assert torch.allclose(value, getattr(two, part)[key], atol=1e-12), (part, key)
    assert torch.isclose(one.tuning_loss, two.tuning_loss)


@pytest.mark.parametrize("name", sorted({*estimators.FROM_EPISODES} - {"relax", "lax", "arsm"}))  # these draw noise
def test_padding_to_a_longer_limit_changes_nothing(name):
    lengths = [5, 3, 4][: make(name).episodes]
    short, long = make(name), make(name, horizon=9)
    batch, noise = episodes(short, lengths)
    padded = {k: torch.cat([v, v.new_zeros(v.shape[0], 3, *v.shape[2:])], 1) for k, v in batch.items()}
    one, two = short.gradients(moved(short), batch, noise), long.gradients(moved(long), padded, noise)
    for part in ("params", "tuning", "buffers"):
        for key, value in getattr(one, part).items():
            assert torch.allclose(value, getattr(two, part)[key]), (part, key)


def test_arsm_with_two_actions_is_arm():
    """(f1 - f2) (u - 1/2) along the first logit, whatever was done."""
    task = PolicyTask(
        {"name": "arsm"}, task_options("cartpole", entropy=0.0, hidden=[]), 4, 2, 5, batch_size=1, dtype=torch.float64
    )
    model, (batch, noise) = moved(task), episodes(task, [5])
    logits, u = policy_logits(model.params, batch["state"][0]), noise["act"][0]
    e = -u.log()
    pi = e / e.sum(-1, keepdim=True)
    done = (logits - e.log()).argmax(-1)
    instead = (logits - e.flip(-1).log()).argmax(-1)
    f, g = (batch["values"][0].gather(-1, x.unsqueeze(-1)).squeeze(-1) for x in (done, instead))
    slope = (f - g) * (0.5 - pi[:, 0])
    expected = torch.stack([slope, -slope], -1).T @ batch["state"][0]
    assert torch.allclose(task.gradients(model, batch, noise).params["0.weight"], expected)


def test_the_policys_network():
    params = init_policy([3, 10, 10, 2], stream(0, "init"))
    assert [v.shape for v in params.values()] == [(10, 3), (10,), (10, 10), (10,), (2, 10), (2,)]
    assert not any(v.any() for k, v in params.items() if k.endswith("bias"))
    for i, gain in ((1, 2.0), (2, 1.0)):
        weight = params[f"{i}.weight"]
        assert torch.allclose(weight @ weight.T, gain * torch.eye(len(weight)), atol=1e-5)
    x = torch.randn(5, 3, generator=stream(0, "x"))
    layers = [nn.Linear(a, b) for a, b in ((3, 10), (10, 10), (10, 2))]
    for i, layer in enumerate(layers):
        layer.weight.data, layer.bias.data = params[f"{i}.weight"], params[f"{i}.bias"]
    expected = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])(x)
    assert torch.allclose(policy_logits(params, x), expected, atol=1e-6)
    both = policy_logits({k: torch.stack([v, 2 * v]) for k, v in params.items()}, torch.stack([x, x]))
    assert torch.allclose(both[0], expected, atol=1e-6)
