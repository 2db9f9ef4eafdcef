"""Continuous toy problems: closed forms against quadrature, estimators against closed forms, what may not be asked."""

import math

import numpy as np
import pytest
import torch
from running import beside_and_alone, resolve
from torch.func import grad
from torch.utils._pytree import tree_map

from relax_exp import estimators, testing
from relax_exp.enumeration import checks
from relax_exp.errors import ConfigError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.lax_toy import PROBLEMS, LaxToy
from relax_exp.training.replicas import Replicas

LAX = {"name": "lax", "depth": 2, "width": 10, "activation": "tanh"}
ESTIMATORS = [{"name": "reinforce"}, {"name": "a2c", "depth": 1, "width": 4, "activation": "tanh"}, LAX]
PATHWISE = {"name": "reparameterization"}
F64 = {"dtype": torch.float64}


def make(estimator=None, problem="step", **options) -> LaxToy:
    return make_task(
        "lax_toy", estimator or {"name": "reinforce"}, problem=problem, **{"variance_draws": 20} | F64 | options
    )


def integral(f, mean: float, std: float, points: int = 400_001) -> float:
    """E f(b), b ~ N(mean, std^2), by the midpoint rule with a point at no jump."""
    x = np.linspace(mean - 12 * std, mean + 12 * std, points)
    density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return float((f(torch.from_numpy(x)).numpy() * density).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.3, 0.2), (-2.0, 2.5)])
def test_closed_forms_are_the_integrals(problem, mean, std):
    task = make(problem=problem, t=0.7)
    parameters = torch.tensor([[mean, math.log(std)]], **F64)
    expected = integral(lambda x: task.loss(x.unsqueeze(-1)), mean, std)
    assert float(task.excess(parameters)) + task.problem.infimum == pytest.approx(expected, abs=2e-5)


def test_the_excess_keeps_its_digits_in_single_precision():
    mean, std = 1e-5, 1e-5
    for problem, exact in {"quadratic": 2e-10, "cosine": 1e-10}.items():
        parameters = torch.tensor([[mean, math.log(std)]])
        assert float(make(problem=problem, t=0.0).excess(parameters)) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("estimator", [*ESTIMATORS, PATHWISE], ids=lambda e: e["name"])
def test_mean_gradients_are_those_of_the_closed_form(problem, estimator):
    """But for reparameterisation of the step, whose jump it does not see."""
    task = make(estimator, problem, latents=2)
    parameters = torch.tensor([[0.4, -0.3], [1.5, 0.2]], **F64)
    exact = grad(lambda p: task.excess(p))(parameters).flatten()
    model = task.init(stream(0, "init"))._replace(params={"logit": parameters})
    state = checks.perturbed(task.estimator, stream(1, "state"))
    tuning = {k: state[k] for k in model.tuning}

    def one(noise):
        return task._estimate(model, tuning, noise).grad.mean(0).flatten()

    verdict = checks.compare(one, task.noise_shapes(), exact, 100_000, stream(2, "noise"), 10_000)
    limit = testing.threshold(4 * len(PROBLEMS) * 4)
    assert (verdict.largest_z > limit) == (problem == "step" and estimator is PATHWISE)


def test_gradient_descent_on_the_exact_gradient_reaches_the_optimum_that_evaluations_report():
    for problem in PROBLEMS:
        task = make(problem=problem)
        near = torch.tensor([[[1.0 + 1e-3, -9.0]], [[0.0, 0.0]]], **F64)
        models = tree_map(lambda x: torch.stack([x, x]), task.init(stream(0, "init")))._replace(params={"logit": near})
        best, start = task.evaluate(models, [0, 1], 3, False)
        assert best["excess"] < 1e-5 and best["loss"] == pytest.approx(task.problem.infimum, abs=1e-5)
        assert start["excess"] == pytest.approx(float(task.excess(near[1]))) and start["excess"] > 0.3
        assert (start["mean"], start["std"]) == (0.0, 1.0)
        assert {"grad/log_variance", "grad/mean_log_variance"} <= set(start)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e["name"])
def test_replicas_equal_the_runs_made_alone(estimator):
    task = make(estimator, batch_size=2)
    beside_and_alone(task, (0.1, 0.01), 12)


def test_lax_learns_the_step_and_ends_with_less_variance_than_the_score_function():
    """Both at the parameters that LAX reached, so that only the control variate differs."""
    replicas = Replicas(make(LAX, batch_size=5, variance_draws=2000), [0, 1], [0.01])
    list(replicas.advance(400))
    model = replicas.state.model
    rows = replicas.task.evaluate(model, [0, 1], 400, True)
    plain = make(batch_size=5, variance_draws=2000).variance(model._replace(tuning={}), [0, 1], 400)
    for row, reference in zip(rows, plain, strict=True):
        assert row["excess"] < 0.6
        assert row["grad/log_variance"] < reference["grad/log_variance"] - 0.5


def test_configuration():
    resolved = resolve("task=lax_toy estimator=lax")
    assert resolved["task"]["problem"] == "quadratic" and resolved["estimator"]["activation"] == "tanh"
    assert resolve("task=lax_toy estimator=reparameterization task.problem=cosine")
    with pytest.raises(ConfigError, match=r"task\.problem=step forbids: use one of reinforce, a2c, lax"):
        resolve("task=lax_toy estimator=reparameterization task.problem=step")
    with pytest.raises(ConfigError, match="relax is not for gaussian variables"):
        resolve("task=lax_toy estimator=relax")
    with pytest.raises(ConfigError, match="one of quadratic, cosine, step"):
        resolve("task=lax_toy estimator=lax task.problem=cos")
    assert set(estimators.names("gaussian")) == {"reinforce", "a2c", "reparameterization", "lax"}
