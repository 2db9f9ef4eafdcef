"""Episodes side by side, returns, and the other actions that ARSM tries."""

import itertools

import numpy as np
import pytest
import torch

from relax_exp.distributions import gumbel
from relax_exp.envs import environments, rollout
from relax_exp.errors import RunError
from relax_exp.estimators import arsm
from relax_exp.models.policy import init_policy, policy_logits
from relax_exp.numerics.random_streams import stream

HORIZON = 200


@pytest.fixture(scope="module")
def policy():
    params = init_policy([4, 10, 10, 2], stream(0, "test"))
    return lambda states: policy_logits(params, states)


def noise(slots, purpose="noise"):
    return torch.rand((slots, HORIZON, 2), generator=stream(0, purpose))


def cartpole(slots):
    return environments.make("CartPole-v0", slots)


def test_returns_to_go_by_hand():
    rewards = np.array([[1.0, 2.0, 4.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    alive = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    played = rollout.Rollout(np.zeros((2, 4, 1)), np.zeros((2, 4), int), rewards, alive)
    assert played.returns(0.5).tolist() == [[3.0, 4.0, 4.0, 0.0], [3.0, 0.0, 0.0, 0.0]]


def test_an_episode_is_the_same_in_any_slot(policy):
    u, seeds = noise(3), [4, 5, 6]
    together = rollout.roll_out(cartpole(3), seeds, policy, u)
    for i, seed in enumerate(seeds):
        alone = rollout.roll_out(cartpole(1), [seed], policy, u[i : i + 1])
        for one, many in zip(alone, together, strict=True):
            assert (one[0] == many[i]).all()


def test_an_episode_is_what_gymnasium_does(policy):
    u = noise(1)
    played = rollout.roll_out(cartpole(1), [7], policy, u)
    env = environments.make("CartPole-v0", 1).envs[0]
    state, over, t = env.reset(seed=7)[0], False, 0
    while not over:
        assert (played.states[0, t] == state).all() and played.alive[0, t]
        action = int((policy(torch.from_numpy(state)[None]) + gumbel(u[:, t])).argmax())
        state, reward, terminated, truncated, _ = env.step(action)
        assert played.actions[0, t] == action and played.rewards[0, t] == reward
        over, t = terminated or truncated, t + 1
    assert t < HORIZON and not played.alive[0, t:].any() and not played.rewards[0, t:].any()
    assert not played.states[0, t:].any()


def test_pseudo_actions_are_those_of_all_swaps():
    generator = stream(1, "test")
    logits, u = (torch.rand((50, 4), generator=generator, dtype=torch.float64) for _ in range(2))
    alive = torch.arange(50) < 40
    asked = arsm.pseudo_actions(3 * logits, u, alive)
    for n in range(50):
        log_p, g = (3 * logits[n]).log_softmax(-1), gumbel(u[n])
        expected = set()
        for i, j in itertools.combinations(range(4), 2):
            swapped = g.clone()
            swapped[[i, j]] = g[[j, i]]
            expected.add(int((log_p + swapped).argmax()))
        expected -= {int((log_p + g).argmax())}
        assert set(asked[n].nonzero().flatten().tolist()) == (expected if n < 40 else set())


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
def test_choosing_some_has_the_sum_over_all_as_its_mean(limit):
    """Exactly: over all orders in which the keys may come."""
    asked = torch.tensor([[True, False], [True, True], [False, True]])
    values, orders = torch.arange(1.0, 7.0, dtype=torch.float64), list(itertools.permutations(range(6)))
    keys = (torch.tensor(orders, dtype=torch.float64) / 6).unflatten(-1, (3, 2))
    index, weight = arsm.choose(asked.expand(len(orders), 3, 2), keys, limit)
    assert ((weight > 0).sum(-1) == min(limit, 4)).all()
    means = (weight * values[index]).sum(-1)
    assert torch.isclose(means.mean(), (values * asked.flatten()).sum())


def test_no_pseudo_action_at_all():
    index, weight = arsm.choose(torch.zeros(2, 3, 2, dtype=torch.bool), torch.rand(2, 3, 2), 4)
    assert index.shape == weight.shape == (2, 4) and not weight.any()


def test_values_of_actions_by_hand():
    losses = torch.tensor([[1.0, 2.0]])
    index, weight, chosen = torch.tensor([[3, 0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 9.0]])
    values = arsm.action_values(losses, index, weight, chosen, 2)
    assert values.tolist() == [[[1.0, 1.0], [2.0, 2.0 + 2 * (5.0 - 2.0)]]]


def test_a_replay_takes_another_action_and_goes_on(policy):
    played = rollout.roll_out(cartpole(2), [1, 2], policy, noise(2))
    t = torch.tensor([[0, 5], [9, 3]])
    other = 1 - torch.from_numpy(played.actions).gather(1, t)
    weight = torch.tensor([[2.0, 2.0], [1.0, 0.0]])
    u = noise(4, "replay")
    returns, after = rollout.replay(cartpole(4), [1, 2], policy, u, played, 2 * t + other, weight, 0.9)
    assert returns[1, 1] == 0  # nobody asked
    counts = np.zeros(2, int)
    for k, (slot, at) in enumerate([(0, 0), (0, 5), (1, 9)]):
        env = environments.make("CartPole-v0", 1).envs[0]
        state, over, now, total = env.reset(seed=slot + 1)[0], False, 0, 0.0
        while not over:
            action = int((policy(torch.from_numpy(state)[None]) + gumbel(u[k : k + 1, now])).argmax())
            if now < at:
                action = int(played.actions[slot, now])
            if now == at:
                action = 1 - int(played.actions[slot, now])
            state, reward, terminated, truncated, _ = env.step(action)
            total += 0.9 ** (now - at) * reward * (now >= at)
            over, now = terminated or truncated, now + 1
        assert float(returns.flatten()[k]) == pytest.approx(total)
        counts[slot] += now - at
    assert after.tolist() == counts.tolist()


def test_an_environment_that_does_not_repeat_itself(policy, monkeypatch):
    played = rollout.roll_out(cartpole(1), [1], policy, noise(1))
    env = cartpole(1)
    reset = env.envs[0].reset
    monkeypatch.setattr(env.envs[0], "reset", lambda seed, options: reset(seed=seed + 1, options=options))
    with pytest.raises(RunError, match="CartPole-v0 does not repeat an episode from its seed"):
        rollout.replay(env, [1], policy, noise(1), played, torch.tensor([[2]]), torch.ones(1, 1), 0.9)
