"""Gradients of frozen policies: their table, and that no other table takes them for policies that learn."""

from pathlib import Path

from folders import configuration, write_run

from relax_exp.report.archive import read
from relax_exp.report.report import Report
from relax_exp.report.runs import find_folders, read_run


def run(path, estimator, variances, signal, level=50.0):
    task = {"name": "cartpole", "env": "CartPole-v0", "frames": None, "freeze_at": level}
    config = configuration(task, estimator, [0, 1], steps=1000)
    rows = [
        {"step": 1000, "seed": seed, "lr": 0.01, "return": 50.0 + seed, "return100": 50.0, "episodes": 1000,
         "grad/log_variance": variance, "grad/log_signal": signal}
        for seed, variance in zip((0, 1), variances, strict=True)
    ]  # fmt: skip
    return write_run(path, config, rows)


def test_variances_are_shown_by_themselves_and_relative_to_the_gradient(tmp_path):
    run(tmp_path / "a", "relax", (8.0, 9.0), 5.0)
    run(tmp_path / "b", {"name": "a2c", "advantage": "published_error"}, (16.0, 17.0), 13.0)
    report = Report([read_run(folder) for folder in find_folders([tmp_path])])
    (table,) = [table for table in report.pivots if table.name == "frozen"]
    lines = {row[1]: dict(zip(table.headers[2:], row[2:], strict=True)) for row in table.rows}
    assert lines["mean return"]["relax"].startswith("50.5 ±")
    assert lines["log-variance"] == {"relax": "8.50 ± 6.35", "a2c, published advantage": "16.50 ± 6.35"}
    relative = lines["relative to the squared mean"]
    assert relative["relax"] == relative["a2c, published advantage"] == "3.50 ± 6.35"
    assert "rl" not in [table.name for table in report.pivots]


def test_the_committed_policies_give_two_panels_and_no_learning_curves():
    report = Report(read(Path(__file__).parents[3] / "results" / "rl_frozen")[1])
    drawn = report.figures()
    assert [*drawn] == ["frozen"]
    axes = drawn["frozen"].axes
    assert [ax.get_title() for ax in axes] == ["log-variance", "relative to the squared mean"]
    assert [len(ax.containers) for ax in axes] == [4, 4]  # estimators
    row = next(line for line in report.markdown().splitlines() if "frozen at a return of 195" in line)
    assert "of 5" not in row.split("|")[7]  # a policy that does not learn solves nothing
