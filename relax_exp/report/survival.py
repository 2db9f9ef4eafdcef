"""How long something takes where some were not followed to the end: the product-limit estimate and what follows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Z = 1.959964  # of a 95% interval


class Survival(NamedTuple):
    """The product-limit estimate (Kaplan & Meier 1958) of S(t), the share for whom it takes longer than t.

    ``times`` ``(J,)``: when it happened to someone, ascending; ``share``: S from there to the next; ``happened`` and
    ``watched``: to how many then, and of how many; ``followed``: how long somebody was watched; ``n``: of how many.
    """

    times: np.ndarray
    share: np.ndarray
    happened: np.ndarray
    watched: np.ndarray
    followed: float
    n: int

    @property
    def complete(self) -> bool:
        """Whether it happened to all who were watched to the last: the restricted mean then has no restriction."""
        return bool(len(self.share)) and self.share[-1] == 0

    @property
    def median(self) -> float:
        """The first time at which S is at most one half; NaN where it stays above."""
        below = np.flatnonzero(self.share <= 0.5 + 1e-12)
        return float(self.times[below[0]]) if len(below) else float("nan")

    @property
    def median_interval(self) -> tuple[float, float]:
        """The times whose S is compatible with one half (Brookmeyer & Crowley 1982, on the scale of log(-log S)).

        95%; infinite where the watching ended before.
        """
        greenwood = np.cumsum(self.happened / np.maximum(self.watched * (self.watched - self.happened), 1e-300))
        inside = (self.share > 0) & (self.share < 1)
        log = np.log(np.where(inside, self.share, 0.5))
        z = (np.log(-log) - np.log(np.log(2))) / (np.sqrt(greenwood) / np.abs(log))
        fits = inside & (np.abs(z) <= Z)
        after = np.flatnonzero(~fits & (self.share < 0.5))
        after = after[after > np.flatnonzero(fits).max(initial=-1)] if fits.any() else after
        low = self.times[fits][0] if fits.any() else self.times[after[0]] if len(after) else float("inf")
        return float(low), float(self.times[after[0]]) if len(after) else float("inf")

    @property
    def mean(self) -> tuple[float, float]:
        """The mean time restricted to ``followed``, the integral of S up to there, and half of its 95% interval.

        Its variance is Greenwood's: the sum over the times of (integral of S from there)^2 d / (n (n - d)).
        """
        edges = np.concatenate([[0.0], self.times, [self.followed]])
        areas = np.diff(edges) * np.concatenate([[1.0], self.share])
        rest = areas[::-1].cumsum()[::-1][1:]  # beyond each time
        more = np.where(rest > 0, self.watched * (self.watched - self.happened), 1)
        variance = (np.where(rest > 0, rest, 0.0) ** 2 * self.happened / np.maximum(more, 1)).sum()
        return float(areas.sum()), float(Z * np.sqrt(variance * self.n / max(self.n - 1, 1)))


def survival(times: np.ndarray, happened: np.ndarray) -> Survival:
    """The estimate from the times ``(N,)`` at which it happened, or at which the watching ended (``happened`` False).

    Who was watched until the time when it happened to another was at risk then.
    """
    times, happened = np.asarray(times, float), np.asarray(happened, bool)
    at = np.unique(times[happened])
    counts = np.array([(times[happened] == t).sum() for t in at], float)
    watched = np.array([(times >= t).sum() for t in at], float)
    share = np.cumprod(1 - counts / watched) if len(at) else np.empty(0)
    return Survival(at, share, counts, watched, float(times.max(initial=0.0)), len(times))
