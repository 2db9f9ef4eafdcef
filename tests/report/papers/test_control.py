"""Tasks with episodes: the table beside the paper's numbers, which runs count, and curves."""

import math

import numpy as np
import pytest
from folders import cells_of, configuration, tables, text_row, write_run

from relax_exp.config.plans import planned
from relax_exp.errors import ReportError
from relax_exp.report.figures.axes import over
from relax_exp.report.figures.curves import figures
from relax_exp.report.papers.control import rl

CONTINUOUS = {"name": "continuous", "env": "InvertedPendulum-v5", "threshold": None, "surrogate_updates": 5}
NONE = -87.3365478515625  # what is stored for a gradient without variance


def run(path, estimator, seeds=(0, 1), lr=0.01, ratio=1.0, solved=(300, 500), pace=100, task=(), state="done", **more):
    """A run of two evaluations, whose seed s uses ``pace`` (1 + s) frames a step and solves after so many episodes.

    variances: log-variance of both seeds at the first evaluation and at the second.
    """
    options = {"name": estimator, "lr_scale": ratio}
    task = {"name": "cartpole", "env": more.pop("env", "CartPole-v0"), "frames": None} | dict(task)
    variances, level = more.pop("variances", ((None, None), (None, None))), more.pop("level", 0.0)
    config = configuration(task, options, seeds, [lr], steps=1000, **more)
    rows = []
    for step, measured in zip((500, 1000), variances, strict=True):
        for seed in seeds:
            at = solved[seed]
            known = at is not None and at <= step
            values = {"return100": level + step / 10 + seed, "episodes": step, "frames": step * pace * (1 + seed)}
            values |= {"solved_episodes": at if known else None, "solved_frames": at * pace if known else None}
            rows.append({"step": step, "seed": seed, "lr": lr, **values, "grad/log_variance": measured[seed % 2]})
    return write_run(path, config, rows, state)


def table(path):
    """The lines by their names, each a dictionary by estimator."""
    it = rl(cells_of(path))
    return {(r[0], r[1]): dict(zip(it.headers[2:], r[2:], strict=True)) for r in it.rows if r is not None}, it


def test_our_numbers_stand_below_the_papers(tmp_path):
    run(tmp_path / "a", "a2c")
    run(tmp_path / "b", "relax", solved=(200, None))
    lines, it = table(tmp_path)
    assert lines["CartPole", "published, episodes to solve"] == {"a2c": "1152 ± 90", "relax": "472 ± 114"}
    half = 12.7062047 * 100 * math.sqrt(2) / math.sqrt(2)  # t(1, .975), s = 100 sqrt 2
    assert lines["CartPole-v0", "episodes to solve"] == {"a2c": f"400 ± {half:.0f}", "relax": "≥ 600 ± 784"}
    assert lines["CartPole-v0", "seeds that solve it"] == {"a2c": "2 of 2", "relax": "1 of 2"}
    assert lines["CartPole-v0", "return of the last 100"]["relax"] == f"100.5 ± {12.7062047 / 2:.1f}"
    (record,) = [r for r in it.records if (r["source"], r["estimator"]) == ("ours", "relax")]
    assert (record["seeds"], record["lr chosen by"], record["status"]) == ("0 1", "the only rate run", "done")


RULE = "best number of episodes to solve (where no rate solves it on all seeds: number of seeds that do) of 0.003, 0.01"


def rates(path):
    """The rates that were chosen for RELAX, and how."""
    lines, it = table(path)
    (record,) = [r for r in it.records if r["source"] == "ours" and r["estimator"] == "relax"]
    return lines["CartPole-v0", "rates (policy, ratio)"]["relax"], record["lr chosen by"]


def test_the_fewest_episodes_among_rates_at_which_all_seeds_solve_it(tmp_path):
    run(tmp_path / "a", "relax", ratio=0.1, solved=(700, 800), level=50)
    run(tmp_path / "b", "relax", ratio=1.0, solved=(100, None), level=90)
    run(tmp_path / "c", "relax", lr=0.003, ratio=1.0, solved=(600, 700))
    run(tmp_path / "d", "relax", lr=0.003, ratio=0.1, solved=(900, 900))
    lines, _ = table(tmp_path)
    assert lines["CartPole-v0", "episodes to solve"]["relax"].startswith("650 ±")
    assert rates(tmp_path) == ("0.003, 1", RULE)
    (figure,) = figures(cells_of(tmp_path)).values()
    assert len([line for line in figure.axes[0].lines if not line.get_label().startswith("_")]) == 1
    assert "where no rate solves it on all seeds" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_if_there_are_none_most_seeds_then_the_best_return(tmp_path):
    run(tmp_path / "a", "relax", ratio=0.1, solved=(None, None), level=90)
    run(tmp_path / "b", "relax", ratio=1.0, solved=(100, None), level=50)
    run(tmp_path / "c", "relax", lr=0.003, ratio=1.0, solved=(None, 900), level=60)
    assert rates(tmp_path) == ("0.003, 1", RULE)


