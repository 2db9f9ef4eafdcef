"""Policies at a given return, at which the gradients of several estimators can be compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from relax_exp.errors import RunError
from relax_exp.training.episodes import LAST, Episodes

RATE = 0.01  # of the learner
JUDGED = 20  # returns whose mean is compared with the level
MOST = 5_000  # episodes of the learner


def freeze(trainer: Episodes) -> None:
    """Give the trainer's replicas the policies at which ``task.freeze_at`` is first reached by its `learner`.

    They depend on the seed, not on the estimator. Raises RunError where a learner does not get there.
    """
    task = trainer.task
    assert task.freeze_at is not None
    taken = policies(Episodes(task.learner(), trainer.seeds, [RATE], trainer.device), task.freeze_at)
    index = [trainer.seeds.index(seed) for seed, _ in trainer.labels]
    params = tree_map(lambda leaf: leaf[index].clone(), taken)
    trainer.state = trainer.state._replace(model=trainer.state.model._replace(params=params))


def policies(learner: Episodes, level: float) -> dict[str, Tensor]:
    """Train until every replica's mean of `JUDGED` returns has reached ``level``; its parameters then, stacked."""
    taken, found = None, torch.zeros(len(learner.labels), dtype=torch.bool)
    for _ in learner.advance(MOST):
        params = learner.state.model.params
        taken = tree_map(torch.clone, params) if taken is None else taken
        at = (learner.records.episodes.unsqueeze(1) - 1 - torch.arange(JUDGED)) % LAST
        new = (learner.records.last.gather(1, at).mean(1) >= level) & ~found  # a mean with a NaN reaches nothing
        if new.any():
            taken = tree_map(lambda old, now: torch.where(_like(new, old), now, old), taken, params)  # noqa: B023
            found = found | new
        if found.all():
            return taken
    late = [learner.labels[i][0] for i in torch.nonzero(~found).flatten().tolist()]
    raise RunError(
        f"task.freeze_at={level:g}: the policies of seeds {', '.join(map(str, late))} do not return so much within "
        f"{MOST:,} episodes: lower it"
    )


def _like(which: Tensor, leaf: Tensor) -> Tensor:
    return which.to(leaf.device).view(-1, *[1] * (leaf.dim() - 1))
