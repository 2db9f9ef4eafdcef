"""``track``: variances of several estimators along one trajectory, which they do not disturb."""

import math
from dataclasses import asdict

import pytest
import running
import torch
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.config.resolve import task_options
from relax_exp.data import load
from relax_exp.report import runs
from relax_exp.report.figures import tracked
from relax_exp.report.groups import Cell
from relax_exp.runs.build import make_task
from relax_exp.tasks.toy import Toy
from relax_exp.tasks.tracked import Tracked
from relax_exp.training.replicas import Replicas

SMALL = {"depth": 1, "width": 5}
OTHERS = {
    "reinforce": {"name": "reinforce"},
    "rebar": {"name": "rebar", "noise": "tied"},
    "nvil": {"name": "nvil"},
    "disarm": {"name": "disarm"},
    "rloo": {"name": "rloo", "samples": 3},
    "concrete": {"name": "concrete"},
}


def toy(estimator):
    return make_task("toy", estimator, variance_draws=200, dtype=torch.float64)


def vae(estimator):
    data = load("digits", binarize="dynamic")
    return make_task(
        "vae", estimator, data, model="linear2", latents=4, batch_size=6, variance_draws=20, dtype=torch.float64
    )


def test_bounds_are_compiled_as_without_probes(monkeypatch):
    task, compiled = vae(OTHERS["rebar"]), []
    monkeypatch.setattr(task, "compile", lambda: compiled.append(True))
    Tracked(task, "rebar", {}).compile()
    assert compiled == [True]


