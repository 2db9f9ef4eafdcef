"""The trainer of tasks whose minibatches are whole episodes: every update follows an episode of every replica."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.envs.rollout import replay, roll_out
from relax_exp.estimators.arsm import action_values, choose, pseudo_actions
from relax_exp.models.policy import policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.numerics.trees import each, listed, stack
from relax_exp.tasks.base import EpisodeTask, Model, draw, log_variances
from relax_exp.training.frozen_policies import freeze
from relax_exp.training.replicas import CHUNK, Replicas
from relax_exp.training.returns import Records

FROZEN = ("model", "moments", "tuning_moments", "sums", "summed")  # what does not change in a replica that is done

OfEpisodes = TypeVar("OfEpisodes", bound=EpisodeTask)


class Episodes(Replicas, Generic[OfEpisodes]):
    """`Replicas` whose step begins with episodes of all of them, in slots of one vector environment.

    Every episode starts from a seed of its own, which the seed of the replica and the number of the step determine: so
    no state of an environment outlives a step. A replica that has used ``task.frames`` stays as it is.
    """

    task: OfEpisodes

    whole_chunks = False

    def __init__(
        self,
        task: OfEpisodes,
        seeds: list[int],
        lrs: list[float],
        device: str | torch.device = "cpu",
        compiled: bool = False,
        backend: str = "inductor",
    ):
        super().__init__(task, seeds, lrs, device, compiled, backend)
        self.records, self.frozen = Records.empty(len(self.labels)), False
        slots = len(self.labels) * task.episodes
        self.env = task.make(slots)
        self.replays = task.make(slots * task.pseudo_rollouts) if task.replayed else None
        if compiled:
            self.env.compile(backend)

    @property
    def saved(self) -> Any:
        return self.state, self.records

    @saved.setter
    def saved(self, value: Any) -> None:
        self.state, self.records = value

    @property
    def active(self) -> Tensor:
        """Tell which replicas go on, ``(R,)``: those that have not failed, have frames left and something to solve."""
        fine = (self.state.failed_at == 0).cpu()
        if self.task.until_solved:
            fine = fine & (self.records.solved_episodes == 0)
        return fine if self.task.frames is None else fine & (self.records.frames < self.task.frames)

    @property
    def finished(self) -> bool:
        return not bool(self.active.any())

    def _load_chunk(self, purpose: str, index: int) -> None:
        """Load a chunk as the base class does, and the environments' seeds, ``(steps, replicas, E)``."""
        if self._chunk == (purpose, index):
            return
        super()._load_chunk(purpose, index)
        size = (CHUNK, self.task.episodes)
        drawn = {s: torch.randint(2**31, size, generator=stream(s, f"{purpose}/env", index)) for s in self.seeds}
        self.env_seeds = torch.stack([drawn[seed] for seed, _ in self.labels], 1)

    def _inputs(self, purpose: str, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Play the episodes of a step, and return them with the noise that made them."""
        return self._episodes(purpose, step, torch.ones(len(self.labels), dtype=torch.bool))[:2]

    def _episodes(
        self, purpose: str, step: int, active: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        """Return the batch, the noise, the returns and the frames of a step."""
        _, noise = super()._inputs(purpose, step)
        batch, returns, frames = self.play(self.state.model.params, self.env_seeds[step % CHUNK], noise, active)
        return batch, noise, returns, frames

    def play(
        self, params: Any, seeds: Tensor, noise: dict[str, Tensor], active: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Play episodes from ``seeds`` ``(R, E)`` in the active replicas.

        Returns:
            The batch of `PolicyTask`, stacked over replicas; the returns and the frames used, ``(R, E)`` each.
        """
        task, shape = self.task, seeds.shape
        noise = {k: v.to("cpu", torch.float32) for k, v in noise.items()}
        params = {k: v.to("cpu", torch.float32) for k, v in params.items()}

        def policy(states: Tensor) -> Tensor:
            return policy_logits(params, torch.unflatten(states, 0, (shape[0], -1))).flatten(0, 1)

        chosen = listed(active.repeat_interleave(shape[1]))
        slots = [seed if go else None for seed, go in zip(listed(seeds.flatten()), chosen, strict=True)]
        if self.env.program is not None:
            rollout = self.env.play(slots, params, noise["act"].flatten(0, 1))
        else:
            rollout = roll_out(self.env, slots, policy, noise["act"].flatten(0, 1))
        states, actions, rewards, alive = map(torch.as_tensor, rollout)
        losses = -torch.as_tensor(rollout.returns(task.gamma))
        frames = alive.sum(1)
        batch = {"state": states, "action": torch.nn.functional.one_hot(actions, task.actions)}
        batch |= {"loss": losses, "alive": alive}
        if self.replays is not None:
            u = noise["act"].flatten(0, 2)
            logits = policy_logits(params, torch.unflatten(states, 0, shape).flatten(1, 2)).flatten(0, 1)
            asked = torch.unflatten(pseudo_actions(logits, u, alive.flatten()), 0, alive.shape)
            index, weight = choose(asked, noise["choose"].flatten(0, 1), task.pseudo_rollouts)
            returns, after = replay(
                self.replays, slots, policy, noise["replay"].flatten(0, 1), rollout, index, weight, task.gamma
            )
            batch["values"] = action_values(losses, index, weight.double(), -returns, task.actions)
            frames = frames + torch.as_tensor(after)
        frames = frames * task.frame_skip
        batch = {k: torch.unflatten(v, 0, shape).to(self.device, task.dtype).contiguous() for k, v in batch.items()}
        return batch, torch.unflatten(rewards.sum(1), 0, shape), torch.unflatten(frames, 0, shape)

    def warm_up(self, updates: int) -> Iterator[int]:
        """Warm up as the base class does, at the policy that is frozen where one is."""
        self._freeze()
        yield from super().warm_up(updates)

    def _freeze(self) -> None:
        """Put the frozen policies, where the task is about them, in the place of the initial ones."""
        if self.task.freeze_at is not None and not self.taken and not self.frozen:
            freeze(self)
            self.frozen = True

    def advance(self, steps: int) -> Iterator[int]:
        """Take steps as the base class does, but end early where all replicas are `finished`."""
        first = int(self.state.t[0])
        self._freeze()
        for step in range(first, first + steps):
            active = self.active
            if not active.any():
                return
            batch, noise, returns, frames = self._episodes("train", step, active)
            before = {k: getattr(self.state, k) for k in FROZEN}
            before = None if active.all() else each(torch.clone, before)
            state = self.step(self.state, batch, noise)
            if before is not None:
                after = {k: getattr(state, k) for k in FROZEN}
                state = state._replace(**tree_map(functools.partial(merge, active.to(self.device)), after, before))
            self.state, self.records = state, self.records.add(returns, frames, active, self.task.threshold)
            yield step + 1

    def means(self) -> list[dict[str, float]]:
        """Return the means of the metrics, and none for replicas that have not moved."""
        return [row if n else {} for row, n in zip(super().means(), listed(self.state.summed), strict=True)]

    def clear_means(self) -> None:
        """Start new sums of the metrics and of the returns."""
        super().clear_means()
        zeros = torch.zeros_like(self.records.total), torch.zeros_like(self.records.recent)
        self.records = self.records._replace(total=zeros[0], recent=zeros[1])

    def evaluate(self, indices: list[int], step: int, final: bool) -> list[dict[str, float | None]]:
        """Return the metrics of some replicas: records of their episodes, and log-variances where they are due."""
        rows = super().evaluate(indices, step, final)
        every = self.task.variance_every
        due = bool(every) and step % every == 0
        variances = self.variance(step) if due else [dict[str, float]()] * len(self.labels)
        return [row | self.records.row(i) | variances[i] for row, i in zip(rows, indices, strict=True)]

    def variance(self, step: int) -> list[dict[str, float]]:
        """Measure the log-variances of an update's gradient with respect to the policy's parameters.

        The episodes are those of ``task.variance_draws`` further updates (RELAX, appendix), which count as no frames
        and leave the parameters as they are.
        """
        task, everyone = self.task, torch.ones(len(self.labels), dtype=torch.bool)
        draws: list[Tensor] = []

        def of_policy(model: Model, batch: dict[str, Tensor], noise: dict[str, Tensor]) -> Any:
            return task.gradients(model, batch, noise).params

        gradients = vmap(of_policy)
        for index in range(task.variance_draws):
            noise: dict[int, dict[str, Tensor]] = {}
            seeds: dict[int, Tensor] = {}
            for seed in self.seeds:
                generator = stream(seed, f"variance/{step}", index)
                seeds[seed] = torch.randint(2**31, (task.episodes,), generator=generator)
                noise[seed] = {k: v[0] for k, v in draw(task.noise_shapes(), 1, generator, task.dtype).items()}
            stacked = each(lambda x: x.to(self.device), stack(noise[seed] for seed, _ in self.labels))
            env_seeds = torch.stack([seeds[seed] for seed, _ in self.labels])
            batch, _, _ = self.play(self.state.model.params, env_seeds, stacked, everyone)
            grads = gradients(self.state.model, batch, stacked)
            draws.append(torch.cat([leaf.flatten(1) for leaf in tree_leaves(grads)], 1))
        values = vmap(log_variances, in_dims=1)(torch.stack(draws))
        if task.freeze_at is not None:
            values["grad/log_signal"] = vmap(log_signal, in_dims=1)(torch.stack(draws))
        return [{k: float(v[i]) for k, v in values.items()} for i in range(len(self.labels))]


def log_signal(gradients: Tensor) -> Tensor:
    """Log of the mean over the parameters of the squared mean gradient, from ``(draws, parameters)``.

    What the draws' variance adds to a square of their mean is taken off; where less than nothing remains, the log is
    that of the smallest number.
    """
    squares = gradients.mean(0).square() - gradients.var(0) / len(gradients)
    return squares.mean().clamp(min=torch.finfo(gradients.dtype).tiny).log()


def merge(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take ``new`` in the active replicas and ``old`` in the others."""
    return torch.where(active.view(-1, *[1] * (old.dim() - 1)), new, old)
