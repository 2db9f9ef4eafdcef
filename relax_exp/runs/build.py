"""The task of a configuration, from the registry."""

from __future__ import annotations

import importlib

from relax_exp.tasks.registry import CLASSES


def build_task(config: dict, device):
    """The task of a resolved configuration, with the estimators to track. DataError where its data cannot be had."""
    import torch

    options = dict(config["task"])
    name = options.pop("name")
    options |= {"batch_size": config["batch_size"], "dtype": getattr(torch, config["dtype"]), "device": device}
    module, cls = CLASSES[name]
    Chosen = getattr(importlib.import_module(f"relax_exp.tasks.{module}"), cls)
    if "dataset" in options:
        from relax_exp.data import load

        options["data"] = load(options.pop("dataset"), config["data_root"], options.pop("binarize"))
    own = config["estimator"]["name"]
    task = Chosen(estimator=config["estimator"], **options)
    others = {name: estimator for name, estimator in config["track"].items() if name != own}
    if not others:
        return task
    from relax_exp.tasks.tracked import Tracked

    return Tracked(task, own, {name: Chosen(estimator=it, **options) for name, it in others.items()})
