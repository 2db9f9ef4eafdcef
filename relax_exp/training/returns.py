"""What is kept of the returns of past episodes: of one agent's games, and of replicas side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LAST = 100  # episodes that ``return100``, and whether an environment is solved, are about


def metrics(last: Tensor, episodes: Tensor, recent: Tensor, total: Tensor) -> dict[str, float | int | None]:
    """Return the metrics of one agent from what `Scores` keeps of it, which is described there."""
    return {
        "return": float(total) / int(recent) if recent else None,
        "return100": float(last.nanmean()) if episodes else None,
        "episodes": int(episodes),
    }


class Scores(NamedTuple):
    """The returns of the last episodes.

    Attributes:
        last: The last returns, ``(LAST,)``, NaN before there are so many.
        episodes: The number of episodes.
        recent: The number of those since the last evaluation.
        total: The sum of their returns.
    """

    last: Tensor
    episodes: Tensor
    recent: Tensor
    total: Tensor

    @classmethod
    def empty(cls) -> Scores:
        """Return the records before any episode."""
        whole = torch.zeros((), dtype=torch.int64)
        return cls(torch.full((LAST,), torch.nan, dtype=torch.float64), whole, whole, whole.double())

    def add(self, score: float) -> Scores:
        """Return the records with one more episode."""
        last = self.last.clone()
        last[int(self.episodes) % LAST] = score
        return Scores(last, self.episodes + 1, self.recent + 1, self.total + score)

    def row(self) -> dict[str, float | int | None]:
        """Return the metrics."""
        return metrics(self.last, self.episodes, self.recent, self.total)


class Records(NamedTuple):
    """What became of the episodes of each replica; all tensors are ``(R,)``, but for ``last``.

    Attributes:
        last: The last returns, ``(R, LAST)``, NaN before there are so many.
        total: The sum of the returns since the last evaluation.
        recent: Their number.
        episodes: The number of episodes since the start.
        frames: That of frames.
        solved_episodes: The number of episodes when the mean of a full ``last`` first reached the threshold, 0 before.
        solved_frames: The number of frames then.
    """

    last: Tensor
    total: Tensor
    recent: Tensor
    episodes: Tensor
    frames: Tensor
    solved_episodes: Tensor
    solved_frames: Tensor

    @classmethod
    def empty(cls, replicas: int) -> Records:
        """Return the records of replicas that have not done anything."""
        zeros = [torch.zeros(replicas, dtype=torch.int64) for _ in range(5)]
        last = torch.full((replicas, LAST), torch.nan, dtype=torch.float64)
        return cls(last, torch.zeros(replicas, dtype=torch.float64), *zeros)

    def add(self, returns: Tensor, frames: Tensor, active: Tensor, threshold: float) -> Records:
        """Return the records with more episodes ``(R, E)`` of the active replicas, one after the other.

        Those without a frame are none.
        """
        last, total, count, episodes, used, solved_episodes, solved_frames = self
        going = active
        for value, length in zip(returns.T, frames.T, strict=True):
            active = going & (length > 0)
            here = active.unsqueeze(1) & (episodes.unsqueeze(1) % LAST == torch.arange(LAST))
            last = torch.where(here, value.unsqueeze(1), last)
            total, count = total + torch.where(active, value, 0.0), count + active
            episodes, used = episodes + active, used + torch.where(active, length, 0)
            now = active & (solved_episodes == 0) & (last.mean(1) >= threshold)  # a mean with a NaN reaches nothing
            solved_episodes = torch.where(now, episodes, solved_episodes)
            solved_frames = torch.where(now, used, solved_frames)
        return Records(last, total, count, episodes, used, solved_episodes, solved_frames)

    def row(self, i: int) -> dict[str, float | int | None]:
        """Return the metrics of one replica."""
        solved = int(self.solved_episodes[i])
        return metrics(self.last[i], self.episodes[i], self.recent[i], self.total[i]) | {
            "frames": int(self.frames[i]),
            "solved_episodes": solved or None,
            "solved_frames": int(self.solved_frames[i]) if solved else None,
        }
