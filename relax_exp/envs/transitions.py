"""Steps of several environments that run side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from relax_exp.envs.slots import Slots


class Steps(NamedTuple):
    """What each slot saw, padded to T steps: the first three are ``(slots, T, ...)``, the rest ``(slots, T)``.

    Attributes:
        state: The state before the step.
        action: What was done.
        following: The state after the step, before any reset.
        terminated: Whether that state is worth nothing more.
        ended: Whether the episode ended there, by that or by the time limit.
        score: Where it ended, the sum of the episode's rewards.
    """

    state: np.ndarray
    action: np.ndarray
    following: np.ndarray
    reward: np.ndarray
    alive: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    score: np.ndarray


def collect(
    env: Slots, seeds: list[int | None], policy: Callable[[Tensor], tuple[Tensor, Tensor]], noise: Tensor, quota: int
) -> Steps:
    """Play whole episodes in each slot that has a seed, begun until it has taken ``quota`` steps.

    ``policy`` maps states ``(slots, S)`` to mean and std ``(slots, A)``; ``noise`` is standard normal, ``(slots, T,
    A)``.
    """
    slots, horizon, size = noise.shape
    assert isinstance(env.single_action_space, Box)
    space, noise = env.single_action_space, noise.transpose(0, 1).contiguous()
    states = np.zeros((horizon, slots, *env.single_observation_space.shape), np.float32)
    following, actions = np.zeros_like(states), np.zeros((horizon, slots, size), np.float32)
    rewards, score = np.zeros((horizon, slots)), np.zeros((horizon, slots))
    alive, terminated, ended = (np.zeros((horizon, slots), bool) for _ in range(3))
    inputs, choices, total = torch.from_numpy(states), torch.from_numpy(actions), np.zeros(slots)
    observations, _ = env.reset(seed=seeds)
    for t in range(horizon):
        if not (awake := env.awake).any():
            break
        alive[t], states[t] = awake, observations
        mean, std = policy(inputs[t])
        torch.addcmul(mean, std, noise[t], out=choices[t])
        observations, rewards[t], terminations, truncations, _ = env.step(clipped(actions[t], space))
        following[t], total = observations, total + rewards[t]
        terminated[t], ended[t] = awake & terminations, awake & (terminations | truncations)
        if ended[t].any():
            score[t], total = np.where(ended[t], total, 0.0), np.where(ended[t], 0.0, total)
            if t + 1 < quota:
                env.restart(ended[t])
    return Steps(
        *(np.moveaxis(x, 0, 1) for x in (states, actions, following, rewards, alive, terminated, ended, score))
    )


def advantages(
    steps: Steps, rewards: np.ndarray, values: np.ndarray, following: np.ndarray, gamma: float, trace: float
) -> np.ndarray:
    """Compute generalised advantages (Schulman et al. 2016, eq. 16), ``(slots, T)``, 0 beyond the end.

    ``values`` and ``following`` are V of the state and of the state after the step, ``(slots, T)``.
    """
    errors = (rewards + gamma * following * ~steps.terminated - values) * steps.alive
    carry, out, last = gamma * trace * ~steps.ended, np.zeros_like(errors), np.zeros(len(errors))
    for t in reversed(range(int(steps.alive.sum(1).max(initial=0)))):
        out[:, t] = last = errors[:, t] + carry[:, t] * last
    return out


def episodes(steps: Steps, replicas: int) -> tuple[Tensor, Tensor]:
    """Return the returns and lengths of the episodes of each replica, ``(R, K)``.

    They are in the order of their ends and padded with 0.
    """
    slots = len(steps.ended) // replicas
    found: list[list[tuple[float, int]]] = [[] for _ in range(replicas)]
    since = np.zeros(len(steps.ended), np.int64)
    for t, slot in np.argwhere(steps.ended.T):
        found[slot // slots].append((steps.score[slot, t], t + 1 - since[slot]))
        since[slot] = t + 1
    out = torch.zeros(replicas, max(map(len, found)), 2, dtype=torch.float64)
    for row, pairs in zip(out, found, strict=True):
        row[: len(pairs)] = torch.tensor(pairs, dtype=torch.float64).view(-1, 2)
    return out[..., 0], out[..., 1].long()


def clipped(actions: np.ndarray, space: Box) -> np.ndarray:
    """Return actions ``(N, A)`` within the bounds of a space, in its shape and type."""
    return np.clip(actions.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
