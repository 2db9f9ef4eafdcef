"""What a run has trained, for use from Python: parameters by name, with the task that they belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from relax_exp.config.added_keys import completed
from relax_exp.errors import RunError
from relax_exp.numerics.trees import each
from relax_exp.run_files import CHECKPOINT, CONFIG
from relax_exp.runs import checkpoint
from relax_exp.runs.build import build_task, build_trainer
from relax_exp.tasks.base import Model


class Trained(NamedTuple):
    """One replica of a run, as its checkpoint has it.

    Attributes:
        task: The task, which evaluates such models.
        seed: That of the replica.
        lr: Its learning rate.
        step: The number of steps taken.
        model: ``params`` of the model, ``tuning`` parameters and ``buffers`` of its estimators, tensors by name.
        best: The ``params`` at the best validation bound and the ``step`` of it, or None where the task selects none.
    """

    task: Any
    seed: int
    lr: float
    step: int
    model: Model
    best: dict[str, Any] | None


def load(folder: str | os.PathLike[str], data_root: str | None = None) -> list[Trained]:
    """Load what a run has trained, finished or not, onto the CPU: one `Trained` for each seed and learning rate.

    The task is built as the run built it, with its data; a game is played again up to where the run stands.

    Args:
        folder: That of the run.
        data_root: Where the data are, if elsewhere than when the run was made.

    Raises:
        RunError: There is no checkpoint in the folder, or it is damaged.
        DataError: The run's data cannot be had.
    """
    folder = Path(folder)
    missing = [name for name in (CONFIG, CHECKPOINT) if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder} has no {missing[0]}: it is not the folder of a run that has trained something")
    config = completed(yaml.safe_load((folder / CONFIG).read_text()))
    device = torch.device("cpu")
    task = build_task(config | ({} if data_root is None else {"data_root": data_root}), device)
    trainer = build_trainer(task, config["seeds"], config["lrs"], device, compiled=False)
    trainer.saved, _ = checkpoint.load(folder / CHECKPOINT, trainer.saved)
    best = getattr(trainer, "best", {})
    found = []
    for i, (seed, lr) in enumerate(trainer.labels):
        model, kept = each(lambda leaf, i=i: leaf[i], (trainer.state.model, best))
        found.append(Trained(task, seed, lr, int(trainer.state.t[i]), model, kept or None))
    return found
