"""The trainer of task=continuous: batches of whole episodes, as many as it takes, with generalised advantages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from relax_exp.distributions import standard_normal
from relax_exp.envs.transitions import advantages, collect, episodes
from relax_exp.numerics.trees import listed
from relax_exp.tasks.base import BatchTask
from relax_exp.training.episodes import Episodes


class Batches(Episodes[BatchTask]):
    """`Episodes` whose updates take several episodes from each slot.

    The seeds of a slot are those of its first episode; the later ones go on from there.
    """

    def play(
        self, params: Any, seeds: Tensor, noise: dict[str, Tensor], active: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Play episodes in each slot until it has taken its share of the steps.

        Returns:
            The batch, stacked over replicas; returns and frames, ``(R, K)``, with 0 frames where a replica had fewer
            episodes.
        """
        task, shape = self.task, seeds.shape
        mean = {k: v.to("cpu", torch.float32) for k, v in params["mean"].items()}
        std = params["log_std"].to("cpu", torch.float32).exp().repeat_interleave(shape[1], 0)

        def policy(states: Tensor) -> tuple[Tensor, Tensor]:
            rows = torch.unflatten(states, 0, (shape[0], -1))
            return task.mean({"mean": mean}, rows).flatten(0, 1), std

        chosen = listed(active.repeat_interleave(shape[1]))
        slots = [seed if go else None for seed, go in zip(listed(seeds.flatten()), chosen, strict=True)]
        steps = collect(self.env, slots, policy, standard_normal(noise["act"].cpu().float().flatten(0, 1)), task.quota)

        def stacked(x: np.ndarray) -> Tensor:
            return torch.unflatten(torch.as_tensor(np.ascontiguousarray(x)), 0, shape).to(self.device, task.dtype)

        value = vmap(task.value)
        tuning, state = self.state.model.tuning, stacked(steps.state)
        values, following = (
            value(tuning, x).flatten(0, 1).double().cpu().numpy() for x in (state, stacked(steps.following))
        )
        advantage = advantages(steps, task.reward_scale * steps.reward, values, following, task.gamma, task.trace)
        batch = {"action": steps.action, "advantage": advantage, "target": (advantage + values) * steps.alive}
        batch = {k: stacked(v) for k, v in (batch | {"alive": steps.alive}).items()} | {"state": state}
        if task.by_episode:  # before each step so many episodes of its slot had ended
            ends = steps.ended.cumsum(1) - steps.ended
            batch["episode"] = stacked(ends + steps.ended.shape[1] * (np.arange(len(ends)) % shape[1])[:, None])
        returns, frames = episodes(steps, shape[0])
        return batch, returns, frames
