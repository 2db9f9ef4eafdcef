"""Whole episodes of many policies side by side, and what ARSM would have done instead of what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from relax_exp.distributions import gumbel
from relax_exp.envs.slots import Rollout, Slots
from relax_exp.errors import SettingError


class Prefix(NamedTuple):
    """Actions to take whatever the policy says: ``(slots, T)``, up to and including time ``until``, ``(slots,)``."""

    actions: np.ndarray
    until: np.ndarray


def roll_out(
    env: Slots,
    seeds: list[int | None],
    policy: Callable[[Tensor], Tensor],
    noise: Tensor,
    prefix: Prefix | None = None,
) -> Rollout:
    """Play an episode in each slot that has a seed.

    Args:
        env: The slots.
        seeds: A seed, or None for a slot that rests, by slot.
        policy: Maps states ``(slots, S)`` to logits ``(slots, A)``, of all slots in one call for each time step.
        noise: Uniform noise, ``(slots, T, A)``; the action is argmax(logits + Gumbel(noise)).
        prefix: Actions to take whatever the policy says.
    """
    slots, horizon, _ = noise.shape
    perturbation = gumbel(noise).transpose(0, 1).contiguous()
    states = np.zeros((horizon, slots, *env.single_observation_space.shape), np.float32)
    actions, rewards = np.zeros((horizon, slots), np.int64), np.zeros((horizon, slots))
    alive = np.zeros((horizon, slots), bool)
    inputs, choices = torch.from_numpy(states), torch.from_numpy(actions)
    observations, _ = env.reset(seed=seeds)
    for t in range(horizon):
        if not (awake := env.awake).any():
            break
        alive[t], states[t] = awake, observations
        torch.argmax(policy(inputs[t]) + perturbation[t], -1, out=choices[t])
        if prefix is not None:
            actions[t] = np.where(t <= prefix.until, prefix.actions[:, t], actions[t])
        observations, rewards[t], *_ = env.step(actions[t])
    states *= alive[..., None]
    actions *= alive
    return Rollout(*(np.moveaxis(x, 0, 1) for x in (states, actions, rewards, alive)))


def replay(
    env: Slots,
    seeds: list[int | None],
    policy: Callable[[Tensor], Tensor],
    noise: Tensor,
    rollout: Rollout,
    index: Tensor,
    weight: Tensor,
    gamma: float,
) -> tuple[Tensor, np.ndarray]:
    """Play every chosen (t, a) of every episode, and return what came of it.

    Each goes through the recorded actions from the episode's own seed up to t, takes a and follows the policy from
    there; all run side by side in ``slots * limit`` slots of ``env``, each with its noise, ``(slots * limit, T, A)``.

    Returns:
        Returns from (t, a), ``(slots, limit)``, and the time steps that follow t in each.

    Raises:
        RunError: An environment does something else the second time.
    """
    limit, actions = index.shape[1], noise.shape[-1]
    t, action = (index // actions).flatten().numpy(), (index % actions).flatten().numpy()
    used = weight.flatten().numpy() > 0
    forced = np.repeat(rollout.actions, limit, 0)
    forced[np.arange(len(t)), t] = action
    again = [seeds[k // limit] if used[k] else None for k in range(len(t))]
    if not used.any():
        return torch.zeros(index.shape, dtype=torch.float64), np.zeros(len(seeds), np.int64)
    tried = roll_out(env, again, policy, noise, Prefix(forced, np.where(used, t, -1)))
    rows = np.flatnonzero(used)
    if not np.array_equal(tried.states[rows, t[rows]], rollout.states[rows // limit, t[rows]]):
        name = env.spec.id
        raise SettingError(
            f"{name} does not repeat an episode from its seed, as estimator=arsm needs: use rloo or relax"
        )
    returns = torch.from_numpy(tried.returns(gamma)[np.arange(len(t)), t]).unflatten(0, index.shape)
    after = np.where(used, tried.alive.sum(1) - t, 0)
    return returns, after.reshape(index.shape).sum(1)
