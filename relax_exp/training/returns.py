"""Returns of the last episodes of games that go on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LAST = 100  # episodes that ``return100``, and whether an environment is solved, are about


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
        recent, episodes = int(self.recent), int(self.episodes)
        return {
            "return": float(self.total) / recent if recent else None,
            "return100": float(self.last.nanmean()) if episodes else None,
            "episodes": episodes,
        }