def test_where_nobody_solves_it_the_best_return(tmp_path):
    for i, level in enumerate((0, 70, 30)):
        run(
            tmp_path / str(i),
            "relax",
            lr=(0.01, 0.003, 0.003)[i],
            ratio=(1, 1, 10)[i],
            solved=(None, None),
            level=level,
        )
    assert rates(tmp_path) == ("0.003, 1", RULE)


def measured(every, draws=100):
    return {"task": {"variance_every": every, "variance_draws": draws}, "eval_every": every or 50}


def test_runs_that_differ_in_what_they_measure_are_one_cell_and_their_seeds_count_once(tmp_path):
    run(tmp_path / "a", "a2c", **measured(None))
    run(tmp_path / "b", "a2c", **measured(60), variances=((2.0, 3.0), (4.0, 5.0)))
    run(tmp_path / "c", "a2c", seeds=(2,), solved={2: 400}, **measured(60, 20), variances=((1.0, 1.0), (3.0, 3.0)))
    (cell,) = cells_of(tmp_path)
    assert (cell.task, cell.estimator) == ("CartPole-v0", "a2c")
    assert [(r.seed, r.run.path.name) for r in cell.counted] == [(0, "b"), (1, "b"), (2, "c")]
    assert set(figures([cell])) == {"cartpole_CartPole-v0"}
    row = text_row(tables(tmp_path), "CartPole-v0", "a2c")
    assert (row["seeds"], row["mean log-variance"]) == ("3", "3.00 ± 2.48")  # means over the run: 3, 4, 2
    assert cells_of(tmp_path, by=["task.variance_every", "eval_every"])[0].task == "CartPole-v0, eval_every=50"


def test_a_run_that_is_done_counts_before_one_that_still_measures(tmp_path):
    run(tmp_path / "a", "a2c", **measured(None))
    run(tmp_path / "b", "a2c", **measured(60), variances=((2.0, 3.0), (4.0, 5.0)), state="running")
    (cell,) = cells_of(tmp_path)
    assert {r.run.path.name for r in cell.replicas} == {"a"} and cell.status == "done"


def test_what_is_not_only_measured_otherwise_is_refused(tmp_path):
    run(tmp_path / "a" / "1", "a2c", **measured(60))
    run(tmp_path / "a" / "2", "a2c", **measured(60))
    with pytest.raises(ReportError, match="seed 0 is there twice"):
        cells_of(tmp_path / "a")
    run(tmp_path / "b" / "1", "a2c", **measured(60))
    run(tmp_path / "b" / "2", "a2c", **measured(None), dtype="float64")
    with pytest.raises(ReportError, match=r"differ in .*dtype"):
        cells_of(tmp_path / "b")


def test_labels_leave_out_what_is_null_and_write_whole_numbers(tmp_path):
    run(tmp_path / "a", "a2c", task={"entropy": 0.0})
    run(tmp_path / "b", "a2c", task={"entropy": 0.01, "frames": 250000})
    run(tmp_path / "c", "a2c", task={"entropy": 0.01, "frames": None})
    labels = ["CartPole-v0, entropy=0.01, frames=250000", "CartPole-v0, entropy=0", "CartPole-v0, entropy=0.01"]
    assert sorted(cell.task for cell in cells_of(tmp_path)) == sorted(labels)
    assert "cartpole_CartPole-v0_entropy-0" in figures(cells_of(tmp_path))


def test_a_gradient_without_variance_is_a_share_of_the_seeds_and_left_out_of_means(tmp_path):
    run(tmp_path / "a", "arsm", variances=((1.0, NONE), (NONE, NONE)))
    run(tmp_path / "b", "a2c", variances=((5.0, 6.0), (7.0, 8.0)))
    _, ax = figures(cells_of(tmp_path))["cartpole_CartPole-v0"].axes
    a2c, arsm = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert (a2c.get_label(), arsm.get_label()) == ("A2C", "ARSM")
    np.testing.assert_allclose(a2c.get_ydata(), [5.5, 7.5])
    np.testing.assert_allclose(arsm.get_ydata(), [1.0])
    (foot,) = ax.child_axes
    np.testing.assert_allclose(foot.lines[0].get_ydata(), [0.5, 1.0])
    markdown = tables(tmp_path)
    assert text_row(markdown, "CartPole-v0", "a2c")["mean log-variance"].startswith("6.50 ±")
    assert text_row(markdown, "CartPole-v0", "arsm")["mean log-variance"] == "1.00 (1 of 2 seeds), none in 75%"
    lines, it = table(tmp_path)
    assert lines["CartPole-v0", "mean log-variance"]["arsm"] == "1.00 (1 of 2 seeds), none in 75%"
    assert [r["share without variance"] for r in it.records if "share without variance" in r] == [0.75]


