"""The trainer of tasks that learn from segments of games that go on: a few steps of all slots, then an update."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from relax_exp.distributions import gumbel
from relax_exp.envs.atari import Games
from relax_exp.models.nature_cnn import Activations, nature, packed, pixels
from relax_exp.numerics.random_streams import seed_of
from relax_exp.numerics.trees import each
from relax_exp.tasks.base import SegmentTask
from relax_exp.training.replicas import Replicas
from relax_exp.training.returns import Scores


def bootstrapped(rewards: Tensor, over: Tensor, last: Tensor, gamma: float) -> Tensor:
    """Compute the returns of a segment, ``(T, E)``, with the value of what comes after it.

    They are R_t = r_t + gamma R_(t+1), where R is ``last``, ``(E,)``, after the segment and 0 after an episode.
    """
    returns, following = torch.empty_like(rewards), last
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following.masked_fill(over[t], 0.0)
        returns[t] = following
    return returns


class Segments(Replicas):
    """`Replicas` whose step begins with ``task.length`` steps of ``task.envs`` games, from where they stand.

    There is one replica: its network and its games fill a core already. What a checkpoint holds of the games is what
    determines them (`relax_exp.envs.atari.Games.state`), so that also here a run that was interrupted goes on bit for
    bit.
    """

    task: SegmentTask

    whole_chunks = False

    def __init__(
        self,
        task: SegmentTask,
        seeds: list[int],
        lrs: list[float],
        device: str | torch.device = "cpu",
        *args: Any,
        **options: Any,
    ):
        if len(seeds) * len(lrs) != 1:
            raise ValueError("one seed and one learning rate")
        super().__init__(task, seeds, lrs, device, *args, **options)
        seed = self.seeds[0]
        self.games: Games = task.games(task.envs, lambda slot, k: seed_of(seed, f"env/{slot}", k))
        example = task.example()
        self.records, self.batch = Scores.empty(), each(lambda x: x.unsqueeze(0), example)
        # What a segment fills, 17 MB for 80 steps, and the next one again: fresh memory would cost 2 ms each time.
        self.seen, size = example["seen"], (task.length, task.envs)
        self.observations = torch.empty((*size, *example["observation"].shape[1:]), dtype=torch.uint8)
        self.started = False
        self._clock = 0, time.monotonic()

    @property
    def saved(self) -> Any:
        """What a checkpoint holds, with the last segment, on which the variance is measured until the next one."""
        games = {k: torch.as_tensor(v.copy()) for k, v in self.games.state.items()}
        return self.state, self.records, games, {k: v for k, v in self.batch.items() if k != "seen"}

    @saved.setter
    def saved(self, value: Any) -> None:
        self.state, self.records, games, self.batch = value
        self.games.restore({k: v.numpy() for k, v in games.items()})
        self.started = True
        self._clock = int(self.state.t[0]), time.monotonic()

    def _inputs(self, purpose: str, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Play a segment of all games, and return it with the noise that made it."""
        if not self.started:
            self.games.start()
            self.started = True
        _, noise = super()._inputs(purpose, step)
        self.batch = self._segment(noise["act"][0])
        return self.batch, noise

    def _segment(self, noise: Tensor) -> dict[str, Tensor]:
        """Play a segment and return the batch of `relax_exp.tasks.atari.Atari`, with a leading 1.

        ``noise`` is that of the actions, ``(T, E, 1, A)``. While one group of games runs, the actions of the others are
        computed. The next segment overwrites the batch.
        """
        task, games, length = self.task, self.games, len(noise)
        params = {k: v[0] for k, v in self.state.model.params.items()}
        largest = max(where.stop - where.start for where in games.groups)
        applied, perturbation = packed(params, largest), gumbel(noise).squeeze(-2)

        def look(observations: Any) -> Activations:
            return nature(params, torch.as_tensor(observations).to(self.device), applied)

        seen, observations = self.seen, self.observations
        computed = tree_leaves(seen)[1:]  # all but the pixels, which are put there directly
        actions = torch.empty((length, games.slots), dtype=torch.int64)
        paid = np.zeros((length, games.slots))
        over = np.zeros((length, games.slots), bool)
        worth = torch.zeros((length, games.slots), dtype=task.dtype)  # of last states of games that would have gone on

        def receive(t: int, group: int) -> None:
            where = games.groups[group]
            paid[t, where], over[t, where], cut, ended = games.receive(group)
            for slot, (score, final) in ended.items():
                self.records = self.records.add(score)
                if cut[slot - where.start]:
                    worth[t, slot] = task.gamma * look(final[None]).values.item()

        for t in range(length):
            for group, where in enumerate(games.groups):
                if t:
                    receive(t - 1, group)
                observations[t, where] = torch.as_tensor(games.observations[where])
                rows = slice(t * games.slots + where.start, t * games.slots + where.stop)
                now = look(pixels(observations[t, where].to(self.device), seen.layers[0][rows]))
                for whole, part in zip(computed, tree_leaves(now)[1:], strict=True):
                    whole[rows] = part
                actions[t, where] = (now.logits + perturbation[t, where]).argmax(-1).cpu()
                games.send(group, actions[t, where].numpy())
        last = torch.empty(games.slots, dtype=task.dtype)
        for group, where in enumerate(games.groups):
            receive(length - 1, group)
            last[where] = look(games.observations[where]).values.cpu()
        rewards = task.clip(torch.as_tensor(paid).to(task.dtype)) + worth
        returns = bootstrapped(rewards, torch.as_tensor(over), last, task.gamma)
        batch = {
            "observation": observations.flatten(0, 1),
            "action": F.one_hot(actions.flatten(), games.n_actions).unsqueeze(-2).to(task.dtype),
            "return": returns.flatten(),
        }
        batch = {k: v.to(self.device) for k, v in batch.items()}
        return each(lambda x: x.unsqueeze(0), {**batch, "seen": seen})

    def means(self) -> list[dict[str, float]]:
        """Return the means of the metrics, and the explained variance from the variances of all segments."""
        (row,) = super().means()
        of_errors, of_returns = row.pop("variance of errors"), row.pop("variance of returns")
        row["explained_variance"] = 1 - of_errors / of_returns if of_returns else float("nan")
        return [row]

    def clear_means(self) -> None:
        """Start new sums of the metrics and of the returns."""
        super().clear_means()
        zero = torch.zeros_like(self.records.recent)
        self.records = self.records._replace(recent=zero, total=zero.double())
        self._clock = int(self.state.t[0]), time.monotonic()

    def evaluate(self, indices: list[int], step: int, final: bool) -> list[dict[str, float | None]]:
        """Return the metrics: the records of the games, and the log-variance on the last segment."""
        task, (before, then), now = self.task, self._clock, time.monotonic()
        steps = step * task.batch_size
        frames = (step - before) * task.batch_size * task.frame_skip
        row = {**self.records.row(), "agent_steps": steps, "frames": steps * task.frame_skip}
        row["time/frames_per_second"] = frames / max(now - then, 1e-9)
        model, batch = each(lambda x: x[0], (self.state.model, self.batch))
        variance = task.segment_variance(model, batch, self.seeds[0], step)
        return [{**row, **evaluated, **variance} for evaluated in super().evaluate(indices, step, final)]
