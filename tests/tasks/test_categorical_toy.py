"""Categorical toy problems: exact numbers, replicas, gradient descent, the temperature study."""

import json
import math

import pytest
import torch
from running import beside_and_alone, resolve
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.errors import ConfigError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.studies import temperature
from relax_exp.tasks.categorical_toy import CategoricalToy, losses
from relax_exp.training.replicas import Replicas

RELAX = {"name": "relax", "surrogate": "network", "depth": 2, "width": 10, "lr_scale": 1e-3}
ANNEALED = {"name": "concrete", "schedule": "annealed", "temperature": 1.0, "minimum": 0.5, "rate": 0.1}
ESTIMATORS = [
    {"name": "reinforce"},
    {"name": "rloo"},
    {"name": "ars"},
    {"name": "arsm"},
    {"name": "st_gumbel"},
    ANNEALED | {"anneal_every": 2},
    {"name": "rebar"},
    RELAX,
    RELAX | {"surrogate": "relaxed"},
    {"name": "unordered"},
    {"name": "exact"},
]


def make(estimator=None, problem="cos", **options) -> CategoricalToy:
    estimator = estimator or {"name": "exact"}
    return make_task(
        "categorical_toy", estimator, problem=problem, **{"dtype": torch.float64, "variance_draws": 20} | options
    )


def stacked(task, *logits):
    model = task.init(stream(0, "init"))
    return tree_map(lambda *x: torch.stack(x), *(model._replace(params={"logit": it.unsqueeze(0)}) for it in logits))


def test_the_losses_are_the_published_ones():
    arsm, cos = losses("arsm", dtype=torch.float64), losses("cos", dtype=torch.float64)
    assert arsm.tolist() == pytest.approx([-(0.5 + z / 900) for z in range(1, 31)])
    assert -arsm.min().item() == pytest.approx(0.5 + 1 / 30)  # "maximum as 0.533"
    assert cos.tolist() == pytest.approx([1, 0.5403023, -0.4161468, -0.9899925])
    assert len(losses("arsm", 1000)) == 1000


@pytest.mark.parametrize("problem, categories", [("arsm", None), ("cos", 4), ("cos", 7), ("quadratic", None)])
def test_exact_numbers_are_those_of_enumeration(problem, categories):
    task = make(problem=problem, categories=categories)
    logits = torch.randn(3, task.event_shape[1], generator=stream(1, "x"), dtype=torch.float64)
    rows = task.evaluate(stacked(task, *logits), [0, 1, 2], 5, False)
    states = torch.eye(task.event_shape[1], dtype=torch.float64).unsqueeze(1)
    f = task.loss(states).tolist()
    for row, logit in zip(rows, logits, strict=True):
        weights = [math.exp(x) for x in logit.tolist()]
        p = [w / sum(weights) for w in weights]
        loss = sum(a * b for a, b in zip(p, f, strict=True))
        assert row["loss"] == pytest.approx(loss, rel=1e-12)
        assert row["excess"] == pytest.approx(loss - min(f), rel=1e-9)
        assert row["p_best"] == pytest.approx(p[f.index(min(f))], rel=1e-12)


def test_the_excess_keeps_its_digits_in_single_precision():
    task = make(problem="arsm", dtype=torch.float32)
    logits = torch.zeros(30)
    logits[-1] = 25.0
    (row,) = task.exact(stacked(task, logits))
    assert row["excess"] == pytest.approx(math.exp(-25) * sum(z / 900 for z in range(1, 30)), rel=1e-4)


def test_gradient_descent_follows_the_exact_gradient():
    task = make(problem="arsm", optimizer="sgd")
    replicas = Replicas(task, [0], [1.5])
    logits, f = torch.zeros(30, dtype=torch.float64), losses("arsm", dtype=torch.float64)
    for _ in replicas.advance(20):
        p = logits.softmax(-1)
        logits = logits - 1.5 * p * (f - p @ f)
        torch.testing.assert_close(replicas.state.model.params["logit"][0, 0], logits)
    assert not any(leaf.any() for leaf in tree_leaves(replicas.state.moments))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e["name"] + e.get("surrogate", ""))
