"""Whole episodes of many policies side by side, and what ARSM would have done instead of what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relax_exp.distributions import gumbel
from relax_exp.estimators.swap import swapped
from relax_exp.folder import RunError

if TYPE_CHECKING:
    from relax_exp.envs import Resting


class Rollout(NamedTuple):
    """An episode a slot, zeros from its end to the time limit T: states ``(slots, T, S)``, the rest ``(slots, T)``."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    alive: np.ndarray

    def returns(self, gamma: float) -> np.ndarray:
        """sum_k gamma^k r_(t+k), ``(slots, T)``: discounted returns-to-go, 0 beyond the end."""
        returns, last = np.zeros_like(self.rewards), np.zeros(len(self.rewards))
        for t in reversed(range(int(self.alive.sum(1).max(initial=0)))):
            last = self.rewards[:, t] + gamma * last
            returns[:, t] = last
        return returns


class Prefix(NamedTuple):
    """Actions ``(slots, T)`` to take up to and including time ``until``, ``(slots,)``, whatever the policy says."""

    actions: np.ndarray
    until: np.ndarray


def roll_out(
    env: Resting,
    seeds: list[int | None],
    policy: Callable[[Tensor], Tensor],
    noise: Tensor,
    prefix: Prefix | None = None,
) -> Rollout:
    """An episode in each slot that has a seed: action = argmax(logits + Gumbel(noise)), noise ``(slots, T, A)``.

    ``policy`` maps states ``(slots, S)`` to logits ``(slots, A)``, of all slots in one call for each time step.
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


def pseudo_actions(logits: Tensor, noise: Tensor, alive: Tensor) -> Tensor:
    """Which actions, other than the one taken, ARSM asks about: logits, noise ``(N, A)`` -> ``(N, A)``, bool.

    They are the argmax of log p + Gumbel(noise) with the noise of any two actions swapped.
    """
    size = logits.shape[-1]
    i, j = torch.triu_indices(size, size, 1)
    log_p, g = logits.log_softmax(-1).unsqueeze(1), gumbel(noise).unsqueeze(1)
    asked = swapped(log_p, g, i.unsqueeze(-1), j.unsqueeze(-1)).amax((0, 2)) > 0
    taken = torch.arange(size) == (log_p + g).argmax(-1)
    return asked & ~taken & alive.unsqueeze(-1)


def choose(asked: Tensor, keys: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """At most ``limit`` of the pseudo-actions of an episode, uniformly: asked, uniform keys ``(..., T, A)``.

    Returns indices into T x A and weights, ``(..., limit)``: the number asked about over the number chosen, 0 where
    nothing is left to choose. So weighted, what is summed over those chosen has the sum over all as its mean. (The code
    of the paper stops at 16, without weights, which is biased.)
    """
    asked, keys = asked.flatten(-2), keys.flatten(-2)
    index = torch.where(asked, keys, -1.0).topk(min(limit, asked.shape[-1]), -1).indices
    there = asked.gather(-1, index).to(keys.dtype)
    return index, there * asked.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)


def action_values(losses: Tensor, index: Tensor, weight: Tensor, chosen: Tensor, actions: int) -> Tensor:
    """Losses of all actions at all steps, ``(..., T, A)``, as ARSM is given them.

    They are those of what was done, ``losses`` ``(..., T)``; where something else was tried the weighted difference of
    its loss, ``chosen`` ``(..., limit)``, is added.
    """
    own = losses.gather(-1, index // actions)
    table = losses.unsqueeze(-1).expand(*losses.shape, actions).flatten(-2)
    return table.scatter_add(-1, index, weight * (chosen - own)).unflatten(-1, (-1, actions))


def replay(
    env: Resting,
    seeds: list[int],
    policy: Callable[[Tensor], Tensor],
    noise: Tensor,
    rollout: Rollout,
    index: Tensor,
    weight: Tensor,
    gamma: float,
) -> tuple[Tensor, np.ndarray]:
    """Returns from the chosen (t, a) of every episode, ``(slots, limit)``, and the time steps that follow t in each.

    Each goes through the recorded actions from the episode's own seed up to t, takes a and follows the policy from
    there; all run side by side in ``slots * limit`` slots of ``env``, each with its noise, ``(slots * limit, T, A)``.
    RunError where an environment does something else the second time.
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
        name = env.envs[0].spec.id
        raise RunError(f"{name} does not repeat an episode from its seed, as estimator=arsm needs: use rloo or relax")
    returns = torch.from_numpy(tried.returns(gamma)[np.arange(len(t)), t]).unflatten(0, index.shape)
    after = np.where(used, tried.alive.sum(1) - t, 0)
    return returns, after.reshape(index.shape).sum(1)