def test_lax_is_shown_by_its_updates_and_an_environment_without_threshold_without_solving(tmp_path):
    run(tmp_path / "a", "a2c", task=CONTINUOUS)
    for updates in (1, 5, 25):
        run(
            tmp_path / f"lax{updates}",
            "lax",
            task=CONTINUOUS | {"surrogate_updates": updates},
            solved=(updates, updates),
        )
    run(tmp_path / "p", "a2c", task=CONTINUOUS | {"env": "Pendulum-v1"}, solved=(None, None))
    lines, it = table(tmp_path)
    assert it.headers[2:] == ["a2c", "lax", *(f"lax (surrogate_updates={n})" for n in (1, 5, 25))]
    assert list(lines["InvertedPendulum-v5", "episodes to solve"].values())[1:] == ["–", "1 ± 0", "5 ± 0", "25 ± 0"]
    assert lines["InvertedPendulum", "published, episodes to solve"]["lax"] == "2067 ± 412"
    names = [name for env, name in lines if env == "Pendulum-v1"]
    assert names == ["return of the last 100", "rates (policy, ratio)", "frames, seeds"]
    assert list(lines["Pendulum-v1", names[0]].values())[1:] == ["–", *["not run"] * 3]
    assert text_row(tables(tmp_path), "Pendulum-v1", "done")["seeds that solve it"] == "–"
    unsolved = CONTINUOUS | {"env": "Pendulum-v1", "threshold": -200.0}
    run(tmp_path / "other" / "q", "a2c", task=unsolved, solved=(None, None))
    lines, _ = table(tmp_path / "other")
    assert lines["Pendulum-v1", "seeds that solve it"]["a2c"] == "0 of 2"


def test_environments_without_published_numbers_and_estimators_that_did_not_run(tmp_path):
    run(tmp_path / "a", "a2c")
    run(tmp_path / "b", "rloo", env="Acrobot-v1")
    lines, _ = table(tmp_path)
    assert lines["Acrobot-v1", "episodes to solve"] | {"rloo": ""} == {"a2c": "not run", "relax": "not run", "rloo": ""}
    assert ("Acrobot", "published, episodes to solve") not in lines
    assert rl([]) is None


def test_curves_over_frames_cover_what_all_seeds_have(tmp_path):
    run(tmp_path / "a", "a2c", task={"frames": 10**6})
    (cell,) = cells_of(tmp_path)
    # Seed 0: 50 to 100 over frames of 50,000 to 100,000; seed 1: twice as many.
    frames, values = over(cell, "return100", "frames")
    assert frames[0] == frames[-1] == 100_000 and values.shape[1] == 2
    np.testing.assert_allclose(values[0], [100, 51])
    (figure,) = figures([cell]).values()
    assert [ax.get_xlabel() for ax in figure.axes] == ["episodes"]  # no panel for what was not measured


def test_curves_of_runs_without_a_limit_of_frames_are_over_episodes(tmp_path):
    run(tmp_path / "a", "arsm")
    (cell,) = cells_of(tmp_path)
    (figure,) = figures([cell]).values()
    (ax,) = figure.axes
    assert ax.get_xlabel() == "episodes"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [500, 1000])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [50.5, 100.5])


def test_the_plans_measure_the_variance_where_arsms_figure_shows_it_and_try_lax_with_its_published_updates():
    runs = [r.config for r in planned("rl_discrete", "cpu") if not r.config["task"]["frames"]]
    every = {(c["estimator"]["name"], *c["lrs"]): (c["task"]["variance_every"], c["eval_every"]) for c in runs}
    shown = {("a2c", 0.01), ("relax", 0.01), ("arsm", 0.03)}
    assert every.keys() == {(name, lr) for name in ("a2c", "relax", "arsm") for lr in (0.01, 0.03)}
    assert {key for key, value in every.items() if value == (60, 60)} == shown
    assert {value for key, value in every.items() if key not in shown} == {(None, 50)}
    runs = [r.config for r in planned("rl_continuous", "cpu", ["task=continuous"])]
    for env, scale, lr, steps in (("InvertedPendulum-v5", 1, 0.01, 120), ("Pendulum-v1", 0.01, 0.005, 160)):
        those = [c for c in runs if c["task"]["env"] == env]
        assert {(c["task"]["reward_scale"], *c["lrs"], c["steps"], len(c["seeds"])) for c in those} == {
            (scale, lr, steps, 5)
        }
        ours = [c for c in those if c["task"]["surrogate_objective"] == "batch"]
        updates = [c["task"]["surrogate_updates"] for c in ours if c["estimator"]["name"] == "lax"]
        assert updates == [1, 5, 25] and len(ours) == 4
        assert len(those) == (6 if env.startswith("Inverted") else 4), "there with the published objective too"
