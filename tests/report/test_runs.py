"""Run folders, read: where they are found, damage, replicas, series."""

import json

import numpy as np
import pytest
from folders import configuration, runs_of, toy_run, write_run

from relax_exp.errors import ReportError
from relax_exp.report.runs import read_run, series


def test_finds_runs_once_wherever_the_path_points(tmp_path):
    a = toy_run(tmp_path / "runs" / "toy" / "a")
    b = toy_run(tmp_path / "runs" / "toy" / "b", "rebar")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "config.yaml").write_text("no: run")
    runs = runs_of(tmp_path, a, tmp_path / "runs")
    assert [run.path for run in runs] == [a, b]
    assert [run.estimator for run in runs] == ["relax", "rebar"]
    with pytest.raises(ReportError, match="no such folder"):
        runs_of(tmp_path / "nowhere")


def test_torn_last_line_is_left_out_and_damage_is_named(tmp_path):
    path = toy_run(tmp_path / "a")
    whole = read_run(path).rows
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 110, "seed": 0, "lr"')
    assert read_run(path).rows == whole
    (path / "metrics.jsonl").write_text("{torn\n" + json.dumps(whole[0]) + "\n")
    with pytest.raises(ReportError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_run(path)
    (path / "metrics.jsonl").unlink()
    assert read_run(path).rows == []
    (path / "meta.json").write_text('{"status"')
    with pytest.raises(ReportError, match=r"cannot read .*meta\.json"):
        read_run(path)
    (path / "config.yaml").write_text("estimator: {name: relax}")
    with pytest.raises(ReportError, match=r"cannot read .*config\.yaml"):
        read_run(path)


def test_series_has_nan_for_null_and_missing(tmp_path):
    rows = [
        {"step": 10, "seed": 0, "lr": 0.01, "x": 1.0},
        {"step": 10, "seed": 1, "lr": 0.01, "x": None},
        {"step": 20, "seed": 0, "lr": 0.01, "x": [2.0, 4.0]},
    ]
    task = {"name": "toy", "t": 0.4}
    run = read_run(write_run(tmp_path / "a", configuration(task, "relax", [0, 1]), rows))
    steps, values = series(run.replicas(), "x")
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(values, [[1, np.nan], [3, np.nan]])
    assert series(run.replicas(), "x", until=10)[1].shape == (1, 2)
    assert series([], "x")[1].shape == (0, 0)


def test_replicas_without_meta_entries_are_the_grid(tmp_path):
    path = toy_run(tmp_path / "a", seeds=(3, 4), lrs=(0.1, 0.2))
    (path / "meta.json").write_text(json.dumps({"status": "interrupted"}))
    replicas = read_run(path).replicas()
    assert [(r.seed, r.lr, r.status) for r in replicas] == [(s, lr, "interrupted") for s in (3, 4) for lr in (0.1, 0.2)]
    assert all(r.last_step == 100 for r in replicas)
