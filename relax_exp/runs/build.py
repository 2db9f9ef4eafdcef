"""The task of a configuration and the trainer of a task, from the registry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from relax_exp.config.resolve import task_options
from relax_exp.config.yaml_files import of_task
from relax_exp.errors import SettingError
from relax_exp.tasks.registry import TASKS

if TYPE_CHECKING:
    from relax_exp.data import ImageData

TRAINERS = {  # by what a task learns from
    "data": "replicas:Replicas",
    "episodes": "episodes:Episodes",
    "batches": "episode_batches:Batches",
    "segments": "game_segments:Segments",
}


def build_task(config: dict, device):
    """Build the task of a resolved configuration, with the estimators to track.

    Raises:
        DataError: Its data cannot be had.
    """
    import torch

    values = dict(config["task"])
    entry = TASKS[name := values.pop("name")]
    given = {"batch_size": config["batch_size"], "dtype": getattr(torch, config["dtype"]), "device": device}
    if "dataset" in values:
        from relax_exp.data import load

        given["data"] = load(values["dataset"], config["data_root"], values["binarize"])
    Chosen, options = _named("tasks", entry.path), entry.options(**values)
    own = config["estimator"]["name"]
    task = Chosen(config["estimator"], options, **given)
    others = {name: estimator for name, estimator in config["track"].items() if name != own}
    if not others:
        return task
    from relax_exp.tasks.base import Task
    from relax_exp.tasks.tracked import Tracked

    if type(task).variance is Task.variance:
        raise SettingError(
            f"task={name} measures no variance of its gradient, which track=[...] is about: leave it out"
        )

    return Tracked(task, own, {name: Chosen(it, options, **given) for name, it in others.items()})


def make_task(
    name: str,
    estimator: dict[str, Any],
    data: ImageData | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    device: Any = "cpu",
    **changes: Any,
) -> Any:
    """Build a task from Python, with the values of its file where nothing else is given.

    Args:
        name: That of a registered task.
        estimator: ``name`` and options of an estimator.
        data: Images, for a task on images.
        batch_size: Rows of an update; None: as in the file.
        dtype: None: torch.float32.
        device: A torch device.
        changes: Keys of the task.

    Raises:
        ConfigError: A key is unknown, or its value wrong.
    """
    import torch

    given: dict[str, Any] = {"batch_size": batch_size or of_task(name)["batch_size"], "device": device}
    given |= {"dtype": dtype or torch.float32} | ({} if data is None else {"data": data})
    return _named("tasks", TASKS[name].path)(estimator, task_options(name, **changes), **given)


def build_trainer(task, seeds: list[int], lrs: list[float], device, compiled: bool):
    """Build the trainer of a registered task, with a replica for every seed and learning rate."""
    return _named("training", TRAINERS[TASKS[task.name].experience])(task, seeds, lrs, device, compiled)


def build_together(tasks: list, seeds: list[int], lrs: list[float], device, compiled: bool):
    """Build the trainer of tasks that differ in their data alone; its ``parts`` are a trainer of each."""
    from relax_exp.training.together import Together

    return Together(tasks, seeds, lrs, device, compiled)


def _named(package: str, path: str):
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"relax_exp.{package}.{module}"), name)
