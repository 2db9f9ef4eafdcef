"""Policy gradients from episodes, checked on a Markov decision process small enough to be exact about.

Three states, two actions (or more), three steps, random rewards and transitions, and an end that may come early.
`MDP.simulate` is what an environment and `relax_exp.envs.rollout` do, for given noise and in tensors, so that a hundred
thousand updates are one call; the gradient comes from `PolicyTask`, as in training, and the exact one from the
recursion of the values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from relax_exp.distributions import Categorical, gumbel
from relax_exp.enumeration import checks, hierarchies
from relax_exp.estimators import SMALL, arsm
from relax_exp.models.policy import policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import Model
from relax_exp.tasks.episodic import PolicyTask
from relax_exp.tasks.registry import PolicyOptions

STATES, HORIZON = 3, 3
DISCOUNTED = {"gamma": 0.8, "discount_weight": True}
RELAX = {"surrogate": "network", **SMALL}
POLICY = PolicyOptions(
    hidden=[4], gamma=1.0, entropy=0.0, discount_weight=False, optimizer="adam", beta2=0.999, pseudo_rollouts=1
)
VERIFIED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # label: estimator, its options, the task's
    "reinforce": ("reinforce", {}, {}),
    "reinforce, gamma^t": ("reinforce", {}, DISCOUNTED),
    "baseline": ("baseline", {}, {}),
    "optimal_baseline": ("optimal_baseline", {}, {}),
    "a2c": ("a2c", {"width": 8}, {}),
    "nvil": ("nvil", {"width": 8}, {}),
    "relax": ("relax", RELAX, {}),
    "relax, gamma^t": ("relax", RELAX, DISCOUNTED),
    "relax, 3 actions": ("relax", RELAX, {"actions": 3}),
    "lax": ("lax", SMALL, {}),
    "rloo": ("rloo", {"samples": 3}, {}),
    "rloo, 2 groups, gamma^t": ("rloo", {"samples": 2}, {"batch_size": 2, **DISCOUNTED}),
    "arsm": ("arsm", {}, {}),
    "arsm, 3 actions, 1 tried": ("arsm", {}, {"actions": 3, "pseudo_rollouts": 1}),
    "mean_actor with the exact Q, gamma^t": ("mean_actor", {"depth": 0}, DISCOUNTED),
    "a2c-as-published": ("a2c", {"width": 8, "advantage": "published_error"}, {}),
    "relax-as-published, 3 actions": ("relax", {**RELAX, "sampler": "published_error"}, {"actions": 3}),
}


def unbiased(label: str) -> bool:
    """Tell whether that cell of `VERIFIED` claims to be unbiased: all but the errors of published code do."""
    return "published_error" not in VERIFIED[label][1].values()


class MDP:
    """A Markov decision process of three states that is small enough to solve.

    It has rewards ``(S, A)``, transitions ``(S, A, S)`` and probabilities of the end ``(S, A)``, and starts in state 0
    or 1. What a policy sees is (state, time), one-hot: the value of a state depends on the time that is left.
    """

    def __init__(self, actions: int, gamma: float, seed: int = 0):
        generator = stream(seed, f"mdp {actions}")
        size = (STATES, actions)
        self.actions, self.gamma = actions, gamma
        self.rewards = torch.randn(size, generator=generator, dtype=torch.float64)
        self.moves = torch.randn((*size, STATES), generator=generator, dtype=torch.float64).softmax(-1)
        self.ends = 0.4 * torch.rand(size, generator=generator, dtype=torch.float64)
        self.start = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)

    def seen(self, state: Tensor, t: int) -> Tensor:
        """Return what the policy sees at time t, ``(..., S x T)``, for one-hot states ``(..., S)``."""
        time = F.one_hot(torch.tensor(t), HORIZON).to(state.dtype)
        return (time.unsqueeze(-1) * state.unsqueeze(-2)).flatten(-2)

    def action_values(self, params: dict[str, Tensor]) -> Tensor:
        """Compute Q, ``(T, S, A)``, by recursion from the end.

        Q is the discounted return-to-go of every action under the policy.
        """
        value, q = torch.zeros(STATES, dtype=torch.float64), list[Tensor]()
        for t in reversed(range(HORIZON)):
            q.insert(0, self.rewards + self.gamma * (1 - self.ends) * (self.moves @ value))
            p = policy_logits(params, self.seen(torch.eye(STATES, dtype=torch.float64), t)).softmax(-1)
            value = (p * q[0]).sum(-1)
        return torch.stack(q)

    def loss(self, params: dict[str, Tensor]) -> Tensor:
        """Compute minus the expected discounted return."""
        q = self.action_values(params)[0]
        p = policy_logits(params, self.seen(torch.eye(STATES, dtype=torch.float64), 0)).softmax(-1)
        return -(self.start * (p * q).sum(-1)).sum()

    def noise_shapes(self, episodes: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the noise of the start, of each transition and of each end."""
        return {"start": (episodes, STATES), "move": (episodes, HORIZON, STATES), "end": (episodes, HORIZON)}

    def simulate(
        self, params: dict[str, Tensor], noise: dict[str, Tensor], act: Tensor, forced: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Play episodes ``(E, T, ...)`` for noise of `noise_shapes` and uniform noise ``act``, ``(E, T, A)``.

        ``forced`` are one-hot actions ``(E, T, A)`` to take where there are any.

        Returns:
            A batch of `PolicyTask`, and the logits.
        """
        state = Categorical.hard(self.start.log() + gumbel(noise["start"]))
        alive = torch.ones_like(noise["end"][:, 0])
        steps: dict[str, list[Tensor]] = {"state": [], "action": [], "reward": [], "alive": [], "logits": []}
        for t in range(HORIZON):
            seen = self.seen(state, t)
            logits = policy_logits(params, seen)
            action = Categorical.hard(logits + gumbel(act[:, t]))
            if forced is not None:
                action = torch.where(forced[:, t].sum(-1, keepdim=True) > 0, forced[:, t], action)
            pair = state.unsqueeze(-1) * action.unsqueeze(-2)
            reward = alive * (pair * self.rewards).sum((-2, -1))
            for key, value in zip(steps, (seen * alive.unsqueeze(-1), action, reward, alive, logits), strict=True):
                steps[key].append(value)
            moves = torch.einsum("esa,san->en", pair, self.moves)
            state = Categorical.hard(moves.log() + gumbel(noise["move"][:, t]))
            alive = alive * (noise["end"][:, t] >= (pair * self.ends).sum((-2, -1)))
        batch = {key: torch.stack(values, 1) for key, values in steps.items()}
        rewards, losses = batch.pop("reward"), list[Tensor]()
        last = torch.zeros_like(rewards[:, 0])
        for t in reversed(range(HORIZON)):
            last = self.gamma * last - rewards[:, t]
            losses.insert(0, last)
        return batch | {"loss": torch.stack(losses, 1)}


def episodes(task: PolicyTask, mdp: MDP, params: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor]:
    """Play a batch for ``task``; where the estimator replays, with the values of what it would have done instead."""
    own = {k.removeprefix("mdp/"): v for k, v in noise.items() if k.startswith("mdp/")}
    batch = mdp.simulate(params, own, noise["act"])
    logits = batch.pop("logits")
    if not task.replayed:
        return batch
    limit, actions, count = task.pseudo_rollouts, mdp.actions, task.episodes
    asked = arsm.pseudo_actions(logits.flatten(0, 1), noise["act"].flatten(0, 1), batch["alive"].flatten() > 0)
    index, weight = arsm.choose(torch.unflatten(asked, 0, (count, HORIZON)), noise["choose"], limit)
    time = (index // actions).flatten()
    other = F.one_hot((index % actions).flatten(), actions).to(logits.dtype)
    steps = torch.arange(HORIZON)
    past = (steps < time.unsqueeze(-1)).unsqueeze(-1)
    now = (steps == time.unsqueeze(-1)).unsqueeze(-1)
    forced = past * batch["action"].repeat_interleave(limit, 0) + now * other.unsqueeze(1)
    # Up to the chosen step all noise is that of the episode, as if its seed were the same; from there it is fresh.
    again = {"start": own["start"].repeat_interleave(limit, 0)}
    for key in ("move", "end"):
        old, new = own[key].repeat_interleave(limit, 0), noise[f"replay/{key}"]
        until = steps < time.unsqueeze(-1)
        again[key] = torch.where(until.reshape(until.shape + (1,) * (old.dim() - 2)), old, new)
    tried = mdp.simulate(params, again, noise["replay"], forced)
    losses = tried["loss"].gather(1, time.unsqueeze(-1)).reshape(index.shape)
    return batch | {"values": arsm.action_values(batch["loss"], index, weight, losses, actions)}


def build(estimator: str, options: dict[str, Any], task_options: dict[str, Any]) -> tuple[PolicyTask, MDP]:
    """Build the task and the MDP of a cell of `VERIFIED`."""
    changes = dict(task_options)
    actions, batch_size = changes.pop("actions", 2), changes.pop("batch_size", 1)
    policy = replace(POLICY, **{"pseudo_rollouts": HORIZON * actions, **changes})  # all pseudo-actions of an episode
    section = {"name": estimator, **options}
    task = PolicyTask(section, policy, STATES * HORIZON, actions, HORIZON, batch_size=batch_size, dtype=torch.float64)
    return task, MDP(actions, policy.gamma)


def check(
    estimator: str, options: dict[str, Any], task_options: dict[str, Any], draws: int, seed: int = 0
) -> checks.Verdict:
    """Compare the policy gradient of an update of ``task=cartpole`` on the `MDP` with the exact one.

    No entropy; gamma = 1, or with the factor gamma^t; baselines and surrogates stand at random parameters, mean_actor
    has the exact Q.
    """
    generator = stream(seed, f"mdp {estimator}")
    task, mdp = build(estimator, options, task_options)
    initial = task.init(generator)
    params = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in initial.params.items()}
    state = checks.perturbed(task.row, generator)
    if estimator == "mean_actor":
        (weight,) = (k for k in initial.tuning if k.endswith("weight"))
        (bias,) = (k for k in initial.tuning if k.endswith("bias"))
        state[weight], state[bias] = -mdp.action_values(params).flatten(0, 1).T, torch.zeros_like(state[bias])
    model = Model(params, {k: state[k] for k in initial.tuning}, {k: state[k] for k in initial.buffers})
    shapes = task.noise_shapes() | {f"mdp/{k}": v for k, v in mdp.noise_shapes(task.episodes).items()}
    if task.replayed:
        tried = mdp.noise_shapes(task.episodes * task.pseudo_rollouts)
        shapes |= {f"replay/{k}": v for k, v in tried.items() if k != "start"}

    def one(noise: dict[str, Tensor]) -> Tensor:
        return hierarchies.flat(task.gradients(model, episodes(task, mdp, params, noise), noise).params)

    exact = hierarchies.flat(grad(mdp.loss)(params))
    return checks.compare(one, shapes, exact, draws, generator, min(draws, 20_000))
