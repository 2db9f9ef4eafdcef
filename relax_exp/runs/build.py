"""The task of a configuration and the trainer of a task, from the registry."""

from __future__ import annotations

import importlib

from relax_exp.errors import SettingError
from relax_exp.tasks.registry import TASKS

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

    options = dict(config["task"])
    name = options.pop("name")
    options |= {"batch_size": config["batch_size"], "dtype": getattr(torch, config["dtype"]), "device": device}
    Chosen = _named("tasks", TASKS[name].path)
    if "dataset" in options:
        from relax_exp.data import load

        options["data"] = load(options.pop("dataset"), config["data_root"], options.pop("binarize"))
    own = config["estimator"]["name"]
    task = Chosen(estimator=config["estimator"], **options)
    others = {name: estimator for name, estimator in config["track"].items() if name != own}
    if not others:
        return task
    from relax_exp.tasks.base import Task
    from relax_exp.tasks.tracked import Tracked

    if type(task).variance is Task.variance:
        raise SettingError(
            f"task={name} measures no variance of its gradient, which track=[...] is about: leave it out"
        )

    return Tracked(task, own, {name: Chosen(estimator=it, **options) for name, it in others.items()})


def build_trainer(task, seeds: list[int], lrs: list[float], device, compiled: bool):
    """Build the trainer of a registered task, with a replica for every seed and learning rate."""
    return _named("training", TRAINERS[TASKS[task.name].experience])(task, seeds, lrs, device, compiled)


def _named(package: str, path: str):
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"relax_exp.{package}.{module}"), name)
