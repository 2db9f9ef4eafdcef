"""The tasks, by name. To add one, write one file beside this one and add its lines here."""

from __future__ import annotations

import importlib

CLASSES = {  # module and class
    "toy": ("toy", "Toy"),
    "categorical_toy": ("categorical_toy", "CategoricalToy"),
    "lax_toy": ("lax_toy", "LaxToy"),
    "vae": ("vae", "VAE"),
    "categorical_vae": ("categorical_vae", "CategoricalVAE"),
    "sequence": ("sequence", "Sequence"),
    "cartpole": ("cartpole", "CartPole"),
    "atari": ("atari", "Atari"),
    "continuous": ("continuous", "Continuous"),
}
HEADLINES = {  # metrics shown on the console at each evaluation
    "toy": ("excess", "theta", "grad/log_variance"),
    "categorical_toy": ("loss", "excess", "p_best", "grad/log_variance"),
    "lax_toy": ("excess", "mean", "std", "grad/log_variance"),
    "vae": ("train/elbo", "valid/elbo", "valid/bound100", "grad/log_variance"),
    "categorical_vae": ("train/elbo", "valid/elbo", "valid/bound100", "grad/log_variance"),
    "sequence": ("train/bpc", "valid/bpc", "valid/bpc100", "valid/bpc_counts", "grad/log_variance"),
    "continuous": ("return", "return100", "episodes", "frames", "solved_episodes", "grad/log_variance"),
    "cartpole": ("return", "return100", "episodes", "frames", "solved_episodes", "grad/log_variance"),
    "atari": ("return", "value_loss", "entropy", "eval/return", "time/frames_per_second"),
}


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
