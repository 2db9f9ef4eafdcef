"""Slots of environments, and errors that say what to do."""

import gymnasium
import numpy as np
import pytest
import torch

from relax_exp.envs import environments
from relax_exp.envs.cartpole_slots import CartPoles
from relax_exp.envs.rollout import roll_out
from relax_exp.envs.slots import Slots
from relax_exp.errors import RunError
from relax_exp.models.policy import init_policy, policy_logits


@pytest.mark.parametrize(
    "env_id, actions, message",
    [
        ("CartPol-v1", "discrete", "there is no environment CartPol-v1; did you mean CartPole-v1"),
        ("CartPole-v7", "discrete", "did you mean CartPole-v1"),
        ("Pendulum-v1", "discrete", "Pendulum-v1 has continuous actions, not discrete ones: use task=continuous"),
        ("CartPole-v1", "continuous", "has discrete actions, not continuous ones: use task=cartpole or task=atari"),
        ("FrozenLake-v1", "discrete", "observations of kind Discrete"),
        ("Blackjack-v1", "discrete", "observations of kind Tuple"),
        ("nowhere:Game-v0", "discrete", "nowhere:Game-v0 needs a package that is not there"),
    ],
)
def test_an_environment_that_cannot_be_made(env_id, actions, message):
    with pytest.raises(RunError, match=message):
        environments.make(env_id, 2, actions)


@pytest.mark.parametrize("env_id, extra", [("LunarLander-v3", "box2d"), ("InvertedPendulum-v5", "mujoco")])
def test_a_missing_package_is_named_by_its_extra(env_id, extra, monkeypatch):
    def make(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("A library is not installed, run `pip install it`")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(RunError, match=rf"\(A library is not installed\): pip install 'relax-exp\[{extra}\]'"):
        environments.make(env_id, 1)


def test_slots_rest_once_their_episode_is_over():
    env = environments.make("CartPole-v0", 3)
    env.reset(seed=[1, 2, 1])
    lengths, last = np.zeros(3, int), None
    for step in range(300):
        awake = env.awake.copy()
        if not awake.any():
            break
        states, rewards, *_ = env.step(np.array([0, step % 2, 0]))
        assert (rewards == awake).all()
        if last is not None:
            assert (states[~awake] == last[~awake]).all()
        lengths, last = lengths + awake, states.copy()
        assert (states[0] == states[2]).all()
    assert lengths[0] == lengths[2] < 15 < lengths[1]


def test_slots_without_a_seed_go_on_resting():
    env = environments.make("CartPole-v0", 2)
    first, _ = env.reset(seed=[5, None])
    assert env.awake.tolist() == [True, False]
    first = first[0].copy()
    env.step(np.array([1, 1]))
    again, _ = env.reset(seed=[None, 5])
    assert env.awake.tolist() == [False, True] and (again[1] == first).all()


def test_continuous_actions():
    env = environments.make("Pendulum-v1", 2, "continuous", max_episode_steps=3)
    env.reset(seed=[0, 1])
    for _ in range(3):
        _, rewards, _, truncations, _ = env.step(np.zeros((2, 1), np.float32))
        assert (rewards < 0).all()
    assert truncations.all() and not env.awake.any()


class Counting(gymnasium.Env):
    """Five steps; the state is (t, -t), the reward the action."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t, -self.t], np.float32), float(action), self.t == 5, False, {}


def test_repeated_actions_sum_rewards_and_take_the_maximum_of_two_states():
    env = environments.Repeating(Counting(), 4)
    env.reset()
    state, reward, over, *_ = env.step(2)
    assert state.tolist() == [4, -3] and reward == 8 and not over
    state, reward, over, *_ = env.step(1)
    assert state.tolist() == [5, -5] and reward == 1 and over


def test_a_time_limit_counts_the_steps_of_the_environment():
    plain, repeated = (environments.make("CartPole-v1", 1, frame_skip=n, max_episode_steps=6) for n in (1, 4))
    for env, actions in ((plain, 6), (repeated, 2)):
        env.reset(seed=[3])
        taken, total = 0, 0.0
        while env.awake.any():
            total += float(env.step(np.array([taken % 2]))[1][0])
            taken += 1
        assert taken == actions and total == 6


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_cartpole_in_arrays_is_that_of_single_environments_bit_by_bit(frame_skip):
    """Through whole episodes that end by a fall, by the track's end and by the time limit, and the next ones."""
    single = Slots(
        [lambda: environments.Repeating(gymnasium.make("CartPole-v1", max_episode_steps=90), frame_skip)] * 6
    )
    together = environments.make("CartPole-v1", 6, frame_skip=frame_skip, max_episode_steps=90)
    assert isinstance(together, CartPoles)
    generator, ends = np.random.default_rng(0), np.zeros(2, int)
    for seeds in ([1, 2, 3, 4, 5, 6], [7, None, 8, None, 9, 10]):
        found = [env.reset(seed=seeds)[0].copy() for env in (single, together)]
        while together.awake.any():
            assert np.array_equal(*found) and np.array_equal(single.awake, together.awake)
            state = found[0]
            balancing = state @ [0.0, 0.2, 1.0, 0.3] > 0
            actions = np.where(np.arange(6) < 4, balancing, generator.integers(2, size=6)).astype(int)
            actions[3] = 1
            pairs = list(zip(single.step(actions)[:4], together.step(actions)[:4], strict=True))
            assert all(np.array_equal(one, other) for one, other in pairs)
            found = [x.copy() for x in pairs[0]]
        assert not single.awake.any()
        ends += [together.terminated.sum(), together.truncated.sum()]
    assert (ends > 0).all()


def test_other_environments_stay_as_they_are():
    assert type(environments.make("CartPole-v0", 1, render_mode="rgb_array")) is Slots
    assert type(environments.make("Acrobot-v1", 1)) is Slots


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_a_time_step_as_a_program_plays_the_same_episodes(frame_skip):
    """Two replicas of three slots, not compiled here; a slot without a seed rests."""
    env = environments.make("CartPole-v1", 6, frame_skip=frame_skip, max_episode_steps=200)
    params = [init_policy([4, 5, 2], torch.Generator().manual_seed(i)) for i in range(2)]
    params = {k: torch.stack([one[k] for one in params]) for k in params[0]}
    noise = torch.rand((6, 200 // frame_skip, 2), generator=torch.Generator().manual_seed(9))

    def policy(states):
        return policy_logits(params, states.unflatten(0, (2, 3))).flatten(0, 1)

    seeds = [1, 2, None, 3, 4, 5]
    expected = roll_out(env, seeds, policy, noise)
    env.program = env.time_step
    got = env.play(seeds, params, noise)
    assert np.array_equal(expected.actions, got.actions) and np.array_equal(expected.alive, got.alive)
    assert np.array_equal(expected.rewards, got.rewards) and got.rewards.dtype == expected.rewards.dtype
    np.testing.assert_allclose(got.states, expected.states, rtol=1e-6, atol=1e-7)
    assert len({*expected.alive.sum(1)}) >= 3 and not expected.alive[2].any()


@pytest.mark.parametrize("changed, fits", [({}, True), ({"sutton_barto_reward": True}, False)])
def test_only_the_cartpole_that_is_computed_is_computed_together(changed, fits):
    assert CartPoles.fits(gymnasium.make("CartPole-v1", disable_env_checker=True, **changed)) is fits
