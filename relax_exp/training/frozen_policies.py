"""Policies at a given return, at which the gradients of several estimators can be compared."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from relax_exp.errors import RunError
from relax_exp.numerics.trees import each, listed

RATE = 0.01  # of the learner
JUDGED = 20  # returns whose mean is compared with the level
MOST = 5_000  # episodes of the learner


class Trainer(Protocol):
    """What is asked of the trainer of whole episodes; ``records.last``: latest returns of the replicas, ``(R, N)``."""

    task: Any
    seeds: list[int]
    labels: list[tuple[int, float]]
    device: Any
    state: Any
    records: Any

    def __init__(self, task: Any, seeds: list[int], lrs: list[float], device: Any): ...

    def advance(self, steps: int) -> Iterator[int]:
        """Take steps."""
        ...


def freeze(trainer: Trainer) -> None:
    """Give the trainer's replicas the policies at which ``task.freeze_at`` is first reached by its `learner`.

    They depend on the seed, not on the estimator. Raises RunError where a learner does not get there.
    """
    task = trainer.task
    assert task.freeze_at is not None
    taken = policies(type(trainer)(task.learner(), trainer.seeds, [RATE], trainer.device), task.freeze_at)
    index = [trainer.seeds.index(seed) for seed, _ in trainer.labels]
    params = each(lambda leaf: leaf[index].clone(), taken)
    trainer.state = trainer.state._replace(model=trainer.state.model._replace(params=params))


def policies(learner: Trainer, level: float) -> dict[str, Tensor]:
    """Train until every replica's mean of `JUDGED` returns has reached ``level``; its parameters then, stacked."""
    taken, found = None, torch.zeros(len(learner.labels), dtype=torch.bool)
    for _ in learner.advance(MOST):
        params = learner.state.model.params
        taken = tree_map(torch.clone, params) if taken is None else taken
        at = (learner.records.episodes.unsqueeze(1) - 1 - torch.arange(JUDGED)) % learner.records.last.shape[1]
        new = (learner.records.last.gather(1, at).mean(1) >= level) & ~found  # a mean with a NaN reaches nothing
        if new.any():
            taken = tree_map(functools.partial(_where, new), params, taken)
            found = found | new
        if found.all():
            return taken
    missing: list[int] = listed(torch.nonzero(~found).flatten())
    late = [learner.labels[i][0] for i in missing]
    raise RunError(
        f"task.freeze_at={level:g}: the policies of seeds {', '.join(map(str, late))} do not return so much within "
        f"{MOST:,} episodes: lower it"
    )


def _where(which: Tensor, now: Tensor, old: Tensor) -> Tensor:
    return torch.where(which.to(old.device).view(-1, *[1] * (old.dim() - 1)), now, old)
