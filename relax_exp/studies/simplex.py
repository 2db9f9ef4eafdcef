"""``task=simplex``: three categories on the simplex, where all that relaxations do can be seen.

The Concrete density at several temperatures (Maddison et al. 2017), from its formula; and the bias and
the variance of straight-through Gumbel-Softmax and Gumbel-Rao (Paulus et al. 2021), measured on the quadratic of
`relax_exp.tasks.categorical_toy`, where the gradient is known exactly.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relax_exp.distributions.categorical import Categorical
from relax_exp.report.figures import ternary
from relax_exp.report.studies.simplex import DENSITIES, MAPPED_K, MAPS, WEIGHTS, draws_of_maps
from relax_exp.runs.build import make_task
from relax_exp.studies import study
from relax_exp.studies.temperature import HIGHEST, LOWEST, deviation
from relax_exp.tasks.categorical_toy import CategoricalToy

SAMPLES = (10, 100, 1000)  # K of Gumbel-Rao over the temperature
TEMPERATURES = 13  # of the curves
PARTS = 48  # of an edge, where the density is shown


def density(weights: Tensor, s: Tensor, temperature: float) -> Tensor:
    """Return the Concrete density at points of the simplex, with respect to the area of their first coordinates.

    ``weights``, (C,), are unnormalised probabilities, the points ``s`` are ``(..., C)`` (Maddison et al. 2017,
    definition 1).
    """
    log_s = s.log().unsqueeze(-2)
    of_log_s = Categorical.log_density(weights.log().expand_as(log_s), log_s, temperature)
    return (of_log_s - log_s.sum((-2, -1))).exp()


def densities() -> list[dict]:
    """Evaluate the density at every temperature of the figure."""
    points = ternary.centroids(PARTS)
    weights, s = torch.tensor(WEIGHTS, dtype=torch.float64), torch.tensor(points)
    return [
        {"temperature": at, "s1": x[0], "s2": x[1], "s3": x[2], "density": value}
        for at in DENSITIES
        for x, value in zip(points.tolist(), density(weights, s, at).tolist(), strict=True)
    ]


def row(samples: int, temperature: float, task: CategoricalToy, p: Tensor, draws: int, seed: int) -> dict[str, Any]:
    """Measure one gradient at probabilities ``p``, (C,): squared bias, summed variances, mean square error.

    ``samples`` = 1 is straight-through Gumbel-Softmax, more are Gumbel-Rao with so many.
    """
    name, options = ("st_gumbel", {}) if samples == 1 else ("gumbel_rao", {"draws": samples})
    found = deviation(name, options | {"temperature": temperature}, task, p.log().unsqueeze(0), draws, seed)
    bias2, variance, error2 = (float(x) for x in (found.bias.square(), found.variance, found.error.square()))
    measured = {"bias2": bias2, "error2": error2, "variance": variance, "mse": bias2 + variance}
    return {"estimator": name, "samples": samples, "temperature": temperature, **measured}


def over_temperature(task: CategoricalToy, draws: int, seed: int) -> list[dict]:
    """Measure at one point of the simplex, over the temperature."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    grid = np.geomspace(LOWEST, HIGHEST, TEMPERATURES).tolist()
    rows = []
    for samples in (1, *SAMPLES):
        rows += [row(samples, at, task, weights / weights.sum(), draws, seed) for at in grid]
        print(f"measured over the temperature, K = {samples}", file=sys.stderr, flush=True)
    return rows


def over_simplex(task: CategoricalToy, draws: int, points: int, seed: int) -> list[dict]:
    """Measure at ``points``^2 places of the simplex, at some temperatures."""
    rows = []
    for samples in (1, MAPPED_K):
        for at in MAPS:
            for p in torch.tensor(ternary.centroids(points)):
                where = dict(zip(("p1", "p2", "p3"), p.tolist(), strict=True))
                rows.append(row(samples, at, task, p, draws, seed) | where)
            print(f"measured over the simplex, K = {samples}, temperature {at:g}", file=sys.stderr, flush=True)
    return rows


def measure_all(config: dict[str, Any]) -> dict[str, study.Rows]:
    """Return the rows of the three parts, by name."""
    draws, seed = config["task"]["draws"], config["seeds"][0]
    task = make_task("categorical_toy", {"name": "exact"}, dtype=torch.float64, problem="quadratic")
    return {
        "density": densities(),
        "temperature": over_temperature(task, draws, seed),
        "simplex": over_simplex(task, draws_of_maps(config), config["task"]["points"], seed),
    }


def execute(config: dict[str, Any]) -> int:
    """Measure, write tables and figures, print the tables. Returns 0."""
    return study.conduct(config, measure_all)
