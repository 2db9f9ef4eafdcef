"""Several slots of an environment side by side, which rest once their episode is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor


class Rollout(NamedTuple):
    """An episode in each slot, with zeros from its end to the time limit T.

    States are ``(slots, T, S)``, the rest ``(slots, T)``.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    alive: np.ndarray

    def returns(self, gamma: float) -> np.ndarray:
        """Compute the discounted returns-to-go sum_k gamma^k r_(t+k), ``(slots, T)``, 0 beyond the end."""
        returns, last = np.zeros_like(self.rewards), np.zeros(len(self.rewards))
        for t in reversed(range(int(self.alive.sum(1).max(initial=0)))):
            last = self.rewards[:, t] + gamma * last
            returns[:, t] = last
        return returns


class Slots(VectorEnv):
    """Slots that rest once their episode is over, until the next reset: their reward is 0 then, their state stays.

    What `reset` and `step` return are arrays that the next call overwrites.

    Attributes:
        envs: The environments, by slot.
        single_observation_space, single_action_space: Those of one environment.
        asleep: Which slots rest, ``(S,)``.
        program: A compiled time step of all slots, with which `play` plays; None where there is none.
    """

    envs: list[gymnasium.Env]
    single_observation_space: Box
    single_action_space: Discrete | Box
    program: Callable[..., Any] | None = None

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]]):
        self.envs, self.num_envs = [maker() for maker in makers], len(makers)
        seen, actions = self.envs[0].observation_space, self.envs[0].action_space
        assert isinstance(seen, Box) and isinstance(actions, Discrete | Box)  # `relax_exp.envs.environments` checks it
        self.single_observation_space, self.single_action_space = seen, actions
        self.observations = np.zeros((self.num_envs, *seen.shape), seen.dtype)
        self.rewards = np.zeros(self.num_envs)
        self.terminated, self.truncated, self.asleep = (np.zeros(self.num_envs, bool) for _ in range(3))

    def reset(self, *, seed: Sequence[int | None], options=None):  # type: ignore[override]  # a list a slot, always
        """Begin an episode in the slots that have a seed, while the others rest.

        Returns:
            Observations, ``(S, ...)``, and an empty dictionary.
        """
        for i, one in enumerate(seed):
            self.terminated[i] = self.truncated[i] = False
            self.asleep[i] = one is None
            if one is not None:
                self.observations[i], _ = self.envs[i].reset(seed=one, options=options)
        return self.observations, {}

    def step(self, actions):
        """Step the slots that are awake with actions ``(S,)``.

        Returns:
            Observations, rewards, terminations, truncations, and an empty dictionary.
        """
        self.rewards[:] = 0.0
        actions = list(actions) if actions.dtype.kind == "f" else actions.tolist()  # an int is checked fastest
        for i in np.flatnonzero(self.awake):
            observation, reward, terminated, truncated, _ = self.envs[i].step(actions[i])
            self.observations[i], self.rewards[i] = observation, reward
            self.terminated[i], self.truncated[i] = terminated, truncated
        self.asleep |= self.terminated | self.truncated
        return self.observations, self.rewards, self.terminated, self.truncated, {}

    def restart(self, slots: np.ndarray) -> None:
        """Begin another episode in the chosen slots, ``(S,)`` bool, from where their random numbers are."""
        for i in np.flatnonzero(slots):
            self.observations[i], _ = self.envs[i].reset()
        for over in (self.terminated, self.truncated, self.asleep):
            over[slots] = False

    def compile(self, backend: str) -> None:
        """Compile a time step, where the environment is arithmetic; most are not."""

    def play(self, seeds: list[int | None], params: dict[str, Tensor], noise: Tensor) -> Rollout:
        """Do what `relax_exp.envs.rollout.roll_out` does, by ``program``.

        ``params``: of the policies, stacked over replicas, ``(R, ...)``, each with S / R slots in a row.
        """
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec:
        """What gymnasium knows of each of the environments, which it made."""
        spec = self.envs[0].spec
        assert spec is not None
        return spec

    @property
    def awake(self) -> np.ndarray:
        """Which slots are in an episode, ``(S,)``."""
        return ~self.asleep

    def close_extras(self, **kwargs) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()