@pytest.mark.parametrize("make", [toy, vae])
def test_probes_tune_and_the_run_stays_what_it_is(make):
    own = {"name": "relax", "noise": "tied", **SMALL}
    alone = Replicas(make(own), [0, 1], [1e-3])
    ridden = Replicas(Tracked(make(own), "relax", {k: make(v) for k, v in OTHERS.items()}), [0, 1], [1e-3])
    before = ridden.state.model
    for replicas in (alone, ridden):
        for _ in replicas.advance(5):
            pass
    for left, right in zip(tree_leaves(alone.state.model.params), tree_leaves(ridden.state.model.params), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    for name in ("rebar", "nvil"):
        moved = zip(tree_leaves(before.tuning[name]), tree_leaves(ridden.state.model.tuning[name]), strict=True)
        assert any(not torch.equal(a, b) for a, b in moved), name

    rows = ridden.task.evaluate(ridden.state.model, [0, 1], 5, False)
    plain = alone.task.evaluate(alone.state.model, [0, 1], 5, False)
    for row, other in zip(rows, plain, strict=True):
        assert row["track/relax/log_variance"] == row["grad/log_variance"] == pytest.approx(other["grad/log_variance"])
        gap = row["track/rloo/log_variance_x_evaluations"] - row["track/rloo/log_variance"]
        assert gap == pytest.approx(math.log(3))
        assert {f"track/{name}/log_variance" for name in OTHERS} <= set(row)


def test_a_probe_has_a_rate_of_its_own():
    """A probe with lr_scale 0 stays as it is, another moves, whatever the scale of the run's estimator is."""
    probes = {
        "rebar": toy(OTHERS["rebar"] | {"lr_scale": 0.0}),
        "relax": toy({"name": "relax", "lr_scale": 2.0, **SMALL}),
    }
    replicas = Replicas(Tracked(toy({"name": "nvil", "lr_scale": 0.5}), "nvil", probes), [0], [1e-3])
    before = replicas.state.model.tuning
    list(replicas.advance(1))
    moved = {
        name: max((a - b).abs().max().item() for a, b in zip(*map(tree_leaves, (before[name], after)), strict=True))
        for name, after in replicas.state.model.tuning.items()
    }
    assert moved["rebar"] == 0
    assert moved["relax"] == pytest.approx(2e-3, rel=0.01) and moved["nvil"] == pytest.approx(5e-4, rel=0.01)


def test_a_probe_is_measured_like_a_run_of_its_own():
    """At the same parameters and tuning, the tracked variance is that which the estimator's own task measures."""
    task = Tracked(toy({"name": "relax", **SMALL}), "relax", {"reinforce": toy(OTHERS["reinforce"])})
    replicas = Replicas(task, [3], [1e-2])
    for _ in replicas.advance(3):
        pass
    row = task.evaluate(replicas.state.model, [3], 3, False)[0]
    own = toy(OTHERS["reinforce"]).variance(task.of(replicas.state.model, "reinforce"), [3], 3)[0]
    assert row["track/reinforce/log_variance"] == own["grad/log_variance"]


def test_figure_has_a_line_for_each_tracked_estimator(tmp_path):
    rows = {
        step: {f"track/{n}/log_variance{x}": -step / 10 for n in ("relax", "rebar") for x in ("", "_x_evaluations")}
        for step in (10, 20, 30)
    }
    run = runs.Run(tmp_path, {"task": {"name": "toy"}, "estimator": {"name": "relax"}, "steps": 30}, {}, [])
    cell = Cell("toy", "toy", "relax", "relax", 0.01, (runs.Replica(run, 0, 0.01, runs.DONE, None, rows),))
    assert tracked.names(cell) == ["rebar", "relax"]
    figure = tracked.figure(cell)
    assert [len([li for li in ax.lines if li.get_label()[0] != "_"]) for ax in figure.axes] == [2, 2]


def test_tracked_variances_are_in_the_table_and_on_the_console(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    line = "task=toy estimator=relax track=[reinforce] steps=4 eval_every=2 task.variance_draws=10 compile=false out=a"
    assert running.execute(line) == 0
    out, err = capfd.readouterr()
    assert "track/reinforce/log_variance" in err
    (row,) = [
        line for line in out.splitlines() if line.startswith("| toy problem, t = 0.499 | relax") and "reinforce" in line
    ]
    assert "## Variances along the trajectory" in out and row.count("|") == 7


def test_a_task_without_variances_refuses_to_track(monkeypatch):
    from relax_exp.errors import SettingError
    from relax_exp.runs.build import build_task
    from relax_exp.tasks.base import Task

    monkeypatch.setattr(Toy, "variance", Task.variance)
    config = {
        "task": {"name": "toy", **asdict(task_options("toy"))},
        "estimator": {"name": "reinforce"},
        "track": {"rloo": {"name": "rloo"}},
    }
    with pytest.raises(SettingError, match="measures no variance"):
        build_task({**config, "batch_size": 1, "dtype": "float32"}, "cpu")


def test_the_run_keeps_the_course_of_its_learning_rate():
    """In the first epoch of a warm-up the parameters move a thousandth of the rate, and tuning parameters all of it."""
    data = load("digits", binarize="static")
    given = {"layers": 1, "variables": 2, "categories": 3, "hidden": [], "batch_size": 90, "variance_draws": 3}
    own = {"name": "rebar", "warmup": 0}
    made = [
        make_task("categorical_vae", own, data, dtype=torch.float64, warmup_epochs=2, cosine_epochs=5, **given)
        for _ in range(2)
    ]
    probe = make_task("categorical_vae", {"name": "nvil"}, data, dtype=torch.float64, **given)
    alone, ridden = Replicas(made[0], [0], [1e-2]), Replicas(Tracked(made[1], "rebar", {"nvil": probe}), [0], [1e-2])
    before = tree_map(torch.clone, alone.state.model)
    for replicas in (alone, ridden):
        list(replicas.advance(1))
    for first, left, right in zip(
        *map(tree_leaves, (before.params, alone.state.model.params, ridden.state.model.params)), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
        assert (left - first).abs().max() < 1.01e-5
    for first, after in zip(*map(tree_leaves, (before.tuning, alone.state.model.tuning)), strict=True):
        assert float((after - first).abs().max()) == pytest.approx(1e-2, rel=0.05)
