"""``task=temperature``: bias and variance of the relaxations against their temperature, and schedules over training.

Neither the paper of the Concrete distribution nor that of Gumbel-Softmax has such a study. It is made on a problem of
`relax_exp.tasks.categorical_toy`, where the gradient is known exactly.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relax_exp import estimators
from relax_exp.errors import SettingError
from relax_exp.numerics.moments import Moments
from relax_exp.numerics.random_streams import stream
from relax_exp.report.studies.temperature import EXACT, FIXED, UNBIASED
from relax_exp.studies import study
from relax_exp.tasks.categorical_toy import CategoricalToy
from relax_exp.tasks.registry import TASKS, CategoricalToyOptions
from relax_exp.training.replicas import Replicas

STUDIED = TASKS["temperature"].estimators or ()
ANNEALED = ("concrete", "st_gumbel")  # of these, those that are also trained with a temperature that falls
LOWEST, HIGHEST = 0.05, 5.0
ANNEALED_BY = 0.8  # of the run: when the annealed temperature arrives
ROWS = 20_000  # gradients at a time


class Deviation(NamedTuple):
    """How far gradients are from the exact one, over many draws.

    mean: their mean deviation, ``(C,)``. variance: their variances, summed. error: the standard error of the mean's
    length. exact: the exact gradient, ``(C,)``.
    """

    mean: Tensor
    variance: Tensor
    error: Tensor
    exact: Tensor

    @property
    def bias(self) -> Tensor:
        """The length of E[gradient] - exact.

        Its square is lowered by what the finite number of draws adds to it on average.
        """
        return (self.mean.square().sum() - self.error.square()).clamp(min=0).sqrt()


def deviation(name: str, options: dict, task: CategoricalToy, logits: Tensor, draws: int, seed: int) -> Deviation:
    """Measure ``draws`` gradients of an estimator at ``logits``, (1, C), where the exact gradient is enumerated."""
    p = logits.softmax(-1)
    exact = (p * (task.values - p @ task.values))[0]
    estimator = estimators.build(name, "categorical", task.event_shape, **options).double()
    generator = stream(seed, "temperature")  # the same noise at all temperatures: smooth curves
    most = min(ROWS, max(1, 10 * ROWS // options.get("draws", 1)))
    moments = Moments(exact)
    while moments.count < draws:
        rows = min(most, draws - moments.count)
        noise = estimator.noise(rows, generator, dtype=torch.float64)
        moments.add(estimator(logits.expand(rows, *logits.shape), task.loss, noise=noise).grad[:, 0])
    variance = moments.variance.sum()
    return Deviation(moments.deviation, variance, (variance / draws).sqrt(), exact)


def measure(name: str, options: dict, task: CategoricalToy, logits: Tensor, draws: int, seed: int) -> dict[str, float]:
    """Measure the bias and the spread of one gradient at ``logits``, (1, C), relative to the exact gradient's length.

    Returns:
        ``bias``, the length of E[gradient] - exact, see `Deviation`; ``error``, the standard error of the mean; ``sd``,
        the square root of the summed variances; ``rmse`` of one draw; ``cosine`` of E[gradient] with the exact one.
    """
    found = deviation(name, options, task, logits, draws, seed)
    bias, variance = found.bias, found.variance
    cosine = torch.nn.functional.cosine_similarity(found.exact + found.mean, found.exact, dim=0)
    rmse = (bias.square() + variance).sqrt()
    lengths = {"bias": bias, "error": found.error, "sd": variance.sqrt(), "rmse": rmse}
    return {k: float(v / found.exact.norm()) for k, v in lengths.items()} | {"cosine": float(cosine)}


def against_temperature(task: CategoricalToy, names: list[str], options: dict, seed: int) -> list[dict]:
    """Measure every estimator at every temperature, and the unbiased ones, at one point of the simplex."""
    generator = stream(seed, "logits")
    logits = options["scale"] * torch.randn(task.event_shape, generator=generator, dtype=torch.float64)
    grid = np.geomspace(LOWEST, HIGHEST, options["points"]).tolist()
    cells = [(name, {"temperature": at}) for name in names for at in grid] + [(name, {}) for name in UNBIASED]
    rows = []
    for name, given in cells:
        rows.append({"estimator": name, **given, **measure(name, given, task, logits, options["draws"], seed)})
        if given.get("temperature") in (None, grid[-1]):
            print(f"measured {name}", file=sys.stderr, flush=True)
    return rows


def schedules(config: dict, names: list[str]) -> list[dict]:
    """Train at fixed temperatures, with an annealed one, and with unbiased gradients.

    Returns:
        Rows with the excess loss over steps.
    """
    steps = config["steps"]
    start, end = FIXED[-1], FIXED[0]
    annealed = {"schedule": "annealed", "temperature": start, "minimum": end, "anneal_every": max(1, steps // 100)}
    annealed["rate"] = math.log(start / end) / (ANNEALED_BY * steps)
    settings = [(name, f"fixed {at:g}", {"temperature": at}) for name in names for at in FIXED]
    tempered = [name for name in names if name in ANNEALED]
    settings += [(name, f"annealed {start:g} to {end:g}", annealed) for name in tempered]
    settings += [(name, "", {}) for name in EXACT]
    rows = []
    for name, label, given in settings:
        task = toy(config, {"name": name, **given}, torch.float32)
        replicas = Replicas(task, config["seeds"], config["lrs"][:1])
        for step in replicas.advance(steps):
            if step % config["eval_every"] == 0 or step == steps:
                for seed, exact in zip(config["seeds"], task.exact(replicas.state.model), strict=True):
                    rows.append({"estimator": name, "schedule": label, "step": step, "seed": seed, **exact})
        print(f"trained {name} {label}", file=sys.stderr, flush=True)
    return rows


def toy(config: dict, estimator: dict, dtype: torch.dtype) -> CategoricalToy:
    """Build the problem of the configuration."""
    chosen = {key: config["task"][key] for key in ("problem", "categories", "optimizer")}
    options = CategoricalToyOptions(variance_draws=config["task"]["draws"], **chosen)
    return CategoricalToy(estimator, options, batch_size=config["batch_size"], dtype=dtype)


def measure_all(config: dict[str, Any]) -> dict[str, study.Rows]:
    """Return the rows of both parts, by name."""
    torch.set_flush_denormal(True)
    name = config["estimator"]["name"]
    names: list[str] = list(STUDIED) if name == "all" else [name]
    task = toy(config, {"name": "exact"}, torch.float64)
    return {
        "gradient": against_temperature(task, names, config["task"], config["seeds"][0]),
        "training": schedules(config, names),
    }


def execute(config: dict[str, Any]) -> int:
    """Measure, train, write tables and figures, print the tables. Returns 0."""
    name = config["estimator"]["name"]
    if config["estimator"].get("path"):
        raise SettingError("task=temperature studies registered estimators only: leave estimator.path out")
    if name != "all" and "temperature" not in config["estimator"]:
        raise SettingError(f"{name} has no temperature: choose one of {', '.join(STUDIED)}, or none for all of them")
    return study.conduct(config, measure_all)
