"""The tasks, by name. To add one, write one file beside this one and add its lines here."""

from __future__ import annotations

HEADLINES = {  # metrics shown on the console at each evaluation
    "toy": ("excess", "theta", "grad/log_variance"),
    "vae": ("train/elbo", "valid/elbo", "valid/bound100", "grad/log_variance"),
}


def build_task(config: dict, device):
    """The task of a resolved configuration. DataError where its data cannot be had."""
    import torch

    options = dict(config["task"])
    name = options.pop("name")
    common = {
        "estimator": config["estimator"],
        "batch_size": config["batch_size"],
        "dtype": getattr(torch, config["dtype"]),
        "device": device,
    }
    if name == "toy":
        from relax_exp.tasks.toy import Toy

        return Toy(**options, **common)
    from relax_exp.data import load
    from relax_exp.tasks.vae import VAE

    data = load(options.pop("dataset"), config["data_root"], options.pop("binarize"))
    return VAE(data=data, **options, **common)
