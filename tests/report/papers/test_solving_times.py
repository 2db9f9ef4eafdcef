"""Episodes until solved, with replicas that never did it and seeds that are fresh."""

import pytest
from folders import cells_of, configuration, write_run

from relax_exp.report.papers.solving_times import figure, solving_times, variant


def run(path, estimator, solved, seeds, lrs=(0.01,), state="done", steps=4000, **task):
    """A run whose replicas solve their environment after ``solved[lr][i]`` episodes, or have not after ``steps``."""
    options = {"name": estimator} if isinstance(estimator, str) else estimator
    task = {"name": "cartpole", "env": "CartPole-v0", "frames": None, "frame_skip": 4, "until_solved": True} | task
    config = configuration(task, options, seeds, list(lrs), steps=4000)
    rows = []
    for lr in lrs:
        for seed, at in zip(seeds, solved[lr], strict=True):
            values = {"return100": 195.0, "episodes": at or steps, "frames": 4 * steps, "solved_episodes": at}
            rows.append({"step": steps, "seed": seed, "lr": lr, **values})
    return write_run(path, config, rows, state)


def lines(path):
    table = solving_times(cells_of(path))
    return {(r[1], r[3], r[4]): dict(zip(table.headers, r, strict=True)) for r in table.rows if r}, table


def test_fresh_seeds_have_lines_of_their_own_and_who_never_solved_it_counts(tmp_path):
    published = {"name": "a2c", "advantage": "published_error"}
    run(tmp_path / "a", "a2c", {0.01: [400, 600, 500, 700]}, [0, 1, 100, 101])
    run(tmp_path / "b", published, {0.01: [1000, None], 0.003: [900, 1100]}, [0, 1], (0.01, 0.003))
    found, table = lines(tmp_path)
    assert found["a2c", "0.01", "0–1"]["mean episodes"] == "500 ± 196"
    assert found["a2c", "0.01", "100–101"]["mean episodes"] == "600 ± 196"
    censored = found["a2c, published advantage", "0.01", "0–1"]
    assert censored["mean episodes"].startswith("≥ 2500 ±") and censored["solved"] == "1 of 2"
    assert censored["watched to"] == "4,000" and censored["action taken"] == "4 times"
    assert found["a2c, published advantage", "0.003", "0–1"]["solved"] == "2 of 2"
    assert None in table.rows, "a rule between rates"
    record = next(r for r in table.records if not r["complete"])
    assert record["restricted mean"] == pytest.approx(2500) and record["seeds that solve it"] == 1


def test_a_run_that_goes_on_is_watched_until_now(tmp_path):
    run(tmp_path / "a", "relax", {0.01: [300, None]}, [0, 1], state="running", steps=350)
    (line,) = lines(tmp_path)[0].values()
    assert line["estimator"] == "relax ‡" and line["watched to"] == "350"


def test_runs_that_do_not_stop_have_no_such_table(tmp_path):
    run(tmp_path / "a", "relax", {0.01: [300, 200]}, [0, 1], until_solved=False)
    cells = cells_of(tmp_path)
    assert solving_times(cells) is None and figure(cells) is None


def test_the_figure_has_a_panel_for_each_pair_of_rates_and_a_curve_for_each_variant(tmp_path):
    run(tmp_path / "a", "a2c", {0.01: [400, 600], 0.003: [500, None]}, [0, 1], (0.01, 0.003))
    run(tmp_path / "b", {"name": "relax", "sampler": "published_error"}, {0.01: [400, 600]}, [0, 100])
    drawn = figure(cells_of(tmp_path))
    panels = [ax for ax in drawn.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["CartPole, rate 0.01", "CartPole, rate 0.003"]
    assert {ax.get_xlabel() for ax in panels} == {"episodes, each action 4 times"}
    assert [len(ax.lines) for ax in panels] == [2, 1]
    curve = panels[0].lines[0]
    assert curve.get_xdata().tolist() == [0, 400, 600, 600] and curve.get_ydata().tolist() == [1, 0.5, 0, 0]


def test_estimators_at_one_pair_of_rates_each_are_drawn_in_one_panel(tmp_path):
    run(tmp_path / "a", "a2c", {0.003: [400, 600]}, [0, 1], (0.003,))
    run(tmp_path / "b", {"name": "relax", "lr_scale": 0.3}, {0.01: [300, 500]}, [0, 1])
    drawn = figure(cells_of(tmp_path))
    (panel,) = drawn.axes
    assert panel.get_title() == "CartPole" and len(panel.lines) == 2
    said = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert said == ["A2C, rate 0.003", "RELAX, rates 0.01 and 0.003"]
    assert "two rates the first is the policy's" in drawn.legends[0].get_title().get_text().replace("\n", " ")
    run(tmp_path / "c", "a2c", {0.01: [400, 600]}, [0, 1])
    assert len(figure(cells_of(tmp_path)).axes) == 3, "one colour for two rates of A2C would tell nothing"


def test_names(tmp_path):
    run(tmp_path / "a", {"name": "relax", "sampler": "published_error"}, {0.01: [400]}, [0])
    assert variant(cells_of(tmp_path)[0]) == "relax, published sampler"
