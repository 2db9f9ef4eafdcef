"""The trainer of task=continuous: batches of whole episodes, as many as it takes, with generalised advantages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from relax_exp.envs import Resting
from relax_exp.episodes import Episodes
from relax_exp.tasks.continuous import clipped, normal


class Steps(NamedTuple):
    """What each slot saw, padded to T: ``state``, ``action``, ``following`` (slots, T, ...); the rest (slots, T).

    ``following``: the state after the step, before any reset; ``terminated``: it is worth nothing more; ``ended``: by
    that or by the time limit; ``score``: where it ended, the sum of the episode's rewards.
    """

    state: np.ndarray
    action: np.ndarray
    following: np.ndarray
    reward: np.ndarray
    alive: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    score: np.ndarray


def roll_out(env: Resting, seeds: list[int | None], policy, noise: Tensor, quota: int) -> Steps:
    """Whole episodes in each slot that has a seed, begun until it has taken ``quota`` steps.

    ``policy`` maps states ``(slots, S)`` to mean and std ``(slots, A)``; noise: standard normal, ``(slots, T, A)``.
    """
    slots, horizon, size = noise.shape
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


def advantages(steps: Steps, rewards, values, following, gamma: float, trace: float) -> np.ndarray:
    """Generalised advantages (Schulman et al. 2016, eq. 16), ``(slots, T)``, 0 beyond the end.

    ``values`` and ``following``: V of the state and of the state after the step, ``(slots, T)``.
    """
    errors = (rewards + gamma * following * ~steps.terminated - values) * steps.alive
    carry, out, last = gamma * trace * ~steps.ended, np.zeros_like(errors), np.zeros(len(errors))
    for t in reversed(range(int(steps.alive.sum(1).max(initial=0)))):
        out[:, t] = last = errors[:, t] + carry[:, t] * last
    return out


def episodes(steps: Steps, replicas: int) -> tuple[Tensor, Tensor]:
    """Returns and lengths of the episodes of each replica in the order of their ends, ``(R, K)``, padded with 0."""
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


class Batches(Episodes):
    """`Episodes` of which an update takes several from each slot; the slots' seeds are those of their first ones."""

    def play(self, params, seeds, noise, active):
        """See `Episodes.play`; returns and frames are ``(R, K)``, 0 frames where a replica had fewer episodes."""
        task, shape = self.task, seeds.shape
        mean = {k: v.to("cpu", torch.float32) for k, v in params["mean"].items()}
        std = params["log_std"].to("cpu", torch.float32).exp().repeat_interleave(shape[1], 0)

        def policy(states: Tensor) -> tuple[Tensor, Tensor]:
            rows = states.unflatten(0, (shape[0], -1))
            return task.mean({"mean": mean}, rows).flatten(0, 1), std

        chosen = active.repeat_interleave(shape[1]).tolist()
        slots = [seed if go else None for seed, go in zip(seeds.flatten().tolist(), chosen, strict=True)]
        steps = roll_out(self.env, slots, policy, normal(noise["act"].cpu().float().flatten(0, 1)), task.quota)

        def stacked(x: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).unflatten(0, shape).to(self.device, task.dtype)

        value = vmap(task.value)
        tuning, state = self.state.model.tuning, stacked(steps.state)
        values, following = (
            value(tuning, x).flatten(0, 1).double().cpu().numpy() for x in (state, stacked(steps.following))
        )
        advantage = advantages(steps, task.reward_scale * steps.reward, values, following, task.gamma, task.trace)
        batch = {"action": steps.action, "advantage": advantage, "target": (advantage + values) * steps.alive}
        batch = {k: stacked(v) for k, v in (batch | {"alive": steps.alive}).items()} | {"state": state}
        return batch, *episodes(steps, shape[0])