def test_replicas_equal_the_runs_made_alone(estimator):
    for problem in "arsm", "cos":
        task = make(estimator, problem, categories=5, batch_size=2)
        together, alone = beside_and_alone(task, (1.0, 0.1), 12)
        values = [Replicas(task, [4], [1.0]).task.evaluate(it.state.model, seeds, 1, False) for it, seeds in
                  ((together, [3, 3, 4, 4]), (alone, [4]))]  # fmt: skip
        assert values[0][2] == pytest.approx(values[1][0], rel=1e-8, abs=1e-12)


def test_a_thousand_categories():
    task = make({"name": "ars"}, "arsm", categories=1000)
    assert len(list(Replicas(task, [0, 1], [1.0]).advance(2))) == 2
    with pytest.raises(ConfigError, match="at most 362 of them; use ars"):
        resolve("task=categorical_toy estimator=arsm task.categories=1000")


def test_configuration():
    resolved = resolve("task=categorical_toy estimator=relax")
    assert resolved["task"] == {
        "name": "categorical_toy",
        "problem": "arsm",
        "categories": None,
        "optimizer": "sgd",
        "variance_draws": 100,
    }
    assert (resolved["lrs"], resolved["estimator"]["lr_scale"]) == ([1], 1e-3)
    for wrong, words in {"estimator=disarm": "not for categorical", "task.problem=sin": "one of arsm, cos"}.items():
        with pytest.raises(ConfigError, match=words):
            resolve(f"task=categorical_toy estimator=rloo {wrong}")
    with pytest.raises(ConfigError, match="> 1"):
        resolve("task=categorical_toy estimator=rloo task.categories=1")


def test_the_bias_is_that_of_an_integral():
    """Two categories: z_1 - z_0 is logistic, so the expected relaxed loss is a one-dimensional integral."""
    task, at = make(categories=2), 0.7
    logits = torch.tensor([[0.4, -0.5]], dtype=torch.float64)
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    weight = torch.sigmoid((logits[0, 1] - logits[0, 0] + torch.logit(u)) / at)
    slope = (-weight.sin() * weight * (1 - weight) / at).mean()
    p = logits.softmax(-1)[0]
    exact = p[0] * p[1] * (math.cos(1) - 1)
    got = temperature.measure("concrete", {"temperature": at}, task, logits, 200_000, 0)
    assert got["bias"] == pytest.approx(abs(slope - exact).item() / abs(exact).item(), abs=5 * got["error"])
    assert got["bias"] > 10 * got["error"]
    assert got["rmse"] == pytest.approx(math.hypot(got["bias"], got["sd"]))


def test_unbiased_estimators_show_no_bias():
    task, logits = make(problem="arsm", categories=5), torch.randn(1, 5, generator=stream(0, "x"), dtype=torch.float64)
    for name, options in {"rloo": {}, "straight_through": {"temperature": 1.0}}.items():  # the loss is linear
        got = temperature.measure(name, options, task, logits, 40_000, 0)
        assert got["bias"] <= 3 * got["error"] and got["cosine"] > 0.99
    biased = [temperature.measure("concrete", {"temperature": at}, task, logits, 40_000, 0) for at in (0.5, 5)]
    assert biased[0]["bias"] < biased[1]["bias"] and biased[0]["sd"] > biased[1]["sd"]


def test_the_temperature_study_leaves_tables_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    resolved = resolve("task=temperature task.draws=2000 task.points=3 steps=10 eval_every=5 seeds=[0,1] out=run")
    assert temperature.execute(resolved) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"table.md", "table.json", "tradeoff.png", "tradeoff.svg", "schedules.png", "schedules.svg"} <= names
    content = json.loads((tmp_path / "run" / "table.json").read_text())
    assert {row["estimator"] for row in content["gradient"]} == {*temperature.STUDIED, *temperature.UNBIASED}
    assert {row["step"] for row in content["training"]} == {5, 10}
    before = (tmp_path / "run" / "table.md").stat().st_mtime_ns
    assert temperature.execute(resolved) == 0
    assert (tmp_path / "run" / "table.md").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().err
