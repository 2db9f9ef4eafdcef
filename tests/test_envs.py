"""Slots of environments, and errors that say what to do."""

import gymnasium
import numpy as np
import pytest

from relax_exp import envs
from relax_exp.folder import RunError


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
        envs.make(env_id, 2, actions)


@pytest.mark.parametrize("env_id, extra", [("LunarLander-v3", "box2d"), ("InvertedPendulum-v5", "mujoco")])
def test_a_missing_package_is_named_by_its_extra(env_id, extra, monkeypatch):
    def make(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("A library is not installed, run `pip install it`")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(RunError, match=rf"\(A library is not installed\): pip install 'relax-exp\[{extra}\]'"):
        envs.make(env_id, 1)


def test_slots_rest_once_their_episode_is_over():
    env = envs.make("CartPole-v0", 3, resting=True)
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
    env = envs.make("CartPole-v0", 2, resting=True)
    first, _ = env.reset(seed=[5, None])
    assert env.awake.tolist() == [True, False]
    first = first[0].copy()
    env.step(np.array([1, 1]))
    again, _ = env.reset(seed=[None, 5])
    assert env.awake.tolist() == [False, True] and (again[1] == first).all()


def test_continuous_actions():
    env = envs.make("Pendulum-v1", 2, "continuous", resting=True, max_episode_steps=3)
    env.reset(seed=[0, 1])
    for _ in range(3):
        _, rewards, _, truncations, _ = env.step(np.zeros((2, 1), np.float32))
        assert (rewards < 0).all()
    assert truncations.all() and not env.awake.any()
