"""Evaluating all replicas at once gives the numbers of one after the other."""

import pytest
from digits import digits

from relax_exp.runs.build import make_task
from relax_exp.tasks import stacked_evaluation, vae
from relax_exp.tasks.stacked_evaluation import Stacked
from relax_exp.training.replicas import Replicas

RELAX = {"name": "relax", "surrogate": "network", "width": 4, "depth": 1}


def tasks():
    small = {"batch_size": 4, "variance_draws": 12}
    yield make_task("vae", RELAX, digits("static"), latents=3, **small)
    yield make_task("vae", {"name": "rebar"}, digits("dynamic"), model="linear2", latents=3, **small)
    shape = {"layers": 1, "variables": 2, "categories": 3, "hidden": []}
    yield make_task("categorical_vae", {"name": "rebar"}, digits("static"), **shape, **small)
    halves = {"variables": 3, "test_samples": 70}
    yield make_task("structured", {"name": "rebar"}, digits("dynamic"), **halves, **small)


@pytest.mark.parametrize("task", list(tasks()), ids=["static", "dynamic", "categorical", "structured"])
def test_all_at_once_equals_one_after_the_other(task, monkeypatch):
    monkeypatch.setattr(vae, "BOUND_IMAGES", 105)  # the last pass is not whole
    monkeypatch.setattr(stacked_evaluation, "ROWS_AT_ONCE", 3 * 100 * 20)
    task.tested = task.valid[:50]
    replicas = Replicas(task, [0, 1, 2], [0.1])
    list(replicas.advance(5))
    model, seeds = replicas.state.model, [0, 1, 2]
    best = {k: v.clone() for k, v in model.params.items()}
    best["decoder.0.bias"][1] += 0.1
    plain = task.evaluate(model, seeds, 5, False), task.test(model.params, best, seeds)
    task.stacked = Stacked(task, vae.BLOCK)
    stacked = task.evaluate(model, seeds, 5, False), task.test(model.params, best, seeds)
    for expected, got in zip(plain, stacked, strict=True):
        assert [list(row) for row in got] == [list(row) for row in expected]
        assert got == [pytest.approx(row, rel=1e-4) for row in expected]
    tested = stacked[1]
    assert [row["test/elbo"] == row["test/elbo_best"] for row in tested] == [True, False, True]
