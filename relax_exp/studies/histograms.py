"""``task=histograms``: single gradients at fixed parameters, and what LAX's are the sum of.

After the figure of the final RELAX paper, section 3, which shows samples of LAX and its three parts from a VAE. Here
the problems are those of `relax_exp.tasks.toy` and `relax_exp.tasks.lax_toy`, at the parameters that their runs start
from, so that the exact gradient is known.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from relax_exp import estimators
from relax_exp.config.resolve import estimator_options
from relax_exp.numerics.random_streams import stream
from relax_exp.report.studies.histograms import LAX_PARTS
from relax_exp.runs.build import make_task
from relax_exp.studies import study
from relax_exp.training.replicas import Replicas

BINS = 61  # an odd number: zero is the middle of a bin
HELD = 0.99  # of all gradients of a problem lie within the bins, and a tenth of room on either side


def tuned(name: str, estimator: str, config: dict, **options: Any) -> Any:
    """Return the task of that name whose estimator has been tuned at the first parameters, which stay there."""
    task = make_task(name, estimator_options(estimator, name), dtype=torch.float64, **options)
    task.frozen = True
    replicas = Replicas(task, config["seeds"][:1], config["lrs"][:1])
    for _ in replicas.advance(config["steps"]):
        pass
    model = replicas.state.model
    task.estimator.load_state_dict({key: value[0] for key, value in {**model.tuning, **model.buffers}.items()})
    print(f"tuned {estimator} on task={name}", file=sys.stderr, flush=True)
    return task


def of_bits(config: dict) -> tuple[dict[str, Tensor], float]:
    """Draw gradients of the toy problem at theta = 1/2, with respect to its logit, ``(draws,)``.

    Returns:
        The gradients by estimator, and the exact one.
    """
    found = {}
    logit = torch.zeros(1, 1, dtype=torch.float64)
    for name in ("reinforce", "rebar", "relax"):
        task = tuned("toy", name, config, t=config["task"]["t"])
        generator = stream(config["seeds"][0], "histogram")
        many = logit.expand(config["task"]["draws"], 1)
        found[name] = task.estimator(many, task.loss, generator=generator).grad[:, 0]
    exact = estimators.build("exact", "bernoulli", (1,)).double()
    return found, float(exact(logit, task.loss, generator=generator).grad)


def of_gaussian(config: dict) -> tuple[dict[str, Tensor], float]:
    """Draw gradients of a function of a standard normal variable, with respect to its mean, ``(draws,)``.

    All are of the same noise, so that LAX is what its parts add up to, draw by draw.

    Returns:
        The gradients by estimator and by part of LAX, and the exact one.
    """
    task = tuned("lax_toy", "lax", config, problem=config["task"]["problem"])
    parameters = torch.zeros(1, 2, dtype=torch.float64)
    many = parameters.expand(config["task"]["draws"], 1, 2)
    noise = task.estimator.noise(len(many), stream(config["seeds"][0], "histogram"), dtype=torch.float64)

    def surrogate(b: Tensor) -> Tensor:
        return task.estimator.control(b, 0.0)

    def gradients(name: str, f) -> Tensor:
        return estimators.build(name, "gaussian", (1,)).double()(many, f, noise=noise).grad[:, 0, 0]

    found = {"reinforce": gradients("reinforce", task.loss)}
    found["reparameterization"] = gradients("reparameterization", task.loss)
    found["lax"] = task.estimator(many, task.loss, noise=noise).grad[:, 0, 0]
    _, of_surrogate, along_path = LAX_PARTS
    found[of_surrogate] = gradients("reinforce", surrogate)
    found[along_path] = gradients("reparameterization", surrogate)
    return found, float(grad(task.excess)(parameters)[0, 0])


def summarized(problem: str, found: dict[str, Tensor], exact: float) -> tuple[list[dict], list[dict]]:
    """Return a row with mean and spread of each estimator's gradients, and a row for each bin of its histogram."""
    limit = 1.1 * float(torch.cat([*found.values()]).abs().quantile(HELD))
    edges = np.linspace(-limit, limit, BINS + 1)
    rows, bins = [], []
    for name, gradients in found.items():
        mean, sd, n = float(gradients.mean()), float(gradients.std()), len(gradients)
        counts, _ = np.histogram(gradients.numpy(), edges)
        measured = {"mean": mean, "exact": exact, "error": sd / n**0.5, "sd": sd, "outside": 1 - counts.sum() / n}
        rows.append({"problem": problem, "estimator": name, **measured})
        bins += [
            {"problem": problem, "estimator": name, "left": left, "right": right, "share": count / n}
            for left, right, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        ]
    return rows, bins


def measure_all(config: dict[str, Any]) -> dict[str, study.Rows]:
    """Return the rows of the gradients and those of the bins, by name."""
    parts = [summarized("toy", *of_bits(config)), summarized("gaussian", *of_gaussian(config))]
    gradients, bins = ([row for part in parts for row in part[i]] for i in (0, 1))
    return {"gradient": gradients, "histogram": bins}


def execute(config: dict[str, Any]) -> int:
    """Tune, draw, write tables and figures, print the table. Returns 0."""
    return study.conduct(config, measure_all)
