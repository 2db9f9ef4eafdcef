"""The cell: the replicas that one row of a table, or one curve, speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relax_exp.report.runs import Replica, Run, series
from relax_exp.run_files import DONE, FAILED


@dataclass(frozen=True, eq=False)
class Cell:
    """Replicas of one configuration at one learning rate.

    ``kind`` is that of its table; ``task`` and ``estimator`` are labels.
    """

    kind: str
    task: str
    name: str
    estimator: str
    lr: float
    replicas: tuple[Replica, ...]
    family: str = ""  # the estimator's label without rates and steps: cells that differ in nothing else share it

    @cached_property
    def counted(self) -> list[Replica]:
        """The replicas behind the numbers: those that are done, or while none is, those that have not failed."""
        done = [r for r in self.replicas if r.status == DONE]
        return done or [r for r in self.replicas if r.status != FAILED]

    @property
    def finished(self) -> bool:
        """True where the numbers are those of finished replicas."""
        return any(r.status == DONE for r in self.replicas)

    @cached_property
    def steps(self) -> int:
        """The last step that all counted replicas have reached."""
        return min((r.last_step for r in self.counted), default=0)

    @property
    def planned(self) -> int:
        """The steps that were asked for."""
        return self.replicas[0].run.config.get("steps", 0)

    @property
    def runs(self) -> list[Run]:
        """The folders that the replicas come from."""
        return list({id(r.run): r.run for r in self.replicas}.values())

    def series(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps ``(S,)`` and values ``(S, seeds)`` of the counted replicas."""
        return series(self.counted, metric, self.steps)

    def last(self, metric: str) -> np.ndarray:
        """Return the metric at the last step, one value a seed."""
        return np.array([r.value(metric, self.steps) for r in self.counted], dtype=float)

    @property
    def status(self) -> str:
        """The word ``done``, or what is missing."""
        others = [r for r in self.replicas if r.status != DONE]
        if not others:
            return DONE
        parts = [f"{len(self.replicas) - len(others)} of {len(self.replicas)} done"] if self.finished else []
        for status in dict.fromkeys(r.status for r in others):
            which = [r for r in others if r.status == status]
            seeds = f"seed{'s' * (len(which) > 1)} {', '.join(str(r.seed) for r in which)} "
            at = "" if status == FAILED else f" at {max(r.last_step for r in which):,} of {self.planned:,}"
            parts.append(f"{seeds if self.finished or len(which) < len(others) else ''}{status}{at}")
        return "; ".join(parts)


def differences(first: Cell, second: Cell, metric: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Compute ``first`` minus ``second`` of the seeds that both have, at the evaluations that both have.

    Returns:
        Steps ``(S,)``, differences ``(S, seeds)``, NaN where one has no value, and the seeds.
    """
    of: list[dict[int, Replica]] = [{r.seed: r for r in cell.counted} for cell in (first, second)]
    seeds = sorted(of[0].keys() & of[1].keys())
    until = min((r.last_step for each in of for seed, r in each.items() if seed in seeds), default=0)
    (steps, a), (others, b) = (series([each[seed] for seed in seeds], metric, until) for each in of)
    common = [step for step in steps if step in set(others.tolist())]
    rows = [np.flatnonzero(each == step)[0] for each in (steps, others) for step in common]
    half = len(common)
    return np.array(common, dtype=int), a[rows[:half]] - b[rows[half:]], seeds
